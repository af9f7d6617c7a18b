"""What to tell somebody whose request cannot be met now: when it can, and what can be had instead. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from elara_hub.pool.decide import Ask, PoolDevice, Quota, kinds, lasting_limit, place
from elara_remoting.types import WHOLE

_SHARES = (WHOLE, 500, 250, 125, 100, 50)
"""The shares that pages offer; a suggestion is one of them."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A share that somebody has now. `ends_at` None: nobody knows when it comes free."""

    device: int
    project: int
    share: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest request that would be granted at once."""

    count: int
    share: int
    model: str


def nearest(ask: Ask, devices: Iterable[PoolDevice], quota_left: int) -> Nearest | None:
    """Fewer devices, then smaller shares, then another model; None when nothing at all is free."""
    pool = list(devices)
    by_kind = kinds(device for device in pool if device.usable and device.free > 0)
    models = {device.id: device.model for device in pool}
    wanted = [ask.model] if ask.model is not None else []
    for model in (*wanted, None):
        for candidate in _lesser(replace(ask, model=model)):
            slots = place(candidate, by_kind, quota_left)
            if slots:
                return Nearest(len(slots), slots[0].share, models[slots[0].device])
    return None


def _lesser(ask: Ask) -> Iterable[Ask]:
    for count in range(ask.count, 0, -1):
        yield replace(ask, count=count)
    limit = ask.share or WHOLE
    for share in _SHARES:
        if share < limit or ask.memory_bytes is not None:
            yield Ask(1, share, None, ask.model)


def free_at(
    ask: Ask, devices: Iterable[PoolDevice], holdings: Sequence[Holding], quota: Quota, project: int
) -> datetime | None:
    """The earliest end of a lease after which `ask` would fit if nobody else came, or None when that is unknown."""
    pool = list(devices)
    if lasting_limit(ask, kinds(pool), quota.limit) is not None:
        return None
    known = sorted((h for h in holdings if h.ends_at is not None), key=lambda h: (h.ends_at, h.device))
    times = sorted({h.ends_at for h in known if h.ends_at is not None})

    def fits(moment: datetime) -> bool:
        back: dict[int, int] = defaultdict(int)
        quota_left = quota.left
        for holding in known:
            if holding.ends_at is not None and holding.ends_at <= moment:
                back[holding.device] += holding.share
                quota_left += holding.share if holding.project == project else 0
        later = [replace(d, free=min(WHOLE, d.free + back[d.id])) if d.id in back else d for d in pool]
        return place(ask, kinds(later), quota_left) is not None

    if not times or not fits(times[-1]):
        return None
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(times[middle]):
            high = middle
        else:
            low = middle + 1
    return times[low]
