"""Who gets which devices: pure functions of state. Nothing here reads a clock, a database or a socket.

The rules
- A lease's devices are distinct, of one model and memory size, and on one node where one node can hold them.
- A share packs onto the fullest device that still has room, so that whole devices stay whole.
- Real devices come before emulated ones, and of those that would do, the ones with less memory.
- The queue is served in order. One that waits for devices holds back later ones that could take the same devices; one
  that waits for its project's quota holds back nobody but its project.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from elara_remoting.types import WHOLE


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for. `share` in thousandths or `memory_bytes`, one of the two; `model` None takes any."""

    count: int
    share: int | None
    memory_bytes: int | None = None
    model: str | None = None

    def share_on(self, device_memory: int) -> int:
        """Thousandths needed of a device with that memory; above 1000 when it has too little."""
        if self.memory_bytes is not None:
            return -(-WHOLE * self.memory_bytes // device_memory)
        return self.share or WHOLE

    def competes_with(self, other: Ask) -> bool:
        return self.model is None or other.model is None or self.model == other.model


@dataclass(frozen=True, slots=True)
class PoolDevice:
    """A device as placement sees it. `usable`: healthy, and its node is connected. `free` in thousandths."""

    id: int
    node: str
    model: str
    memory_bytes: int
    emulated: bool
    free: int
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Slot:
    """One device of a placement."""

    device: int
    node: str
    share: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Either `slots`, or the `limit` that stands in the way.

    Limits that time may lift: ``quota``, ``capacity``, ``queue``. Limits that only another request or an administrator
    lifts (`lasting`): ``model``, ``memory``, ``devices``, ``quota_size``.
    """

    slots: tuple[Slot, ...] = ()
    limit: str | None = None

    @property
    def lasting(self) -> bool:
        return self.limit in ("model", "memory", "devices", "quota_size")


@dataclass(frozen=True, slots=True)
class Entry:
    """A request in the queue; `project` is the key of its quota."""

    project: int
    ask: Ask


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one project, in thousandths of devices."""

    limit: int
    held: int

    @property
    def left(self) -> int:
        return self.limit - self.held


_Kind = tuple[bool, int, str]  # emulated, memory, model: sorts in the order of preference


def kinds(devices: Iterable[PoolDevice]) -> dict[_Kind, list[PoolDevice]]:
    """Devices by what may stand in for one another, the preferred kind first."""
    found: dict[_Kind, list[PoolDevice]] = defaultdict(list)
    for device in devices:
        found[device.emulated, device.memory_bytes, device.model].append(device)
    return dict(sorted(found.items()))


def slot_memory(device_memory: int, share: int) -> int:
    """Bytes that a share of a device may use."""
    return device_memory * share // WHOLE


def place(ask: Ask, by_kind: Mapping[_Kind, Sequence[PoolDevice]], quota_left: int) -> tuple[Slot, ...] | None:
    """Find devices for `ask`, or None when there are none now."""
    for (_, memory, model), devices in by_kind.items():
        share = ask.share_on(memory)
        if (ask.model is not None and ask.model != model) or share > WHOLE or ask.count * share > quota_left:
            continue
        chosen = _choose(ask.count, share, devices)
        if chosen:
            size = slot_memory(memory, share)
            return tuple(Slot(device.id, device.node, share, size) for device in chosen)
    return None


def _choose(count: int, share: int, devices: Sequence[PoolDevice]) -> list[PoolDevice]:
    fitting = [device for device in devices if device.usable and device.free >= share]
    if len(fitting) < count:
        return []
    if count == 1 and share < WHOLE:
        return [min(fitting, key=lambda device: (device.free, device.id))]
    nodes: dict[str, list[PoolDevice]] = defaultdict(list)
    for device in fitting:
        nodes[device.node].append(device)
    for group in nodes.values():
        group.sort(key=lambda device: (device.free, device.id))
    roomy = [group for group in nodes.values() if len(group) >= count]
    if roomy:
        # The node that is left with the least: nodes with many free devices stay for those who ask for many.
        best = min(roomy, key=lambda group: (len(group), sum(d.free for d in group[:count]), group[0].id))
        return best[:count]
    chosen: list[PoolDevice] = []
    for group in sorted(nodes.values(), key=lambda group: (-len(group), group[0].id)):
        chosen += group[: count - len(chosen)]
        if len(chosen) == count:
            break
    return chosen


def serve(entries: Sequence[Entry], devices: Iterable[PoolDevice], quotas: Mapping[int, Quota]) -> list[Verdict]:
    """Go through the queue once, in order, and say of each entry what it gets or what it lacks."""
    by_kind = kinds(devices)
    left = {project: quota.left for project, quota in quotas.items()}
    waiting: list[Ask] = []
    verdicts = []
    for entry in entries:
        limit = lasting_limit(entry.ask, by_kind, quotas[entry.project].limit)
        slots = None if limit else place(entry.ask, by_kind, left[entry.project])
        if slots is not None and any(entry.ask.competes_with(ask) for ask in waiting):
            slots, limit = None, "queue"
        if slots is not None:
            left[entry.project] -= sum(slot.share for slot in slots)
            by_kind = _without(by_kind, slots)
            verdicts.append(Verdict(slots))
            continue
        if limit is None:
            limit = "capacity" if place(entry.ask, by_kind, quotas[entry.project].limit) is None else "quota"
            if limit == "capacity" and not _within(entry.ask, by_kind, left[entry.project]):
                limit = "quota"
        if limit == "capacity":
            waiting.append(entry.ask)
        verdicts.append(Verdict(limit=limit))
    return verdicts


def lasting_limit(ask: Ask, by_kind: Mapping[_Kind, Sequence[PoolDevice]], quota: int) -> str | None:
    """The limit that this request meets however long it waits, or None."""
    known = {key: devices for key, devices in by_kind.items() if ask.model in (None, key[2])}
    if not known:
        return "model" if ask.model is not None and by_kind else "devices"
    large = {key: devices for key, devices in known.items() if ask.share_on(key[1]) <= WHOLE}
    if not large:
        return "memory"
    many = [key for key, devices in large.items() if len(devices) >= ask.count]
    if not many:
        return "devices"
    if all(ask.count * ask.share_on(key[1]) > quota for key in many):
        return "quota_size"
    return None


def _within(ask: Ask, by_kind: Mapping[_Kind, Sequence[PoolDevice]], quota_left: int) -> bool:
    return any(
        ask.count * ask.share_on(memory) <= quota_left
        for (_, memory, model) in by_kind
        if ask.model in (None, model) and ask.share_on(memory) <= WHOLE
    )


def _without(by_kind: Mapping[_Kind, Sequence[PoolDevice]], slots: Sequence[Slot]) -> dict[_Kind, list[PoolDevice]]:
    taken = {slot.device: slot.share for slot in slots}
    return {
        key: [replace(d, free=d.free - taken[d.id]) if d.id in taken else d for d in devices]
        for key, devices in by_kind.items()
    }
