"""What every part of the service works with: settings, database, live knowledge, clock, and units of work."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from elara_hub.config import Settings
from elara_hub.database.engine import Database
from elara_hub.pool.live import Live

log = logging.getLogger("elara")

TenancyListener = Callable[[], None]


@dataclass
class Unit:
    """One transaction, and what is to follow its commit."""

    session: Session
    now: datetime
    outbox: list[tuple[str, dict[str, Any], float]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    followers: list[Callable[[], None]] = field(default_factory=list)
    wake: bool = False
    tenancy_changed: bool = False

    def tell(self, node_id: str, message: dict[str, Any], *, again_after: float = 0.0) -> None:
        """Send to the node after the commit, if it is connected then."""
        self.outbox.append((node_id, message, again_after))


class Waiters:
    """Lets long polls sleep until something about their lease changed. `notify` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    @contextmanager
    def watch(self, lease_id: str) -> Iterator[asyncio.Event]:
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._events.setdefault(lease_id, set()).add(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                entries = self._events[lease_id]
                entries.discard(entry)
                if not entries:
                    del self._events[lease_id]

    def notify(self, lease_ids: set[str]) -> None:
        with self._lock:
            entries = [entry for lease_id in lease_ids for entry in self._events.get(lease_id, ())]
        for loop, event in entries:
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(event.set)


class Core:
    """One service. `now` gives aware UTC; tests set the clocks."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        live: Live | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings
        self.database = database
        self.live = live or Live()
        self.now = now
        self.waiters = Waiters()
        self.wake: Callable[[], None] = lambda: None
        self.tenancy_listeners: list[TenancyListener] = []
        # Messages to nodes leave in the order of the commits they follow from.
        self._order = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self.database.read() as session:
            yield session

    @contextmanager
    def change(self) -> Iterator[Unit]:
        """A unit of work: commits at the end of the block, then sends, notifies and wakes. An exception undoes all."""
        with self._order:
            with self.database.write() as session:
                unit = Unit(session, self.now())
                yield unit
            for node_id, message, again_after in unit.outbox:
                self.live.send(node_id, message, again_after=again_after)
            for follower in unit.followers:
                follower()
        self.waiters.notify(unit.touched)
        if unit.wake:
            self.wake()
        if unit.tenancy_changed:
            for listener in self.tenancy_listeners:
                try:
                    listener()
                except Exception:
                    log.exception("a listener for changes of teams and projects failed")
