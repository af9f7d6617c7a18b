"""The life of a lease as rows: placed, ready, active, ending, ended. Every change of a lease's state is made here.

A share is free again (`released_at`) only when its node confirmed it or must have let go by its own clock; that is why
`ending` still holds shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from elara_hub.accounting.events import SERVICE, record
from elara_hub.accounting.usage import write_usage
from elara_hub.core import Core, Unit
from elara_hub.database.models import UNFINISHED, WANTED, DeviceRow, Lease, LeaseDevice, LeasePart
from elara_hub.pool.decide import Slot


def sure_end(core: Core, ends_at: datetime) -> datetime:
    """When a node has surely ended a lease that was to end then, even if it never heard from the service again."""
    return ends_at + timedelta(seconds=core.settings.expiry_slack + core.settings.node_clock_margin)


def grant(core: Core, unit: Unit, lease: Lease, slots: Sequence[Slot]) -> None:
    """Take the shares for a queued lease and have its nodes start it."""
    session, now = unit.session, unit.now
    lease.state = "starting"
    lease.placed_at = now
    lease.ends_at = now + timedelta(minutes=lease.minutes)
    lease.share = slots[0].share
    session.flush()
    for ordinal, slot in enumerate(slots):
        session.add(
            LeaseDevice(
                lease_id=lease.id,
                ordinal=ordinal,
                device_id=slot.device,
                node_id=slot.node,
                project_id=lease.project_id,
                share=slot.share,
                memory_bytes=slot.memory_bytes,
            )
        )
        session.execute(
            update(DeviceRow).where(DeviceRow.id == slot.device).values(used_share=DeviceRow.used_share + slot.share)
        )
    for node_id in sorted({slot.node for slot in slots}):
        session.add(
            LeasePart(lease_id=lease.id, node_id=node_id, state="starting", sure_end=sure_end(core, lease.ends_at))
        )
    session.flush()
    record(session, now, "lease.granted", lease.user, lease=lease, share=lease.share, count=lease.count)
    for node_id in sorted({slot.node for slot in slots}):
        tell_start(core, unit, lease, node_id)
    unit.followers.append(lambda: core.live.beat(lease.id))
    unit.touched.add(lease.id)


def tell_start(core: Core, unit: Unit, lease: Lease, node_id: str, *, again_after: float = 0.0) -> None:
    """Have the node ready its part; asking again is harmless."""
    rows = unit.session.execute(
        select(LeaseDevice, DeviceRow.uuid)
        .join(DeviceRow, DeviceRow.id == LeaseDevice.device_id)
        .where(LeaseDevice.lease_id == lease.id, LeaseDevice.node_id == node_id)
        .order_by(LeaseDevice.ordinal)
    )
    unit.tell(
        node_id,
        {
            "type": "lease_start",
            "lease_id": lease.id,
            "generation": lease.generation,
            "ttl_seconds": ttl(core, unit.now, lease),
            "devices": [
                {"uuid": uuid, "ordinal": held.ordinal, "share": held.share, "memory_bytes": held.memory_bytes}
                for held, uuid in rows
            ],
        },
        again_after=again_after,
    )


def ttl(core: Core, now: datetime, lease: Lease) -> float:
    """Seconds after which a node ends the lease by itself."""
    left = (lease.ends_at - now).total_seconds() if lease.ends_at is not None else 0.0
    return max(0.0, left) + core.settings.expiry_slack


def part_ready(core: Core, unit: Unit, lease: Lease, part: LeasePart) -> None:
    """A node has its devices ready; the lease is active once all its nodes have."""
    if lease.target != "active" or part.state != "starting":
        return
    part.state = "ready"
    unit.session.flush()
    states = unit.session.scalars(select(LeasePart.state).where(LeasePart.lease_id == lease.id)).all()
    if lease.state == "starting" and all(state == "ready" for state in states):
        lease.state = "active"
        lease.active_at = unit.now
        record(unit.session, unit.now, "lease.active", SERVICE, lease=lease)
        tell_neighbours(core, unit, lease)
    unit.touched.add(lease.id)


def tell_neighbours(core: Core, unit: Unit, lease: Lease) -> None:
    """Tell each node of an active lease where the lease's devices on other nodes are, for copies between them."""
    where = {grant.ordinal: grant.tcp for grant in core.live.grants(lease.id)}
    rows = unit.session.execute(
        select(LeaseDevice.ordinal, LeaseDevice.node_id).where(LeaseDevice.lease_id == lease.id)
    ).all()
    nodes = {node_id for _, node_id in rows}
    if len(nodes) < 2:
        return
    for node_id in sorted(nodes):
        others = [(ordinal, where.get(ordinal)) for ordinal, owner in rows if owner != node_id]
        devices = [{"ordinal": ordinal, "tcp": tcp} for ordinal, tcp in sorted(others) if tcp]
        unit.tell(node_id, {"type": "lease_neighbours", "lease_id": lease.id, "devices": devices})


