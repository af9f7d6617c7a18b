"""All parts together: start them side by side, tell how far it is, keep them running, stop them in the right order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from elara_hub.supervisor import processes
from elara_hub.supervisor.folder import DataFolder
from elara_hub.supervisor.logs import PartLog
from elara_hub.supervisor.plan import Part
from elara_hub.supervisor.runner import READY_SECONDS, SILENT_SECONDS, Runner

# Stopped first: nothing new may be started, and the node tells the still running service what its leases used.
_FIRST = ("hub", "node")
_PATIENCE_WORKSPACES = 4.0
_TELL_FIRST = 5.0
"""Seconds until it is said what is waited for; then after twice as long, and so on."""


class Supervisor:
    """Runs the parts. `say` prints a line for the admin; `before` is awaited before a part's first start,
    `ready_again` when it is ready after a restart, `stopped` when hub or node were stopped at the end; all get the
    part's name."""

    def __init__(
        self,
        parts: Sequence[Part],
        folder: DataFolder,
        secrets: Sequence[str],
        url: str,
        say: Callable[[str], None],
        before: Callable[[str], Awaitable[None]] | None = None,
        ready_again: Callable[[str], Awaitable[None]] | None = None,
        stopped: Callable[[str], Awaitable[None]] | None = None,
        engine: str = "local",
        ready_seconds: float = READY_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._folder = folder
        self._url = url
        self._say = say
        self._before = before
        self._ready_again = ready_again
        self._stopped = stopped
        self._engine = engine
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._all_ready = False
        self._stop_asked = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.runners = {
            part.name: Runner(
                part, PartLog(folder.logs, part.name, secrets), self._changed, ready_seconds, silent_seconds
            )
            for part in parts
        }

    async def run(self, on_ready: Callable[[float], None]) -> None:
        """Until SIGINT or SIGTERM. Raises UpProblem when a part cannot be brought up; everything is stopped then,
        too.
        """
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        running = [asyncio.create_task(self._run_part(r), name=r.part.name) for r in self.runners.values()]
        reaper = asyncio.create_task(self._reap())
        stop = asyncio.create_task(self._stop_asked.wait())
        ready = asyncio.create_task(self._wait_ready())
        try:
            await asyncio.wait({stop, ready, *running}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not stop.done():
                self._all_ready = True
                self._write_status()
                on_ready(time.monotonic() - begun)
                await asyncio.wait({stop, *running}, return_when=asyncio.FIRST_COMPLETED)
            problem = next((t.exception() for t in running if t.done() and not t.cancelled() and t.exception()), None)
        finally:
            ready.cancel()
            stop.cancel()
            await self._stop(running)
            reaper.cancel()
            for runner in self.runners.values():
                runner.log.close()
        if problem is not None:
            raise problem

    async def _run_part(self, runner: Runner) -> None:
        for name in runner.part.after:
            await self.runners[name].was_ready.wait()
        if self._before is not None:
            await self._before(runner.part.name)
        await runner.run()

    async def _wait_ready(self) -> None:
        patience = _TELL_FIRST
        waiting = {asyncio.create_task(r.was_ready.wait()): r for r in self.runners.values()}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    waiting.pop(task)
                if not done:
                    patience *= 2
                    for runner in waiting.values():
                        if runner.pid is not None:
                            self._say(f"  waiting for {runner.part.name}: {runner.part.slow_start}")
        finally:
            for task in waiting:
                task.cancel()

    async def _changed(self, runner: Runner) -> None:
        name = runner.part.name
        if runner.state == "ready":
            again = runner.restarts > 0 and self._all_ready
            self._say(f"  {name:<8} ready{' again' if again else ''}  {runner.took or 0:5.1f} s")
            if again and self._ready_again is not None:
                self._later(self._ready_again(name))
        elif runner.state == "waiting" and runner.was_ready.is_set():
            self._say(f"  {name:<8} ended and is started again (see {runner.log.path})")
        self._write_status()

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _signalled(self) -> None:
        if self._stop_asked.is_set():
            # The second Ctrl-C: whoever presses it does not want to wait.
            for process in processes.descendants():
                with suppress(Exception):
                    process.kill()
            return
        self._stop_asked.set()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if not any(r.spawning for r in self.runners.values()):
                processes.reap_adopted(self._own())

    def _own(self) -> set[int]:
        return {r.pid for r in self.runners.values() if r.pid is not None}

    async def _stop(self, running: Sequence[asyncio.Task[None]]) -> None:
        begun = time.monotonic()
        for task, runner in zip(running, self.runners.values(), strict=True):
            if runner.restarts < 0:  # it still waits for another part, in vain
                task.cancel()
        if any(r.pid is not None for r in self.runners.values()):
            self._say("Stopping: workspaces and the node first, so that what they used is written down.")
        await asyncio.gather(*(self._stop_first(name) for name in _FIRST if name in self.runners))
        await asyncio.gather(*(r.stop() for name, r in self.runners.items() if name not in _FIRST))
        await asyncio.wait(running, timeout=5)
        left = processes.descendants()
        if left:
            await asyncio.to_thread(processes.end, left, 1.0, self._own)
        processes.reap_adopted(())
        self._all_ready = False
        self._write_status()
        self._say(f"Stopped in {time.monotonic() - begun:.1f} s.")

    async def _stop_first(self, name: str) -> None:
        runner = self.runners[name]
        await runner.stop()
        if runner.part.keeps_children:
            own = self._own()
            workspaces = processes.descendants(own)
            if workspaces:
                await asyncio.to_thread(processes.end, workspaces, _PATIENCE_WORKSPACES, self._own)
        if self._stopped is not None:
            try:
                await self._stopped(name)
            except Exception as error:
                # The other parts have to be stopped all the same.
                self._say(f"  What {name} started could not be ended: {error}")

    def _write_status(self) -> None:
        parts = {
            name: {
                "state": runner.state,
                "pid": runner.pid,
                "url": runner.part.url,
                "restarts": max(runner.restarts, 0),
                "ready_seconds": runner.took,
            }
            for name, runner in self.runners.items()
        }
        status = {
            "pid": os.getpid(),
            "url": self._url,
            "engine": self._engine,
            "started_at": self._started_at,
            "ready": self._all_ready,
        }
        try:
            self._folder.write_status({**status, "parts": parts})
        except OSError as error:
            self._say(f"  {self._folder.status_file} cannot be written ({error.strerror}); the parts go on.")
