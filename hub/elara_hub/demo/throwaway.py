"""A whole Elara in a temporary folder, on a free port, gone afterwards: the real `elara up` as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elara_hub.supervisor import place, processes
from elara_hub.supervisor.command import DEFAULT_MEMORY
from elara_hub.supervisor.folder import write_private
from elara_hub.supervisor.ports import free_ports
from elara_hub.supervisor.start import ADMIN
from elara_hub.supervisor.vault import FIRST_PASSWORD

# A Unix socket's path has room for 107 characters, and the deepest one lies some forty below the data folder.
_LONGEST_FOLDER = 60


class InstanceFailed(Exception):
    """The instance did not do what it should; the text ends with what it printed."""


class Throwaway:
    """`elara up` on a fresh data folder. On entry every part is ready; on exit nothing of it is left.

    The first admin's password is chosen here and laid where `elara up` finds it, so that nothing has to be read from
    its output.

    Args:
        devices: how many emulated devices the node offers.
        device_memory: memory of each, as `--device-memory` takes it.
        environment: further variables for all parts.
        start_limit: seconds until every part must be ready.
        engine: `local` or `docker`; what Docker holds of the instance is removed with it.
    """

    def __init__(
        self,
        devices: int = 2,
        device_memory: str = DEFAULT_MEMORY,
        environment: Mapping[str, str] | None = None,
        start_limit: float = 180,
        engine: str = "local",
    ) -> None:
        self.engine = engine
        self._options = ("--emulate", str(devices), "--device-memory", device_memory, "--engine", engine)
        self._environment = dict(environment or {})
        self._limit = start_limit
        self._process: asyncio.subprocess.Process | None = None
        self.root = _short_folder()
        self.data = self.root / "data"
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_name = ADMIN
        self.admin_password = secrets.token_urlsafe(18)
        self.start_seconds = 0.0
        self.stop_seconds = 0.0

    async def __aenter__(self) -> Self:
        (self.data / "secrets").mkdir(mode=0o700, parents=True)
        write_private(self.data / "secrets" / FIRST_PASSWORD, self.admin_password + "\n")
        try:
            await self.start()
        except BaseException:
            await self.remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.remove()

    async def start(self) -> None:
        """Start it (again) on its folder, and wait until every part is ready."""
        begun = time.monotonic()
        with (self.root / "up.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "elara_remoting.cli", "up", "--data", str(self.data)),
                *("--port", str(self.port), *self._options),
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._process = process
        while not ((status := self.status()).get("ready") and status.get("pid") == process.pid):
            if process.returncode is not None:
                raise InstanceFailed(f"elara up ended with {process.returncode}.\n{self.report()}")
            if time.monotonic() > begun + self._limit:
                raise InstanceFailed(f"elara up was not ready after {self._limit:g} s.\n{self.report()}")
            await asyncio.sleep(0.1)
        self.start_seconds = time.monotonic() - begun

    async def stop(self, number: signal.Signals = signal.SIGINT, limit: float = 60) -> int:
        """Stop it as Ctrl-C does and keep the folder; returns the exit status."""
        process = self._process
        assert process is not None, "the instance was never started"
        begun = time.monotonic()
        if process.returncode is None:
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), limit)
        except TimeoutError:
            raise InstanceFailed(f"elara up did not stop within {limit:g} s.\n{self.report()}") from None
        self.stop_seconds = time.monotonic() - begun
        return int(process.returncode or 0)

    async def remove(self) -> None:
        """Stop it, and remove the folder and what Docker holds of it: homes, projects, network and its rules.

        Raises:
            InstanceFailed: it did not stop, and was killed.
            UpProblem: the engine is away, or did not take a removal.
        """
        try:
            if self._process is not None and self._process.returncode is None:
                await self.stop()
        finally:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            if left := processes.left_behind(self.data):
                await asyncio.to_thread(processes.end, left, 1.0)
            await self._discard()
            shutil.rmtree(self.root, ignore_errors=True)

    async def _discard(self) -> None:
        ours = place.read(self.data)
        if ours is not None:
            from elara_hub.supervisor.containers import Engine

            await (await asyncio.to_thread(Engine.connect)).remove_everything(ours)

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        assert self._process is not None, "the instance was never started"
        return self._process.pid

    def status(self) -> dict[str, Any]:
        """What `elara up` says of its parts (`up.json`); empty before it has said anything."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.data / "up.json").read_text(encoding="utf-8")))
        return {}

    def printed(self) -> str:
        """What `elara up` printed so far, of all starts."""
        return (self.root / "up.log").read_text(encoding="utf-8", errors="replace")

    def report(self) -> str:
        """What to show of it when it failed."""
        return f"It printed:\n{self.printed()[-3000:]}"


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="elara-"))
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="elara-", dir="/tmp"))
    return folder
