"""Runs every program of this folder in a process of its own that has two emulated devices.

A `program_*.py` is an ordinary pytest file of an ordinary PyTorch user. One can be run by hand:

    elara run --local 2 --device-memory 2GiB -- python -m pytest tests/remoting/programs/program_amp.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remoting.harness import ROOT, DeviceServers

HERE = Path(__file__).parent
ATTACHED = sorted(path.stem for path in HERE.glob("program_*.py"))
# These begin without an attachment and make their own when they want one.
UNATTACHED = sorted(path.stem for path in HERE.glob("late_*.py"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServers]:
    with DeviceServers(tmp_path_factory.mktemp("devices"), devices=2, memory=2 << 30) as running:
        yield running


@pytest.mark.parametrize("program", ATTACHED)
def test_program_on_attached_devices(program: str, servers: DeviceServers) -> None:
    run(program, servers.environment)


@pytest.mark.parametrize("program", UNATTACHED)
def test_program_that_begins_without_a_device(program: str, tmp_path: Path) -> None:
    run(program, {**os.environ, "ELARA_RUNTIME_DIR": str(tmp_path)})


def run(program: str, environment: dict[str, str]) -> None:
    """Run one program's tests; its output is the failure's text."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300"]
    # The native side spins between small operators when it has more threads than a busy machine has cores.
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*command, str(HERE / f"{program}.py")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