def end(core: Core, unit: Unit, lease: Lease, reason: str, message: str, actor: str = SERVICE) -> None:
    """Turn the lease towards its end; nothing happens when it is on the way there already."""
    if lease.target == "ended":
        return
    lease.target = "ended"
    lease.end_reason = reason
    lease.end_message = message
    unit.touched.add(lease.id)
    record(unit.session, unit.now, "lease.ending", actor, lease=lease, reason=reason)
    parts = unit.session.scalars(
        select(LeasePart).where(LeasePart.lease_id == lease.id, LeasePart.state != "released")
    ).all()
    lease.state = "ending"
    unit.followers.append(lambda: core.live.quiet(lease.id))
    for part in parts:
        part.state = "stopping"
        tell_stop(unit, lease, part.node_id)
    unit.session.flush()
    if not parts:
        _finish(core, unit, lease)
    unit.wake = True


def tell_stop(unit: Unit, lease: Lease, node_id: str, *, again_after: float = 0.0) -> None:
    message = {"type": "lease_stop", "lease_id": lease.id, "reason": lease.end_reason or "ended"}
    unit.tell(node_id, message, again_after=again_after)


def release_part(
    core: Core,
    unit: Unit,
    lease: Lease,
    part: LeasePart,
    *,
    usage: dict[str, Any] | None = None,
    presumed: bool = False,
) -> None:
    """The node holds nothing of the lease any more: its shares may be granted again.

    `presumed`: the node did not say so, its own clock must have ended it.
    """
    if part.state == "released":
        return
    session, now = unit.session, unit.now
    part.state = "released"
    part.released_at = now
    part.usage = usage
    part.used_until = min(_used_until(lease, usage) or part.used_until or now, now, lease.ends_at or now)
    held = session.scalars(
        select(LeaseDevice).where(
            LeaseDevice.lease_id == lease.id, LeaseDevice.node_id == part.node_id, LeaseDevice.released_at.is_(None)
        )
    ).all()
    back: dict[int, int] = defaultdict(int)
    for row in held:
        row.released_at = now
        back[row.device_id] += row.share
    for device_id, share in back.items():
        session.execute(
            update(DeviceRow).where(DeviceRow.id == device_id).values(used_share=DeviceRow.used_share - share)
        )
    if presumed:
        record(session, now, "lease.presumed_released", SERVICE, lease=lease, node_id=part.node_id)
    session.flush()
    left = session.scalars(
        select(LeasePart.node_id).where(LeasePart.lease_id == lease.id, LeasePart.state != "released")
    ).first()
    if left is None and lease.target == "ended":
        _finish(core, unit, lease)
    unit.touched.add(lease.id)
    unit.wake = True


def _used_until(lease: Lease, usage: dict[str, Any] | None) -> datetime | None:
    """The end of use by the node's own account: it may have ended the lease long before it could say so."""
    seconds = (usage or {}).get("seconds")
    if lease.placed_at is None or not isinstance(seconds, int | float) or not 0 <= seconds < 10**9:
        return None
    return (lease.active_at or lease.placed_at) + timedelta(seconds=seconds)


def _finish(core: Core, unit: Unit, lease: Lease) -> None:
    lease.state = "ended"
    lease.ended_at = unit.now
    unit.session.flush()
    write_usage(unit.session, lease, unit.now)
    record(unit.session, unit.now, "lease.ended", SERVICE, lease=lease, reason=lease.end_reason)
    unit.followers.append(lambda: core.live.forget(lease.id))


def end_leases_of(
    core: Core,
    unit: Unit,
    reason: str,
    message: str,
    actor: str,
    *,
    workspace_id: int | None = None,
    project_id: int | None = None,
    user: str | None = None,
) -> None:
    """End every lease of a workspace, a project, a user, or of a user in a project."""
    query = select(Lease).where(UNFINISHED, WANTED)
    if workspace_id is not None:
        query = query.where(Lease.workspace_id == workspace_id)
    if project_id is not None:
        query = query.where(Lease.project_id == project_id)
    if user is not None:
        query = query.where(Lease.user == user)
    for lease in unit.session.scalars(query).all():
        end(core, unit, lease, reason, message, actor)
