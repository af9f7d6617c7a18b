"""What a process of the node asks of the kernel for itself: to die with its parent, to be someone else, to gain no
rights and to use no more than its part.

All but `pidfd_of_peer` and `complain` concern the calling process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def die_with_parent(parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel send `signal_number` when the parent ends; exits at once when `parent` is not it (any more)."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def renounce() -> None:
    """No new privileges by exec, no core dump, no debugger of the same user, no more than a few files."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 256 if hard == resource.RLIM_INFINITY else min(256, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def become(uid: int, groups: list[int], parent: int) -> None:
    """Be user and group `uid` from now on, with no other groups than `groups`. Call it with a single thread."""
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # The kernel forgets both when a process changes its user.
    _prctl(_PR_SET_DUMPABLE, 0)
    die_with_parent(parent)


def limit_use(*, memory_bytes: int | None, tasks: int | None) -> None:
    """Write no file; hold at most `memory_bytes` more private memory than now, and `tasks` threads of this user.

    None sets no limit. The memory limit is a last resort: the ledger refuses first, with a sentence.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if tasks is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    if memory_bytes is not None:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        held = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory_bytes, held + memory_bytes))


def complain(text: str) -> None:
    """A line to standard error. Where that is a file on a full disk, the line is lost and nothing else."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def close_all_but(kept: set[int]) -> None:
    """Close every file descriptor except `kept`."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        number = int(name)
        if number not in kept:
            try:
                os.close(number)
            except OSError:
                pass  # the one that listed the folder


def pidfd_of_peer(connection: socket.socket) -> int | None:
    """A pidfd of the process at the other end of a local socket, the caller's to close.

    None where it cannot be told: it has ended, or belongs to another PID namespace.
    """
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, _, _ = struct.unpack("3i", data)
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None
