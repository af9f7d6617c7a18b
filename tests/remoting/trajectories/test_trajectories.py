"""A program's losses on a remote device are those of the same program on the CPU, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

# Programs whose losses need not be equal to the last bit: the largest relative difference, and why there is one.
TOLERANCES: dict[str, tuple[float, str]] = {
    "cnn, channels_last": (1e-6, "PyTorch's group_norm makes its input contiguous on cuda, and not on the CPU"),
    **dict.fromkeys(
        ("lstm", "lstm, two layers, both ways", "gru"),
        (
            1e-6,
            "PyTorch runs fused cells on cuda, and an emulated device adds in another order than the CPU's own cells",
        ),
    ),
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


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every program did natively and on a remote device: {"cpu": {name: row}, "cuda": {name: row}}."""
    folder = tmp_path_factory.mktemp("devices")
    command = [sys.executable, "-m", "tests.remoting.trajectories.run"]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with DeviceServers(folder, torch_threads=1) as servers:
        environments = {"cpu": native_environment(), "cuda": servers.environment}
        running = {
            device: subprocess.Popen(
                [*command, "cuda" if ON_CUDA else device], cwd=ROOT, env=environment | threads, stdout=subprocess.PIPE
            )
            for device, environment in environments.items()
        }
        outputs = {device: process.communicate(timeout=120)[0] for device, process in running.items()}
    rows = {device: [json.loads(line) for line in output.splitlines()] for device, output in outputs.items()}
    return {device: {row["name"]: row for row in of_device} for device, of_device in rows.items()}


@pytest.mark.parametrize("name", names())
def test_losses_are_those_of_the_cpu(losses: dict[str, dict[str, Any]], name: str) -> None:
    native, remote = losses["cpu"].get(name), losses["cuda"].get(name)
    assert native is not None and "error" not in native, native
    assert remote is not None, "the process on the remote device ended before this program"
    assert "error" not in remote, remote["error"]
    expected, actual = ([float.fromhex(text) for text in row["losses"]] for row in (native, remote))
    tolerance, _ = ON_A_GPU if ON_CUDA else TOLERANCES.get(name, (0.0, ""))
    assert actual == pytest.approx(expected, rel=tolerance, abs=0.0)


def test_every_tolerance_is_needed(losses: dict[str, dict[str, Any]]) -> None:
    identical = [
        name for name in TOLERANCES if not ON_CUDA and losses["cpu"][name]["losses"] == losses["cuda"][name]["losses"]
    ]
    assert not identical, "these are equal to the last bit now: take their tolerance away"
