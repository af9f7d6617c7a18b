"""Reads from the database what the pure decisions work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from elara_hub.database.models import UNFINISHED, WANTED, DeviceRow, Lease, LeaseDevice, Node, Project
from elara_hub.pool.decide import Ask, Entry, PoolDevice, Quota
from elara_hub.pool.explain import Holding
from elara_remoting.types import WHOLE


def ask_of(lease: Lease) -> Ask:
    return Ask(lease.count, lease.wanted_share, lease.wanted_memory, lease.wanted_model)


def pool_devices(session: Session, *, roomy_for: Sequence[Ask] | None = None) -> list[PoolDevice]:
    """All devices of the pool; with `roomy_for`, only usable ones on which one of these might find room.

    The narrow form is the way of an ordinary request: in a busy pool it reads few rows.
    """
    row = DeviceRow
    query = select(
        row.id, row.node_id, row.model, row.memory_bytes, row.emulated, WHOLE - row.used_share, row.usable
    ).where(row.present)
    if roomy_for is None:
        query = query.join(Node, Node.id == row.node_id).where(Node.removed_at.is_(None))
    else:
        least = min(ask.share or 1 for ask in roomy_for)
        query = query.where(row.usable, row.used_share <= WHOLE - least)
        models = {ask.model for ask in roomy_for}
        if None not in models:
            query = query.where(row.model.in_(sorted(str(model) for model in models)))
    return [PoolDevice(*values) for values in session.execute(query)]


def quotas(session: Session, project_ids: Iterable[int]) -> dict[int, Quota]:
    """What each project may hold and holds, in thousandths of devices. Shares that are being released count."""
    wanted = set(project_ids)
    held = dict(
        session.execute(
            select(LeaseDevice.project_id, func.sum(LeaseDevice.share))
            .where(LeaseDevice.released_at.is_(None), LeaseDevice.project_id.in_(wanted))
            .group_by(LeaseDevice.project_id)
        ).all()
    )
    limits = session.execute(select(Project.id, Project.max_device_share).where(Project.id.in_(wanted)))
    return {project: Quota(limit, int(held.get(project) or 0)) for project, limit in limits}


def queued_leases(session: Session) -> list[Lease]:
    """In the order of service."""
    query = select(Lease).where(UNFINISHED, WANTED, Lease.state == "queued")
    return list(session.scalars(query.order_by(Lease.created_at, Lease.id)))


def entries_of(leases: Iterable[Lease]) -> list[Entry]:
    return [Entry(lease.project_id, ask_of(lease)) for lease in leases]


def holdings(session: Session) -> list[Holding]:
    """Every share that is not free now."""
    query = (
        select(LeaseDevice.device_id, LeaseDevice.project_id, LeaseDevice.share, Lease.ends_at)
        .join(Lease, Lease.id == LeaseDevice.lease_id)
        .where(LeaseDevice.released_at.is_(None))
    )
    return [Holding(*values) for values in session.execute(query)]
