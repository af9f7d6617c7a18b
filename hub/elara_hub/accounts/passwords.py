"""Hashing of passwords: argon2id, off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

AT_ONCE = 2
"""Each takes 64 MiB and a core for a moment."""
MOST_WAITING = 64


class TooBusy(Exception):
    """More sign-ins wait than can be checked soon."""


class Passwords:
    """Makes and checks hashes. One instance a process."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0
        # What an unknown name is checked against, so that it takes as long as a known one.
        self._nobody = self._hasher.hash("nobody has this password")

    def hash(self, password: str) -> str:
        """Blocks for about 50 ms."""
        return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` belongs to the hash; for None (no such account) False after the same time. Blocks."""
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def hash_soon(self, password: str) -> str:
        """As hash, in a thread. Raises TooBusy."""
        with self._turn():
            return await asyncio.get_running_loop().run_in_executor(self._threads, self.hash, password)

    async def matches_soon(self, stored: str | None, password: str) -> bool:
        """As matches, in a thread. Raises TooBusy."""
        with self._turn():
            return await asyncio.get_running_loop().run_in_executor(self._threads, self.matches, stored, password)

    def _turn(self) -> _Turn:
        return _Turn(self)


class _Turn:
    """Counts who waits; the executor does the queueing."""

    def __init__(self, owner: Passwords) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        if self._owner._waiting >= MOST_WAITING:
            raise TooBusy
        self._owner._waiting += 1

    def __exit__(self, *_: object) -> None:
        self._owner._waiting -= 1
