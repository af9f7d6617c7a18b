"""A Docker engine of a test's own, which the test may kill: the real daemon beside the machine's, sharing nothing.

It has its own folder, socket and containers, and leaves the machine's packet filter and forwarding alone, so that the
other engine's networks stay as they are. Its disk is a small one in memory, which a test can fill. Only root can start
one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.support.docker import Engine, EngineFailed, answers, program

_START_SECONDS = 60.0
_DISK = "1g"
_BRIDGE_ADDRESS = "10.231.255.1/28"


class OwnEngine(Engine):
    """A context manager; `start` and `kill` may be called in it as often as a test likes."""

    def __init__(self) -> None:
        super().__init__()
        # Sockets are in it, whose paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="elara-engine-", dir="/tmp"))
        self.socket = self.folder / "docker.sock"
        self.disk = self.folder / "data"
        self._bridge = f"elo-{secrets.token_hex(3)}"

    def __enter__(self) -> Self:
        self.disk.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "elara-test", str(self.disk))
        # A daemon that is told to do without a bridge removes `docker0`, which is the other one's.
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", _BRIDGE_ADDRESS, "dev", self._bridge)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._daemon is None:
                self.start(outlived=True)
            for container in self.run("ps", "--all", "--quiet").split():
                self.run("rm", "--force", "--volumes", container)
            assert self._daemon is not None
            self._daemon.terminate()
            self._daemon.wait(30)
        finally:
            if self._daemon is not None and self._daemon.poll() is None:
                self.kill()
            # The daemon mounts its folder on itself, over ours.
            while self.disk.is_mount():
                _run("umount", "--recursive", "--lazy", str(self.disk))
            shutil.rmtree(self.folder, ignore_errors=True)
            _run("ip", "link", "delete", self._bridge)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing more can be written to its disk."""
        filler = self.disk / "filler"
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(2**20))
                file.flush()
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()

    def start(self, *, outlived: bool) -> None:
        """Start the daemon (again), and wait until it answers.

        Args:
            outlived: whether containers outlive it (the daemon's `live-restore`), of this life and of the one before.
        """
        state = self.folder / "run"
        for left in (self.folder / "pid", state / "containerd" / "containerd.pid"):
            # Of a life that was killed: the number may be another process's by now.
            left.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    program("dockerd") or "dockerd",
                    *("--host", f"unix://{self.socket}", "--data-root", str(self.disk)),
                    *("--exec-root", str(state), "--pidfile", str(self.folder / "pid"), "--bridge", self._bridge),
                    *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
                    f"--live-restore={str(outlived).lower()}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not answers(self.socket):
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                end = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise EngineFailed(f"dockerd did not answer within {_START_SECONDS:g} s. It printed:\n{end}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the daemon without a word; its containerd dies with it, containers go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait()
        self._daemon = None

    def load(self, image: str) -> None:
        """Copy an image from the machine's engine."""
        docker = program("docker") or "docker"
        with subprocess.Popen((docker, "save", image), stdout=subprocess.PIPE) as saving:
            loading = (docker, "--host", f"unix://{self.socket}", "load", "--quiet")
            subprocess.run(loading, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True)
        assert saving.returncode == 0


def _run(command: str, *arguments: str) -> None:
    subprocess.run((program(command) or command, *arguments), check=True)
