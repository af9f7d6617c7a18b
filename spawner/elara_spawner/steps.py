"""The steps of a start, as the hub's progress page shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Steps:
    """Steps told so far, and a way to follow them as they come. Any number may follow, from any time on."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._over = False

    def tell(self, progress: int, message: str) -> None:
        """One more step; `progress` is of 100."""
        self._told.append({"progress": progress, "message": message})
        self._wake()

    def end(self) -> None:
        """No more steps will come."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Each step once, until the end."""
        seen = 0
        while True:
            changed = self._changed
            while seen < len(self._told):
                yield self._told[seen]
                seen += 1
            if self._over:
                return
            await changed.wait()
