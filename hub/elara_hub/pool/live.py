"""What the service knows only while it runs: connected nodes, grants with their secrets, signs of life.

None of it is in the database: secrets must not rest on a disk, and the rest is stale after a restart anyway. A node's
next `hello` brings grants again; signs of life begin anew, so that a restart of the service ends nobody's lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from elara_remoting.types import Grant


class Channel(Protocol):
    """The way to one connected node. `send` may be called from any thread and keeps the order of its calls."""

    node_id: str

    def send(self, message: dict[str, Any]) -> None: ...

    def close(self, reason: str) -> None: ...


@dataclass
class Activity:
    """Of a lease on one node, as last reported. `used_bytes` by the device's ordinal in the lease."""

    used_bytes: dict[int, int] = field(default_factory=dict)
    busy: bool = False
    last_active: float | None = None
    sessions: int = 0


class Live:
    """Thread-safe. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._heard: set[str] = set()
        self._lost_at: dict[str, float] = {}
        self._grants: dict[str, dict[int, Grant]] = {}
        self._activity: dict[str, dict[str, Activity]] = {}
        self._beats: dict[str, float] = {}
        self._sent: dict[tuple[str, str, str], float] = {}

    # nodes
    def connect(self, channel: Channel) -> Channel | None:
        """Take over a node's channel; returns the one it replaces."""
        with self._lock:
            old = self._channels.get(channel.node_id)
            self._channels[channel.node_id] = channel
            self._heard.discard(channel.node_id)
            self._lost_at.pop(channel.node_id, None)
            # What went into an earlier channel may never have arrived.
            self._sent = {key: at for key, at in self._sent.items() if key[0] != channel.node_id}
            return old

    def disconnect(self, channel: Channel) -> bool:
        """False when another channel of the same node has taken over."""
        with self._lock:
            if self._channels.get(channel.node_id) is not channel:
                return False
            del self._channels[channel.node_id]
            self._lost_at[channel.node_id] = self.clock()
            return True

    def expect(self, node_ids: Iterable[str]) -> None:
        """At a start of the service: these nodes are not connected yet, and get the usual time for it."""
        with self._lock:
            for node_id in node_ids:
                self._lost_at.setdefault(node_id, self.clock())

    def channel(self, node_id: str) -> Channel | None:
        with self._lock:
            return self._channels.get(node_id)

    def connected(self) -> set[str]:
        with self._lock:
            return set(self._channels)

    def mark_heard(self, node_id: str) -> None:
        """What the node had to tell at its connection has been taken in."""
        with self._lock:
            self._heard.add(node_id)

    def heard(self) -> set[str]:
        """Connected nodes that have told what became of their leases."""
        with self._lock:
            return self._heard & set(self._channels)

    def lost_longer_than(self, seconds: float) -> list[str]:
        with self._lock:
            limit = self.clock() - seconds
            return [node for node, at in self._lost_at.items() if at <= limit]

    def send(self, node_id: str, message: dict[str, Any], *, again_after: float = 0.0) -> None:
        """Send if the node is connected and the same message about the same lease was not sent just before."""
        with self._lock:
            channel = self._channels.get(node_id)
            key = (node_id, str(message.get("lease_id")), str(message["type"]))
            sent = self._sent.get(key)
            if channel is None or (sent is not None and self.clock() - sent < again_after):
                return
            self._sent[key] = self.clock()
            channel.send(message)

    # leases
    def beat(self, lease_id: str) -> None:
        """The workspace of this lease gave a sign of life."""
        with self._lock:
            self._beats[lease_id] = self.clock()

    def silent_longer_than(self, seconds: float) -> list[str]:
        with self._lock:
            limit = self.clock() - seconds
            return [lease for lease, at in self._beats.items() if at <= limit]

    def set_grants(self, lease_id: str, grants: Iterable[Grant]) -> None:
        with self._lock:
            self._grants.setdefault(lease_id, {}).update({grant.ordinal: grant for grant in grants})

    def grants(self, lease_id: str) -> list[Grant]:
        """In the order of the devices."""
        with self._lock:
            return [grant for _, grant in sorted(self._grants.get(lease_id, {}).items())]

    def set_activity(self, lease_id: str, node_id: str, activity: Activity) -> None:
        with self._lock:
            self._activity.setdefault(lease_id, {})[node_id] = activity

    def activity(self, lease_id: str) -> Activity:
        """Of the whole lease, over its nodes."""
        with self._lock:
            parts = list(self._activity.get(lease_id, {}).values())
        merged = Activity()
        for part in parts:
            merged.used_bytes |= part.used_bytes
            merged.busy |= part.busy
            merged.sessions += part.sessions
            if part.last_active is not None:
                merged.last_active = max(merged.last_active or 0.0, part.last_active)
        return merged

    def quiet(self, lease_id: str) -> None:
        """The lease is on its way out: its secrets and signs of life are of no more use."""
        with self._lock:
            self._beats.pop(lease_id, None)
            self._grants.pop(lease_id, None)

    def forget(self, lease_id: str) -> None:
        with self._lock:
            for table in (self._beats, self._grants, self._activity):
                table.pop(lease_id, None)
            for key in [key for key in self._sent if key[1] == lease_id]:
                del self._sent[key]
