"""The ledger of one (lease, device): memory and activity in a memfd that the agent and the device servers share.

The layout is in docs/contracts.md, section 5. The device servers count in it with atomic additions; the agent creates
it, hands out slots, reads it, and takes back what a dead session had reserved.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

from elara_remoting.node import atomics

MAGIC = 0x4C45444745523031
SLOTS = 63
WORDS_BEFORE_SLOTS = 8
WORDS_PER_SLOT = 8
SIZE = 8 * (WORDS_BEFORE_SLOTS + SLOTS * WORDS_PER_SLOT)

_CAP, _USED, _PEAK = 1, 2, 3
_SLOT_USED, _SLOT_PID, _SLOT_OPERATORS, _SLOT_BUSY, _SLOT_LAST = range(5)


class LedgerFull(RuntimeError):
    """All slots of the ledger are taken: too many sessions on one device of a lease."""


@dataclass(frozen=True)
class Activity:
    """What sessions did: operators executed, nanoseconds busy, last activity in Unix nanoseconds (0: never)."""

    operators: int = 0
    busy_ns: int = 0
    last_active_ns: int = 0

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.operators + other.operators,
            self.busy_ns + other.busy_ns,
            max(self.last_active_ns, other.last_active_ns),
        )


@dataclass(frozen=True)
class Reading:
    """The ledger at one moment, in bytes; `activity` spans the sessions of the past too."""

    cap_bytes: int
    used_bytes: int
    peak_bytes: int
    sessions: int
    activity: Activity


class Ledger:
    """Creates and owns the memfd; close it when the lease's sessions are gone."""

    def __init__(self, cap_bytes: int) -> None:
        self.fd = os.memfd_create("elara-ledger", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        # A device server that shrank the file would kill the agent with SIGBUS at its next look.
        _seal_size(self.fd)
        self._map = mmap.mmap(self.fd, SIZE)
        # As native words each access is one load or store; struct's would be eight, torn under a running session.
        self._words = memoryview(self._map).cast("Q")
        self._set(0, MAGIC)
        self._set(_CAP, cap_bytes)
        self._taken: set[int] = set()
        self._past = Activity()

    def close(self) -> None:
        """Give the memory back; the ledger is of no use afterwards. Closing twice is fine."""
        if not self._map.closed:
            self._words.release()
            self._map.close()
            os.close(self.fd)

    def take_slot(self) -> int:
        """Reserve a free slot for a session about to start and return its number.

        Raises:
            LedgerFull: there are 63 sessions already.
        """
        for slot in range(SLOTS):
            if slot not in self._taken:
                self._taken.add(slot)
                for word in range(WORDS_PER_SLOT):
                    self._set(self._slot(slot) + word, 0)
                return slot
        raise LedgerFull(f"all {SLOTS} sessions that one device of a lease can have are running")

    def bind(self, slot: int, pid: int) -> None:
        """Write which process a slot belongs to."""
        self._set(self._slot(slot) + _SLOT_PID, pid)

    def reclaim(self, slot: int) -> int:
        """Free the slot of a session whose process is gone; returns the bytes that it still had reserved."""
        if slot not in self._taken:
            return 0
        base = self._slot(slot)
        left = self._get(base + _SLOT_USED)
        self._past += self._activity(base)
        self._taken.discard(slot)
        if not self._taken:
            # Nobody else counts now: whatever stands there, the truth is zero. This also mends what a process that was
            # killed between its two additions (the lease's word, then its slot's) left behind.
            self._set(_USED, 0)
        elif left:
            # Atomic, because other sessions of the lease count in the same word at the same moment.
            atomics.subtract(self._map, _USED, left)
        for word in range(WORDS_PER_SLOT):
            self._set(base + word, 0)
        return left

    def read(self) -> Reading:
        activity = self._past
        for slot in self._taken:
            activity += self._activity(self._slot(slot))
        cap = self._get(_CAP)
        # A reservation that would pass the cap stands in the word for an instant before it is undone.
        used = min(self._get(_USED), cap)
        return Reading(cap, used, min(max(self._get(_PEAK), used), cap), len(self._taken), activity)

    def _activity(self, base: int) -> Activity:
        return Activity(*(self._get(base + word) for word in (_SLOT_OPERATORS, _SLOT_BUSY, _SLOT_LAST)))

    @staticmethod
    def _slot(slot: int) -> int:
        return WORDS_BEFORE_SLOTS + slot * WORDS_PER_SLOT

    def _get(self, word: int) -> int:
        return int(self._words[word])

    def _set(self, word: int, value: int) -> None:
        self._words[word] = value


def _seal_size(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
