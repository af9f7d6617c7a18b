"""This process's own "cuda" becomes the remote one, on device servers that the tests start and stop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.remoting.harness import ROOT, DeviceServers

MEMORY = 512 << 20


class Bench:
    """Device servers and the epoch counter of one runtime folder."""

    def __init__(self, servers: DeviceServers) -> None:
        self.servers, self.epoch = servers, 1
        self.before: list[int] = []  # sessions of earlier attachments that have not ended yet

    def attach(self, devices: int = 2) -> None:
        """A new attachment of so many devices, which this process has noticed."""
        self.epoch += 1
        self.before = self.servers.running()
        self.servers.attach(epoch=self.epoch, devices=devices, local=True)
        # Operators look at the file 20 times a second at most; this question always does.
        torch.cuda.device_count()

    def detach(self, reason: str = "detached by the test") -> None:
        """Take the devices away; this process has noticed."""
        self.epoch += 1
        self.servers.detach(epoch=self.epoch, reason=reason)
        torch.cuda.device_count()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Eight emulated devices, and this process's torch taken over."""
    folder = tmp_path_factory.mktemp("client")
    with DeviceServers(folder, devices=8, memory=MEMORY, tls=True) as servers:
        from elara_remoting.client.takeover import take_over

        take_over(str(folder))
        yield Bench(servers)


@pytest.fixture
def bench(running: Bench) -> Bench:
    """The devices, attached anew with two of them: every test has sessions of its own."""
    running.attach()
    return running


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a Python script in a process of its own, where torch is imported by the ordinary way."""

    def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'remoting'}", **environment}
        return subprocess.run(
            [sys.executable, "-c", script], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    return run
