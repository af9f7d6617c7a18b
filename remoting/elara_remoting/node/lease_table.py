"""What a node decides about leases: events in, actions out, no I/O and no clock of its own.

A lease is `starting` while its ledgers and secrets are made, `active` while sessions may come, `ending` while its
device servers are being stopped; then it is gone and only its confirmation is remembered. Whoever drives the table
carries the actions out and reports back with `prepared` and `stopped`. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from elara_remoting.types import WHOLE, Device

REMEMBERED = 1000
"""How many ended leases a node can still confirm when it is asked again."""


class State(StrEnum):
    STARTING = "starting"
    ACTIVE = "active"
    ENDING = "ending"


@dataclass(frozen=True)
class LeaseDevice:
    """One device of a lease as the service asks for it."""

    uuid: str
    ordinal: int
    share: int
    memory_bytes: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LeaseDevice:
        return cls(str(data["uuid"]), int(data["ordinal"]), int(data["share"]), int(data["memory_bytes"]))


@dataclass(frozen=True)
class StartRequest:
    """`lease_start` of the node channel. `ttl_seconds` None: until it is stopped (a lease without a service)."""

    lease_id: str
    generation: int
    devices: tuple[LeaseDevice, ...]
    ttl_seconds: float | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StartRequest:
        devices = tuple(LeaseDevice.from_json(entry) for entry in data["devices"])
        return cls(canonical_id(data["lease_id"]), int(data["generation"]), devices, float(data["ttl_seconds"]))


@dataclass
class Row:
    """One lease of the table."""

    request: StartRequest
    state: State
    deadline: float | None
    started_at: float
    end_reason: str = ""
    successor: StartRequest | None = field(default=None)


@dataclass(frozen=True)
class Prepare:
    """Make the lease's ledgers, certificate and secret, then report `prepared`."""

    request: StartRequest


@dataclass(frozen=True)
class Announce:
    """Tell the service that the lease is ready (again)."""

    lease_id: str
    generation: int


@dataclass(frozen=True)
class Fail:
    """Tell the service that the lease could not be started."""

    lease_id: str
    generation: int
    reason: str
    message: str


@dataclass(frozen=True)
class Stop:
    """End the lease's device servers, free its memory, then report `stopped` with its usage."""

    lease_id: str
    reason: str


@dataclass(frozen=True)
class Confirm:
    """Tell the service that nothing of the lease is left."""

    lease_id: str
    generation: int
    reason: str
    usage: dict[str, Any]


Action = Prepare | Announce | Fail | Stop | Confirm


def canonical_id(text: Any) -> str:
    """A lease id as 32 hex characters, however the UUID was written.

    Raises:
        ValueError: it is none.
    """
    plain = str(text).replace("-", "").lower()
    if len(plain) != 32 or any(character not in "0123456789abcdef" for character in plain):
        raise ValueError(f"{text!r} is not a lease id")
    return plain


