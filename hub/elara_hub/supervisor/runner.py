"""One part: start it, wait until it is ready, start it again when it ends, stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx

from elara_hub.supervisor import processes
from elara_hub.supervisor.logs import PartLog
from elara_hub.supervisor.plan import Part
from elara_hub.supervisor.problem import UpProblem

READY_SECONDS = 180.0
SILENT_SECONDS = 90.0
"""How long a part may leave its question unanswered before it is taken for hung; more than any machine's hiccup."""
FIRST_ATTEMPTS = 2
STABLE_SECONDS = 60.0
BACK_OFF = (0.3, 1.0, 2.0, 5.0, 10.0, 30.0)
_POLL_SECONDS = 0.15


class Runner:
    """Keeps one part running. `state` is starting, ready, waiting (for its next start) or stopped."""

    def __init__(
        self,
        part: Part,
        log: PartLog,
        changed: Callable[[Runner], Awaitable[None]],
        ready_seconds: float = READY_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.part = part
        self.log = log
        self.state = "waiting"
        self.restarts = -1
        self.took: float | None = None
        self.pid: int | None = None
        self.spawning = False
        self.was_ready = asyncio.Event()
        self._changed = changed
        self._ready_seconds = ready_seconds
        self._silent_seconds = silent_seconds
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until `stop`. Raises UpProblem when the part cannot be brought up for the first time."""
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            end = await self._once()
            if self._stopping.is_set():
                break
            if not self.was_ready.is_set():
                failures += 1
                if failures >= FIRST_ATTEMPTS or end == "never":
                    raise UpProblem(self._why_not(end))
            elif time.monotonic() - begun > STABLE_SECONDS:
                failures = 0
            else:
                failures += 1
            pause = BACK_OFF[min(failures, len(BACK_OFF)) - 1] if failures else BACK_OFF[0]
            self.log.note(f"{self.part.name} ended ({end}); it is started again in {pause:g} s")
            await self._set("waiting")
            await _wait(self._stopping, pause)
        await self._set("stopped")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the part's patience; returns when it is gone with all that it must not leave."""
        self._stopping.set()
        await self._end()

    async def _once(self) -> str:
        """One life of the process; returns how it ended, `never` when it was not ready in time."""
        self.restarts += 1
        self.took = None
        if self.part.ready.file is not None:
            self.part.ready.file.unlink(missing_ok=True)
        begun = time.monotonic()
        try:
            process = await self._start()
        except OSError as error:
            return f"{self.part.argv[0]} cannot be started: {error.strerror}"
        if self._stopping.is_set():  # it was asked to stop while the process came to be
            await self._end()
        await self._set("starting")
        exited = asyncio.create_task(process.wait())
        ready = asyncio.create_task(self._is_ready())
        await asyncio.wait({exited, ready}, timeout=self._ready_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not exited.done() and ready.done():
            self.took = time.monotonic() - begun
            self.was_ready.set()
            await self._set("ready")
        elif not exited.done():
            ready.cancel()
            await self._end()
            await exited
            await self._after()
            return "never"
        watch = asyncio.create_task(self._end_when_silent())
        status = await exited
        ready.cancel()
        watch.cancel()
        await self._after()
        return f"exit status {status}" if status >= 0 else f"{signal.Signals(-status).name}"

    async def _start(self) -> asyncio.subprocess.Process:
        # A pipe of our own: asyncio's would hold back the exit status until every heir of the pipe has closed it.
        reader, writer = os.pipe()
        self.spawning = True
        try:
            process = await asyncio.create_subprocess_exec(
                *self.part.argv,
                cwd=self.part.folder,
                env=dict(self.part.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                # A session of its own: Ctrl-C in the terminal is for the supervisor, which stops the parts in order.
                start_new_session=True,
                preexec_fn=processes.die_with_parent(os.getpid()),
            )
            self._process, self.pid = process, process.pid
        except OSError:
            os.close(reader)
            raise
        finally:
            self.spawning = False
            os.close(writer)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: _ToLog(self.log), os.fdopen(reader, "rb", 0))
        return process

    async def _is_ready(self) -> None:
        check = self.part.ready
        if check.file is not None:
            while not check.file.exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(_POLL_SECONDS)
            return
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for url in check.urls:
                while not await _answers(client, url, check.headers):  # noqa: ASYNC110 - nothing tells us
                    await asyncio.sleep(_POLL_SECONDS)

    async def _end_when_silent(self) -> None:
        """Ends a part that lives on without answering, so that it is started again like one that died."""
        if not self.part.ready.urls or not self.was_ready.is_set():
            return
        # Only the first question is the part's own; the others pass through its neighbours.
        url, headers = self.part.ready.urls[0], self.part.ready.headers
        heard = time.monotonic()
        async with httpx.AsyncClient(trust_env=False, timeout=self._silent_seconds / 3) as client:
            while time.monotonic() - heard < self._silent_seconds:
                await asyncio.sleep(self._silent_seconds / 10)
                if await _answers(client, url, headers):
                    heard = time.monotonic()
        self.log.note(f"{self.part.name} has not answered for {self._silent_seconds:g} s and is ended")
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.part.stop_seconds)
        except TimeoutError:
            self.log.note(f"{self.part.name} did not stop within {self.part.stop_seconds:g} s and was killed")
            _signal(process, signal.SIGKILL)
            await process.wait()

    async def _after(self) -> None:
        """What a part leaves behind would hold its ports and devices; a hub's workspaces are meant to go on."""
        process, self._process = self._process, None
        leader, self.pid = self.pid, None
        if process is not None and leader is not None and not self.part.keeps_children:
            await asyncio.to_thread(processes.end_session, leader)

    async def _set(self, state: str) -> None:
        self.state = state
        await self._changed(self)

    def _why_not(self, end: str) -> str:
        name = self.part.name
        lines = "\n".join(f"    {line}" for line in self.log.last_lines(8))
        told = f" Its last lines:\n{lines}" if lines else ""
        if end == "never":
            what = f"The part {name} was not ready after {self._ready_seconds:g} s."
        else:
            what = f"The part {name} ended while it was starting ({end})."
        return f"{what} Read {self.log.path}, mend the cause and start again; nothing was lost.{told}"


async def _answers(client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> bool:
    try:
        return (await client.get(url, headers=dict(headers))).status_code < 400
    except httpx.HTTPError:
        return False


class _ToLog(asyncio.Protocol):
    def __init__(self, log: PartLog) -> None:
        self._log = log

    def data_received(self, data: bytes) -> None:
        self._log.write(data)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
