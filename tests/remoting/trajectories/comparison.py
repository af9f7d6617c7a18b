"""Runs the programs natively and on an emulated device, and holds their losses against one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

STEPS = 50
Rows = dict[str, dict[str, Any]]

# Programs whose losses need not be equal to the last bit: the largest relative difference, and why there is one.
TOLERANCES: dict[str, tuple[float, str]] = {
    "cnn, channels_last": (1e-6, "PyTorch's group_norm makes its input contiguous on cuda, and not on the CPU"),
    **dict.fromkeys(
        ("lstm", "lstm, two layers, both ways", "gru", "gru, ctc loss"),
        (
            1e-5,
            "PyTorch runs fused cells on cuda, and an emulated device adds in another order than the CPU's own cells",
        ),
    ),
    "embedding bag, sparse gradients": (1e-6, "gradients at one place are added in another order than the CPU's"),
    "gpt, rms norm": (1e-5, "PyTorch runs a fused RMS norm on cuda, and several operators on the CPU"),
    "rnn": (1e-6, "PyTorch's RNN multiplies all inputs by the weight at once on the CPU, and step by step on cuda"),
}

# With `--device cuda`, where native is a run on the GPU itself.
ON_A_GPU = (1e-3, "a native run takes cuDNN's batch norm and recurrent layers, a remote one PyTorch's own")


def names() -> list[str]:
    """The programs, without importing torch into this process."""
    listing = "from tests.remoting.trajectories.models import PROGRAMS; print(*PROGRAMS, sep='\\n')"
    environment = os.environ | {"ELARA_DISABLE": "1"}
    output = subprocess.check_output([sys.executable, "-c", listing], cwd=ROOT, env=environment, text=True)
    return output.splitlines()


def run(folder: Path, steps: int, programs: list[str], seconds: float) -> tuple[Rows, Rows]:
    """What every program (all, where none is named) did natively and on a device: two tables of rows by name."""
    command = [sys.executable, "-m", "tests.remoting.trajectories.run"]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with DeviceServers(folder, torch_threads=1) as servers:
        environments = {"cpu": native_environment(), "cuda": servers.environment}
        running = [
            subprocess.Popen(
                [*command, "cuda" if ON_CUDA else device, str(steps), *programs],
                cwd=ROOT,
                env=environment | threads,
                stdout=subprocess.PIPE,
            )
            for device, environment in environments.items()
        ]
        outputs = [process.communicate(timeout=seconds)[0] for process in running]
    native, remote = ({row["name"]: row for row in map(json.loads, output.splitlines())} for output in outputs)
    return native, remote


def difference(name: str, native: Rows, remote: Rows) -> float:
    """The largest relative difference of a program's losses.

    Raises:
        AssertionError: one side has no losses; the text says why.
    """
    for side, rows in (("natively", native), ("on the device", remote)):
        assert name in rows, f"{name}: the process {side} ended before this program"
        assert "error" not in rows[name], f"{name} {side}: {rows[name]['error']}"
    expected, actual = ([float.fromhex(text) for text in rows[name]["losses"]] for rows in (native, remote))
    assert len(expected) == len(actual)
    return max(abs(a - b) / max(abs(a), 1e-30) if a != b else 0.0 for a, b in zip(expected, actual, strict=True))


def failures(name: str, native: Rows, remote: Rows) -> str:
    """What is wrong with a program's losses, in a sentence; empty where they agree."""
    try:
        apart = difference(name, native, remote)
    except AssertionError as error:
        return str(error)
    tolerance, _ = ON_A_GPU if ON_CUDA else TOLERANCES.get(name, (0.0, ""))
    return f"{name}: the losses differ by {apart:.2g}, and {tolerance:.2g} is allowed" if apart > tolerance else ""
