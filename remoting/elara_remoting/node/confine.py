"""Takes from the calling process what a device server never needs: new connections, other programs, other files.

A device server executes a user's operators in the node's name. Its allow-list of operators is the first wall; this is
the second: a seccomp filter (no sockets, no exec, no signals, no look into other processes) and Landlock rules (no file
written, none read but the libraries and what the kernel tells of the machine). Only what the process holds already,
its session's connection and the ledger, stays usable.

Where the kernel has neither, or the machine is of a kind we have no table for, the process goes on without; `confine`
says what holds. It is for emulated devices: a GPU's driver opens devices and sockets of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers of the system calls that are refused, by machine. Kept by hand: the kernel never changes one.
_X86_64 = {
    "socket": 41,
    "connect": 42,
    "accept": 43,
    "bind": 49,
    "listen": 50,
    "accept4": 288,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "execveat": 322,
    "kill": 62,
    "tkill": 200,
    "pidfd_send_signal": 424,
    "pidfd_getfd": 438,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "unshare": 272,
    "setns": 308,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "init_module": 175,
    "finit_module": 313,
    "kexec_load": 246,
    "open_by_handle_at": 304,
    # It could open sockets behind the filter's back.
    "io_uring_setup": 425,
}
_AARCH64 = {
    "socket": 198,
    "connect": 203,
    "accept": 202,
    "bind": 200,
    "listen": 201,
    "accept4": 242,
    "execve": 221,
    "execveat": 281,
    "kill": 129,
    "tkill": 130,
    "pidfd_send_signal": 424,
    "pidfd_getfd": 438,
    "ptrace": 117,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "mount": 40,
    "umount2": 39,
    "pivot_root": 41,
    "unshare": 97,
    "setns": 268,
    "bpf": 280,
    "perf_event_open": 241,
    "userfaultfd": 282,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "init_module": 105,
    "finit_module": 273,
    "kexec_load": 104,
    "open_by_handle_at": 265,
    "io_uring_setup": 425,
}
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_X32 = 0x40000000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # files, folders
_FILE_READ = 1 << 2
_WRITE = 1 << 1 | sum(1 << bit for bit in range(4, 13))  # write, remove, make anything
_TRUNCATE, _TRUNCATE_SINCE = 1 << 14, 3

_READABLE = ("/usr", "/lib", "/lib64", "/opt", "/sys", "/etc", "/proc/self")
_READABLE_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/dev/null", "/dev/urandom")


def confine(readable: Iterable[Path]) -> list[str]:
    """Confine the calling process for good; `readable` are further folders that it may read. Returns what holds.

    Needs `no_new_privs`. Call it with a single thread: others would stay free.
    """
    return [name for name, holds in (("landlock", _restrict_files(readable)), ("seccomp", _filter_calls())) if holds]


def _filter_calls() -> bool:
    if platform.machine() not in _MACHINES:
        return False
    architecture, calls = _MACHINES[platform.machine()]
    numbers = sorted(calls.values())
    refuse = len(numbers) + 1  # instructions from the first comparison to the refusal: all of them and "allow"
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, refuse + 2, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, refuse, 0, _X32),
        *((_EQUAL, refuse - 1 - index, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0)


def _restrict_files(readable: Iterable[Path]) -> bool:
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = _READ | _WRITE | (_TRUNCATE if version >= _TRUNCATE_SINCE else 0)
    ruleset = _libc.syscall(_CREATE_RULESET, struct.pack("<Q", handled), 8, 0)
    if ruleset < 0:
        return False
    try:
        prefixes = {Path(sys.prefix), Path(sys.base_prefix), *readable, *map(Path, _READABLE)}
        for folder in prefixes:
            _permit(ruleset, folder, _READ)
        for file in _READABLE_FILES:
            _permit(ruleset, Path(file), _FILE_READ)
        return bool(_libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _permit(ruleset: int, path: Path, access: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    try:
        _libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", access, handle), 0)
    finally:
        os.close(handle)
