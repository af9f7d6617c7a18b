"""Waiting for a condition with a deadline, and finding what a test must not leave behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from elara_hub.supervisor.processes import MARK

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 20) -> T:
    """The first true answer of `condition`; fails the test with `what` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process is there and not only its exit status."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def processes_of(data: Path) -> list[str]:
    """Every process that belongs to the instance on a data folder, as `pid command`."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            line = " ".join(process.cmdline())
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:
            continue
        runtime = environment.get("ELARA_RUNTIME_DIR", "")
        if environment.get(MARK) == str(data) or runtime.startswith(str(data)) or f"--data {data}" in line:
            found.append(f"{process.pid} {line}")
    return found
