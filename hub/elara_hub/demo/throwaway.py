"""A whole Elara in a temporary folder, on a free port, gone afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elara_hub.supervisor import place
from elara_hub.supervisor.folder import write_private
from elara_hub.supervisor.ports import free_ports
from elara_hub.supervisor.start import ADMIN
from elara_hub.supervisor.vault import FIRST_PASSWORD


class InstanceFailed(Exception):
    """`elara up` ended or did not get ready; the text ends with what it printed."""


async def discard(data: Path) -> None:
    """Remove what a Docker Engine holds of a stopped instance: homes, projects, network and its rules.

    Raises:
        UpProblem: the engine is away, or did not take a removal.
    """
    ours = place.read(data)
    if ours is not None:
        from elara_hub.supervisor.containers import Engine

        await (await asyncio.to_thread(Engine.connect)).remove_everything(ours)


class Throwaway:
    """`elara up` as a child process on a fresh data folder.

    The first admin's password is chosen here and laid where `elara up` finds it, so that nothing has to be read from
    its output.

    Args:
        devices: how many emulated devices the node offers.
        start_limit: seconds until every part must answer.
        engine: `local` or `docker`.
    """

    def __init__(self, devices: int = 2, start_limit: float = 180, engine: str = "local") -> None:
        self._devices = devices
        self._engine = engine
        self._limit = start_limit
        self.admin = ADMIN
        self.password = secrets.token_urlsafe(18)
        self.url = ""
        self.pid = 0
        self.start_seconds = 0.0
        self.stop_seconds = 0.0

    async def __aenter__(self) -> Self:
        self.root = Path(tempfile.mkdtemp(prefix="elara-demo-"))
        self.data = self.root / "data"
        (self.data / "secrets").mkdir(mode=0o700, parents=True)
        write_private(self.data / "secrets" / FIRST_PASSWORD, self.password + "\n")
        self._output = (self.root / "up.log").open("wb")
        began = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "elara_remoting.cli", "up", "--data", str(self.data), "--port", str(free_ports(1)[0])),
            *("--emulate", str(self._devices), "--engine", self._engine),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            await self._ready(began + self._limit)
        except BaseException:
            await self.stop()
            raise
        self.start_seconds = time.monotonic() - began
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop every part as Ctrl-C does, and remove the folder and what Docker holds of it."""
        began = time.monotonic()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(self._process.wait(), 60)
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()
        self.stop_seconds = time.monotonic() - began
        self._output.close()
        await discard(self.data)
        shutil.rmtree(self.root, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """What `elara up` says of its parts; empty before it has said anything."""
        try:
            status = json.loads((self.data / "up.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    async def _ready(self, deadline: float) -> None:
        while True:
            status = self.status()
            if status.get("ready"):
                self.url = str(status["url"])
                return
            if self._process.returncode is not None or time.monotonic() > deadline:
                printed = (self.root / "up.log").read_text(encoding="utf-8", errors="replace")
                raise InstanceFailed(f"elara up did not get ready. It printed:\n{printed[-2000:]}")
            await asyncio.sleep(0.1)
