"""A running Docker engine for tests: the one that runs already, else one started by hand as root.

    def test_something(docker_engine: Engine) -> None:          # session fixture of tests/conftest.py
        docker_engine.run("run", "--rm", docker_engine.base_image(), "true")

A test that uses the fixture `docker_engine`, directly or through another one, needs an engine. Where none can be had
(no daemon answers and this is not root, or Docker is not installed), such tests are left out, and the run says so at
its start and in its last line. With CI=true nothing is left out: the run fails instead.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from elara_hub.images.bootstrap import bootstrap
from elara_hub.images.problem import ImageProblem

SOCKET = Path("/var/run/docker.sock")
_LOCK = Path("/run/elara-test-docker.lock")
# What an engine that was killed leaves, with the name of the program that the number in it must belong to. dockerd
# trusts such a file whenever a process of that number lives, whoever it is, and refuses to start or waits for ever.
_PID_FILES = {
    Path("/var/run/docker.pid"): "dockerd",
    Path("/var/run/docker/containerd/containerd.pid"): "containerd",
}
_START_SECONDS = 60.0


class EngineFailed(AssertionError):
    """The engine could not be brought up, or a command of it failed; the text ends with what it printed."""


def program(name: str) -> str | None:
    """The program as Debian installs it, before others of that name on the path; None when there is none."""
    return shutil.which(name, path=f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}")


def why_not() -> str | None:
    """Why no engine can be had here, as a sentence; None when one answers or can be started."""
    if program("docker") is None:
        return "Docker is not installed"
    if answers():
        return None
    if os.geteuid() != 0:
        return "no Docker daemon answers, and only root can start one"
    missing = [name for name in ("dockerd", "iptables") if program(name) is None]
    return f"no Docker daemon answers, and {' and '.join(missing)} is not installed" if missing else None


def answers(at: Path = SOCKET) -> bool:
    """Whether a daemon listens on a socket (default: the usual one) and lets this user in."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(at))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(64)
    except OSError:
        return False


class Engine:
    """A context manager: on entry a daemon answers; on exit one that was started here is stopped, any other is left."""

    socket = SOCKET

    def __init__(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log = Path(tempfile.gettempdir()) / f"elara-test-dockerd-{os.getuid()}.log"

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # One starts it, others who come at the same time wait until it runs.
                while not answers():
                    if _alone(self._lock):
                        self._start()
                    else:
                        time.sleep(0.1)
            except BaseException:
                os.close(self._lock)
                raise
            # Held by each run that uses it, so that the one that started it does not take it from the others.
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        daemon, lock = self._daemon, self._lock
        if lock is None:
            return
        try:
            if daemon is not None and _alone(lock):
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(30)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        finally:
            os.close(lock)

    @property
    def started_here(self) -> bool:
        return self._daemon is not None

    def run(self, *arguments: str, limit: float = 300, **options: object) -> str:
        """Run `docker ARGUMENTS` and return what it printed. Raises EngineFailed when it fails."""
        command = (program("docker") or "docker", "--host", f"unix://{self.socket}", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, **options)  # type: ignore[call-overload]
        if done.returncode != 0:
            raise EngineFailed(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return str(done.stdout)

    def has_image(self, name: str) -> bool:
        return bool(self.run("images", "--quiet", name).strip())

    def base_image(self) -> str:
        """The name of a small Debian image to build on; made from Debian's packages when it is not there (a minute)."""
        try:
            return bootstrap("bookworm", "http://deb.debian.org/debian", fresh=False, say=lambda line: None)
        except ImageProblem as problem:
            raise EngineFailed(str(problem)) from problem

    def _start(self) -> None:
        for file, name in _PID_FILES.items():
            if not _runs(file, name):
                file.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [program("dockerd") or "dockerd", "--host", f"unix://{SOCKET}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"},
                # Ctrl-C is for the tests, which stop it when they are done.
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self._daemon.kill()
                end = self._log.read_text(errors="replace")[-2000:]
                raise EngineFailed(f"dockerd did not answer within {_START_SECONDS:g} s. It printed:\n{end}")
            time.sleep(0.1)


def describe() -> str:
    """One line about the engine, for the head of a test run."""
    if not answers():
        return "none runs; one is started for the tests that need it, and stopped after them"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(SOCKET))
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as stream:
            body = stream.read().partition(b"\r\n\r\n")[2]
    return f"{json.loads(body)['Version']}, which runs already and is left running"


def _runs(pid_file: Path, name: str) -> bool:
    try:
        pid = int(pid_file.read_text())
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except (OSError, ValueError):
        return False


def _alone(lock: int) -> bool:
    """Whether no other test run uses the engine."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
