"""Runs every program of this folder in a process of its own that has two emulated devices.

A `program_*.py` is an ordinary pytest file of an ordinary PyTorch user. One can be run by hand:

    elara run --local 2 --device-memory 2GiB -- python -m pytest tests/remoting/programs/program_amp.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.remoting.harness import ROOT, DeviceServers

HERE = Path(__file__).parent
ATTACHED = sorted(path.stem for path in HERE.glob("program_*.py"))
# These begin without an attachment and make their own when they want one.
UNATTACHED = sorted(path.stem for path in HERE.glob("late_*.py"))

LONGEST = ("late_digits", "program_libraries", "program_transforms")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What every program's process came to, two at a time."""
    folder = tmp_path_factory.mktemp("devices")
    with DeviceServers(folder, devices=2, memory=2 << 30) as servers, ThreadPoolExecutor(2) as pool:
        environments = dict.fromkeys(ATTACHED, servers.environment)
        for program in UNATTACHED:
            environments[program] = {**os.environ, "ELARA_RUNTIME_DIR": str(tmp_path_factory.mktemp(program))}
        # The longest first, so that none is left over for one core.
        order = sorted(environments, key=lambda program: program not in LONGEST)
        return dict(zip(order, pool.map(lambda program: run(program, environments[program]), order), strict=True))


def run(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one program's tests in a process of their own, which wants nothing of the project's other tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "200"]
    command += ["--confcutdir", str(HERE)]
    # With more threads than a busy machine has cores, the CPU's own kernels spin between small operators.
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(HERE / f"{program}.py")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", [*ATTACHED, *UNATTACHED])
def test_program(program: str, outcomes: dict[str, subprocess.CompletedProcess[str]]) -> None:
    finished = outcomes[program]
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
