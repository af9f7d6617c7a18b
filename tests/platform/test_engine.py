"""The tests' own Docker engine: found or started, and told of where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import docker
from tests.support.docker import Engine


def test_the_engine_runs_a_container(docker_engine: Engine) -> None:
    printed = docker_engine.run(
        "run", "--rm", "--network", "none", docker_engine.base_image(), "cat", "/etc/os-release"
    )
    assert "bookworm" in printed


def test_a_killed_engines_pid_file_is_told_from_a_living_ones(tmp_path: Path) -> None:
    file = tmp_path / "docker.pid"
    assert not docker._runs(file, "dockerd")
    file.write_text(f"{os.getpid()}\n")
    # The number was given to another process since.
    assert not docker._runs(file, "dockerd")
    assert docker._runs(file, Path(f"/proc/{os.getpid()}/comm").read_text().strip())


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_an_engine_the_run_says_what_it_left_out(tmp_path: Path, ci: str) -> None:
    """In a run of its own with neither Docker nor its socket: told in the first lines and the last, an error in CI."""
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import *\nfrom pathlib import Path\nfrom tests.support import docker\n"
        "docker.SOCKET = Path('/nowhere/docker.sock')\ndocker.program = lambda name: None\n"
    )
    (tmp_path / "test_two.py").write_text("def test_a(docker_engine): pass\ndef test_b(): pass\n")
    run = subprocess.run(
        (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(Path(docker.__file__).parents[2])},
    )
    if ci:
        assert run.returncode != 0
        assert "Docker is not installed, and nothing is left out in CI" in run.stdout + run.stderr
        return
    assert run.returncode == 0, run.stdout
    assert "NOT COMPLETE: Docker is not installed, so the tests of containers are left out" in run.stdout
    assert "1 passed, 1 deselected" in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].startswith("NOT COMPLETE: 1 tests of containers were left out")
