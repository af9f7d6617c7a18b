"""The sentences for requests that cannot be met, with who holds the devices, when they come free, and what fits now."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.database.models import DeviceRow, Lease, LeaseDevice, Project, Team
from elara_hub.pool.decide import Ask, PoolDevice, Quota
from elara_hub.pool.explain import Nearest, free_at, nearest
from elara_hub.pool.state import holdings, pool_devices, quotas
from elara_hub.refusal import Refusal
from elara_remoting.types import format_memory, format_share

_HOLDERS_SHOWN = 20


def for_verdict(session: Session, project_id: int, ask: Ask, limit: str) -> Refusal:
    """The refusal of a request that met `limit` (see `decide.Verdict`)."""
    devices = pool_devices(session)
    quota = quotas(session, [project_id])[project_id]
    instead = nearest(ask, devices, quota.left)
    by_quota = limit in ("quota", "quota_size")
    moment = free_at(ask, devices, holdings(session), quota, project_id)
    details: dict[str, Any] = {
        "limit": limit,
        "holders": _holders(session, ask, project_id if by_quota else None),
        "free_at": None if moment is None else moment.isoformat(),
        "nearest": None
        if instead is None
        else {"count": instead.count, "share": instead.share, "model": instead.model},
    }
    if by_quota:
        details["quota"] = {"max_device_share": quota.limit, "held": quota.held}
    if limit == "queue":
        details["nearest"] = None
        instead = None
    reason = {"quota": "quota_exceeded", "quota_size": "quota_exceeded", "model": "no_such_model"}.get(
        limit, "not_enough_memory" if limit == "memory" else "no_capacity"
    )
    return Refusal(reason, _sentence(limit, ask, devices, quota), _next_step(limit, instead), details=details)


def _sentence(limit: str, ask: Ask, devices: list[PoolDevice], quota: Quota) -> str:
    wanted = describe(ask)
    models = sorted({device.model for device in devices})
    match limit:
        case "model":
            return f"The pool has no {ask.model!r}; it has {', '.join(models)}."
        case "memory":
            largest = max((d.memory_bytes for d in devices if ask.model in (None, d.model)), default=0)
            wanted = format_memory(ask.memory_bytes or 0)
            return f"No device has {wanted} of memory; the largest has {format_memory(largest)}."
        case "devices" if not devices:
            return "The pool has no devices yet."
        case "devices":
            return f"The pool does not have {wanted}, even when everything is free."
        case "quota_size":
            return f"Your project may hold {_devices(quota.limit)} at once, and this asks for {wanted}."
        case "quota":
            return f"Your project holds {_devices(quota.held)} of the {_devices(quota.limit)} that it may hold at once."
        case "queue":
            return "Devices are free, but others have been waiting for them."
    fitting = [device for device in devices if ask.model in (None, device.model)]
    if fitting and not any(device.usable for device in fitting):
        return "The devices are not available just now: their nodes are not connected, or they are not healthy."
    return f"The free devices do not add up to {wanted} just now."


def _next_step(limit: str, instead: Nearest | None) -> str:
    offer = ""
    if instead is not None:
        share = "whole" if instead.share == 1000 else f"{format_share(instead.share)} of a"
        offer = f"{instead.count} × {share} {instead.model} can be had now."
    match limit:
        case "quota_size":
            return f"{offer or 'Ask for less'} Your team's lead can raise the quota.".replace("less Your", "less. Your")
        case "quota":
            return f"Detach a lease of the project, or wait for one to end. {offer}".strip()
        case "model" | "memory" | "devices":
            return offer or "Ask your administrator which devices there are."
        case "queue":
            return "Ask with waiting switched on to take a place in the queue."
    return f"{offer} Or wait in the queue.".strip() if offer else "Wait in the queue, or try later."


def describe(ask: Ask) -> str:
    """``2 × 1/2 device``, ``1 device with 2.0 GiB``"""
    noun = ask.model or ("device" if ask.count == 1 else "devices")
    if ask.memory_bytes is not None:
        return f"{ask.count} {noun} with {format_memory(ask.memory_bytes)}"
    if ask.share in (None, 1000):
        return f"{ask.count} whole {noun}"
    return f"{ask.count} × {format_share(ask.share or 1000)} {ask.model or 'device'}"


def _devices(share: int) -> str:
    return "1 device" if share == 1000 else f"{format_share(share)} devices"


def _holders(session: Session, ask: Ask, project_id: int | None) -> list[dict[str, Any]]:
    query = (
        select(Lease, Team.slug, Project.slug, LeaseDevice.share)
        .join(LeaseDevice, LeaseDevice.lease_id == Lease.id)
        .join(DeviceRow, DeviceRow.id == LeaseDevice.device_id)
        .join(Project, Project.id == Lease.project_id)
        .join(Team, Team.id == Project.team_id)
        .where(LeaseDevice.released_at.is_(None))
        .order_by(Lease.ends_at, Lease.id)
    )
    if project_id is not None:
        query = query.where(LeaseDevice.project_id == project_id)
    elif ask.model is not None:
        query = query.where(DeviceRow.model == ask.model)
    found: dict[str, dict[str, Any]] = {}
    devices: dict[str, int] = defaultdict(int)
    for lease, team, project, share in session.execute(query.limit(_HOLDERS_SHOWN * 8)):
        devices[lease.id] += 1
        found[lease.id] = {
            "user": lease.user,
            "project": f"{team}/{project}",
            "devices": devices[lease.id],
            "share": share,
            "ends_at": None if lease.ends_at is None else lease.ends_at.isoformat(),
        }
    return list(found.values())[:_HOLDERS_SHOWN]


def _plain(limit: str, reason: str, message: str, next_step: str, **details: Any) -> Refusal:
    filled = {"limit": limit, "holders": [], "free_at": None, "nearest": None} | details
    return Refusal(reason, message, next_step, details=filled)


def too_long(longest: int, wanted: int) -> Refusal:
    return _plain(
        "lease_minutes",
        "lease_too_long",
        f"A lease of your project may run for {longest} minutes at most, and this asks for {wanted}.",
        f"Ask for {longest} minutes or less; a lease can be extended while it runs.",
        longest_minutes=longest,
    )


def extension_too_long(longest: int, most: int) -> Refusal:
    return _plain(
        "lease_minutes",
        "lease_too_long",
        f"A lease of your project may end at most {longest} minutes from now.",
        f"Extend it by {most} minutes or less." if most else "Extend it later, when less time is left.",
        longest_minutes=longest,
        most_minutes=most,
    )


def too_many(most: int, wanted: int) -> Refusal:
    return _plain(
        "count",
        "too_many_devices",
        f"A lease has {most} devices at most, and this asks for {wanted}.",
        f"Ask for {most} devices or fewer.",
        most=most,
    )
