"""What Linux does for us so that no process stays behind."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)

MARK = "ELARA_SUPERVISOR"
"""Set for every part to the data folder, so that processes of a supervisor that was killed can be found again."""


def become_subreaper() -> None:
    """Orphans among our descendants (a workspace whose hub restarted) become our children, not init's."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(parent: int) -> Callable[[], None]:
    """A function to run in a new child: it gets SIGTERM when the supervisor dies, even by SIGKILL."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def reap_adopted(own: Collection[int]) -> None:
    """Take the exit status of orphans that we inherited. `own` are children that somebody else waits for."""
    while True:
        try:
            # Peek first: waiting for just any child would take the status that asyncio waits for.
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        try:
            os.waitpid(found.si_pid, os.WNOHANG)
        except ChildProcessError:
            return


def descendants(besides: Collection[int] = ()) -> list[psutil.Process]:
    """Every living process below this one, except `besides` and what lies below those."""
    mine = psutil.Process()
    left: list[psutil.Process] = []
    queue = [p for p in mine.children() if p.pid not in besides]
    while queue:
        process = queue.pop()
        left.append(process)
        try:
            queue += [p for p in process.children() if p.pid not in besides]
        except psutil.Error:
            continue
    return [p for p in left if _alive(p)]


def session_members(leader: int) -> list[psutil.Process]:
    """Processes that belong to the session which process `leader` began; found after its death, too."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.pid != leader:
                found.append(process)
        except OSError:
            continue
    return [p for p in found if _alive(p)]


def left_behind(data: Path) -> list[psutil.Process]:
    """Processes of an earlier supervisor on this data folder, which was killed before it could stop them."""
    found = []
    mine = {p.pid for p in psutil.Process().parents()} | {os.getpid()}
    for process in psutil.process_iter():
        if process.pid in mine:
            continue
        try:
            if process.uids().real != os.getuid():
                continue
            environment = process.environ()
        except psutil.Error:
            continue
        runtime = environment.get("ELARA_RUNTIME_DIR", "")
        if environment.get(MARK) == str(data) or runtime.startswith(f"{data}/run/"):
            found.append(process)
    return [p for p in found if _alive(p)]


def end(processes: list[psutil.Process], patience: float, own: Callable[[], Collection[int]] | None = None) -> None:
    """SIGTERM, up to `patience` seconds, then SIGKILL. Blocks; call it in a thread."""
    for process in processes:
        _send(process, signal.SIGTERM)
    if _gone(processes, patience, own):
        return
    for process in processes:
        _send(process, signal.SIGKILL)
    _gone(processes, 5, own)


def end_session(leader: int, patience: float = 0.5) -> None:
    """End what is left of the session that a dead process began. Blocks."""
    left = session_members(leader)
    if left:
        end(left, patience)


def _gone(processes: list[psutil.Process], patience: float, own: Callable[[], Collection[int]] | None) -> bool:
    deadline = time.monotonic() + patience
    while any(_alive(p) for p in processes):
        if time.monotonic() > deadline:
            return False
        if own is not None:
            reap_adopted(own())
        time.sleep(0.03)
    return True


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except (psutil.Error, OSError):
        pass
