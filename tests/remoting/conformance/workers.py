"""Runs the entries on a few worker processes, each with a device of its own and a time limit.

A pair of entry and dtype that hangs, or takes its process or its device server down, costs that pair and a restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
START_LIMIT = 180.0  # importing PyTorch's operator database takes long on a busy machine

# Gives the environment of a process that has the target device, for as long as the context lasts.
Target = Callable[[Path], AbstractContextManager[dict[str, str]]]
Row = dict[str, Any]
Pair = tuple[str, str]  # an entry's name and a dtype's
Entries = dict[str, list[str]]  # an entry's dtypes by its name


class WorkerFailed(RuntimeError):
    """A worker did not start; the text ends with what it wrote."""


@dataclass
class Plan:
    """What to run: the device's name in torch, how many samples, all variants or not, and limits in seconds."""

    device: str
    samples: int = 8
    every_variant: bool = True
    limit: float = 60.0
    workers: int = 2


@dataclass
class Worker:
    """One worker process and its device."""

    plan: Plan
    target: Target
    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    async def start(self) -> Entries:
        """Start the process; all entries with their dtypes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        device = self._stack.enter_context(self.target(self.folder))
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        log = self._stack.enter_context(self.log.open("ab"))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.remoting.conformance.worker"),
            *(self.plan.device, str(self.plan.samples), "every" if self.plan.every_variant else "plain"),
            cwd=ROOT,
            env=os.environ | threads | device,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=1 << 20,
        )
        try:
            ready = await self._answer(START_LIMIT)
        except (TimeoutError, EOFError) as error:
            await self.stop()
            raise WorkerFailed(f"A worker did not start. The end of {self.log}:\n{self._log_end(2000)}") from error
        return dict(ready["entries"])

    async def check(self, pair: Pair) -> Row:
        """The row of one pair; a worker that hangs or dies gives one too, and is stopped."""
        name, dtype = pair
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name} {dtype}\n".encode())
            row = await self._answer(self.plan.limit)
        except TimeoutError:
            await self.stop()
            detail = f"no result within {self.plan.limit:.0f} s"
            return {"name": name, "dtype": dtype, "status": "timeout", "detail": detail}
        except (EOFError, ConnectionError):
            code = await self.stop()
            return {
                "name": name,
                "dtype": dtype,
                "status": "crash",
                "detail": f"the worker ended ({_ending(code)}): {self._log_end(300)}",
            }
        if not row.pop("device_alive"):
            await self.stop()
            row |= {"status": "crash", "detail": f"the device was lost: {row['detail']} {self._log_end(300)}"}
        return row

    @property
    def running(self) -> bool:
        return self._process is not None

    async def stop(self) -> int:
        """End the process, whatever it does, and give its device back."""
        code = 0
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                code = await asyncio.wait_for(self._process.wait(), 2)
            except TimeoutError:
                self._process.kill()
                code = await self._process.wait()
            self._process = None
        self._stack.close()
        return code

    async def _answer(self, limit: float) -> Row:
        assert self._process is not None and self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), limit)
        if not line:
            raise EOFError
        row: Row = json.loads(line)
        return row

    def _log_end(self, characters: int) -> str:
        return " ".join(self.log.read_text(errors="replace")[-characters:].split())


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


async def run(
    plan: Plan, target: Target, folder: Path, choose: Callable[[Entries], list[Pair]]
) -> AsyncIterator[tuple[int, Row]]:
    """Check the pairs that `choose` picks; yields (how many were picked, row) as they come."""
    workers = [Worker(plan, target, folder / f"worker-{index}") for index in range(plan.workers)]
    rows: asyncio.Queue[Row | BaseException] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    try:
        entries = await asyncio.gather(*(worker.start() for worker in workers))
        picked = choose(entries[0])
        left = list(reversed(picked))

        async def drain(worker: Worker) -> None:
            try:
                while left:
                    pair = left.pop()
                    if not worker.running:
                        await worker.start()
                    await rows.put(await worker.check(pair))
            except BaseException as error:
                await rows.put(error)
                raise

        tasks = [asyncio.create_task(drain(worker)) for worker in workers]
        for _ in picked:
            row = await rows.get()
            if isinstance(row, BaseException):
                raise row
            yield len(picked), row
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in workers))