class LeaseTable:
    """The node's leases. `devices` are the node's own; a lease on any other is refused."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._devices = {device.uuid: device for device in devices}
        self.rows: dict[str, Row] = {}
        self._ended: OrderedDict[str, Confirm] = OrderedDict()

    def start(self, request: StartRequest, now: float) -> list[Action]:
        """The service wants the lease. Asking again is harmless: the same generation is announced again."""
        row = self.rows.get(request.lease_id)
        if row is not None and request.generation < row.request.generation:
            return [self._stale(request)]
        if row is not None and request.generation == row.request.generation and row.state != State.ENDING:
            row.deadline = _deadline(request, now)
            return [Announce(request.lease_id, request.generation)] if row.state == State.ACTIVE else []
        if row is not None:
            if row.successor is None or request.generation >= row.successor.generation:
                row.successor = request
            return self._end(request.lease_id, "replaced")
        past = self._ended.get(request.lease_id)
        if past is not None and request.generation <= past.generation:
            # An order that was overtaken by its own end must not bring the lease back to life.
            return [past]
        refusal = self._refusal(request)
        if refusal is not None:
            return [refusal]
        self.rows[request.lease_id] = Row(request, State.STARTING, _deadline(request, now), now)
        return [Prepare(request)]

    def prepared(self, lease_id: str, generation: int) -> list[Action]:
        """`Prepare` is done."""
        row = self.rows.get(lease_id)
        if row is None or row.request.generation != generation or row.state != State.STARTING:
            return []
        row.state = State.ACTIVE
        return [Announce(lease_id, generation)]

    def extend(self, lease_id: str, ttl_seconds: float, now: float) -> bool:
        """Let the lease end `ttl_seconds` from now (sooner or later than before); False when there is no such lease."""
        row = self.rows.get(lease_id)
        if row is None or row.state == State.ENDING:
            return False
        row.deadline = now + ttl_seconds
        return True

    def stop(self, lease_id: str, reason: str) -> list[Action]:
        """The lease shall end. One that is not here is confirmed as ended, with what is remembered of it."""
        if lease_id in self.rows:
            self.rows[lease_id].successor = None
            return self._end(lease_id, reason)
        return [self._ended.get(lease_id) or Confirm(lease_id, 0, "unknown", {})]

    def expire(self, now: float) -> list[Action]:
        """End what has outlived its time."""
        due = [key for key, row in self.rows.items() if row.deadline is not None and row.deadline <= now]
        return [action for key in due for action in self._end(key, "expired")]

    def stopped(self, lease_id: str, usage: dict[str, Any], now: float) -> list[Action]:
        """`Stop` is done: the lease is gone, and its successor may start."""
        row = self.rows.pop(lease_id, None)
        if row is None:
            return []
        confirmation = Confirm(lease_id, row.request.generation, row.end_reason, usage)
        self.remember(confirmation)
        return [confirmation, *(self.start(row.successor, now) if row.successor is not None else [])]

    def remember(self, confirmation: Confirm) -> None:
        """Keep the confirmation of a lease that ended, also one of the agent's former life."""
        self._ended[confirmation.lease_id] = confirmation
        self._ended.move_to_end(confirmation.lease_id)
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        times = [row.deadline for row in self.rows.values() if row.deadline is not None and row.state != State.ENDING]
        return min(times, default=None)

    def shares(self) -> dict[str, int]:
        """Thousandths leased of each device, by uuid; a lease that is ending still holds its share."""
        held = dict.fromkeys(self._devices, 0)
        for row in self.rows.values():
            for device in row.request.devices:
                held[device.uuid] += device.share
        return held

    def _end(self, lease_id: str, reason: str) -> list[Action]:
        row = self.rows[lease_id]
        if row.state == State.ENDING:
            return []
        row.state, row.end_reason = State.ENDING, reason
        return [Stop(lease_id, reason)]

    @staticmethod
    def _stale(request: StartRequest) -> Fail:
        return Fail(
            request.lease_id, request.generation, "stale", "The node already has a later generation of this lease."
        )

    def _refusal(self, request: StartRequest) -> Fail | None:
        """Why the lease cannot be had. The service places leases; this is the node's own guard against a mistake."""

        def fail(reason: str, message: str) -> Fail:
            return Fail(request.lease_id, request.generation, reason, message)

        # A lease may span nodes, so the ordinals here need not begin at 0, but none may stand twice.
        ordinals = [device.ordinal for device in request.devices]
        if not ordinals or len(set(ordinals)) != len(ordinals) or not all(0 <= ordinal <= 255 for ordinal in ordinals):
            return fail("bad_request", "The lease names no devices, or a device ordinal twice.")
        held = self.shares()
        memory = dict.fromkeys(self._devices, 0)
        for row in self.rows.values():
            for device in row.request.devices:
                memory[device.uuid] += device.memory_bytes
        for wanted in request.devices:
            known = self._devices.get(wanted.uuid)
            if known is None:
                return fail("unknown_device", f"The node has no device {wanted.uuid}.")
            if not 1 <= wanted.share <= WHOLE or wanted.memory_bytes <= 0:
                return fail("bad_request", "A share must be 1 to 1000 thousandths, and the memory more than nothing.")
            held[wanted.uuid] += wanted.share
            memory[wanted.uuid] += wanted.memory_bytes
            if held[wanted.uuid] > WHOLE or memory[wanted.uuid] > known.memory_bytes:
                return fail("device_full", f"Device {wanted.uuid} has not enough left for this lease.")
        return None


def _deadline(request: StartRequest, now: float) -> float | None:
    return None if request.ttl_seconds is None else now + request.ttl_seconds
