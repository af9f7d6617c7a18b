"""One atomic subtraction in shared memory, which Python itself does not have.

GCC's libatomic has it as a plain function. It is part of every machine with a compiler, and a package of its own
(`libatomic1`) where there is none.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

_SEQUENTIALLY_CONSISTENT = 5


class AtomicsMissing(RuntimeError):
    """libatomic is not installed; the text says how to get it."""


def subtract(memory: mmap.mmap, word: int, amount: int) -> None:
    """Take `amount` off the 64-bit word number `word` of `memory`, atomically among all processes that map it."""
    view = ctypes.c_uint64.from_buffer(memory, 8 * word)
    try:
        _library().__atomic_fetch_sub_8(ctypes.byref(view), amount, _SEQUENTIALLY_CONSISTENT)
    finally:
        del view  # a live view would keep the map from closing


def require() -> None:
    """Find out at the start of a node, and not at the first death of a session, that the library is missing.

    Raises:
        AtomicsMissing: it is.
    """
    _library()


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libatomic.so.1")
    except OSError as error:
        raise AtomicsMissing(
            "The library libatomic.so.1 is missing, and a node counts memory with it. "
            "Install it (Debian and Ubuntu: apt-get install libatomic1) and start again."
        ) from error
    function = getattr(library, "__atomic_fetch_sub_8")  # as an attribute the name would be mangled
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
    function.restype = ctypes.c_uint64
    return library
