"""The short form of `make sanitize`: a device server with sanitizers under hostile clients, and both ends' threads."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.remoting.harness import ON_CUDA
from tests.remoting.sanitize import build, suites

# What breaks the protocol, what continues a session, and operators of each kind.
SUITES = (
    "tests/remoting/server/test_hostility.py",
    "tests/remoting/server/test_continuing.py",
    "tests/remoting/server/test_trust.py",
    "tests/remoting/server/test_memory.py",
)


@pytest.mark.timeout(600)
def test_both_ends_of_a_session_under_many_threads_and_cuts() -> None:
    done = subprocess.run(
        [str(build.build_link_threads()), "40"],
        env={**os.environ, **build.THREADS_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert "before the node was lost" in done.stdout


@pytest.mark.skipif(ON_CUDA, reason="the sanitized device server is an emulated one")
@pytest.mark.timeout(900)
def test_a_device_server_with_sanitizers_under_hostile_clients() -> None:
    outcome = suites.run(build.build_server(), SUITES, seconds=600)
    assert outcome.clean, outcome
