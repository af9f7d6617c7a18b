"""Leases, pool and nodes as the REST and the pages show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from elara_hub.core import Core
from elara_hub.database.models import UNFINISHED, WANTED, DeviceRow, Lease, LeaseDevice, Node, Project, Team
from elara_hub.pool.live import Live
from elara_hub.pool.state import queued_leases
from elara_remoting.types import WHOLE


def lease_json(core: Core, session: Session, leases: Sequence[Lease]) -> list[dict[str, Any]]:
    """The `Lease` objects of the contract, in the order given."""
    ids = [lease.id for lease in leases]
    places = project_places(session, {lease.project_id for lease in leases})
    devices: dict[str, list[tuple[LeaseDevice, DeviceRow, str]]] = defaultdict(list)
    query = (
        select(LeaseDevice, DeviceRow, Node.name)
        .join(DeviceRow, DeviceRow.id == LeaseDevice.device_id)
        .join(Node, Node.id == LeaseDevice.node_id)
        .where(LeaseDevice.lease_id.in_(ids))
        .order_by(LeaseDevice.lease_id, LeaseDevice.ordinal)
    )
    for held, device, node in session.execute(query):
        devices[held.lease_id].append((held, device, node))
    waiting = [lease.id for lease in queued_leases(session)] if any(lease.state == "queued" for lease in leases) else []
    return [_one(core.live, lease, places[lease.project_id], devices[lease.id], waiting) for lease in leases]


def _one(
    live: Live,
    lease: Lease,
    place: tuple[str, str],
    devices: Sequence[tuple[LeaseDevice, DeviceRow, str]],
    waiting: Sequence[str],
) -> dict[str, Any]:
    activity = live.activity(lease.id)
    running = lease.state == "active"
    return {
        "id": lease.id,
        "state": lease.state,
        "user": lease.user,
        "server": lease.server,
        "team": place[0],
        "project": place[1],
        "count": lease.count,
        "share": lease.share if lease.share is not None else lease.wanted_share,
        "memory_bytes": devices[0][0].memory_bytes if devices else lease.wanted_memory,
        "devices": [
            {
                "ordinal": held.ordinal,
                "uuid": device.uuid,
                "model": device.model,
                "emulated": device.emulated,
                "node": node,
                "share": held.share,
                "memory_bytes": held.memory_bytes,
                "used_bytes": activity.used_bytes.get(held.ordinal, 0) if running else 0,
            }
            for held, device, node in devices
        ],
        "created_at": stamp(lease.created_at),
        "active_at": stamp(lease.active_at),
        "ends_at": stamp(lease.ends_at),
        "ended_at": stamp(lease.ended_at),
        "end_reason": lease.end_reason,
        "end_message": lease.end_message,
        "busy": running and activity.busy,
        "last_active": None
        if activity.last_active is None
        else stamp(datetime.fromtimestamp(activity.last_active, UTC)),
        "queue_position": waiting.index(lease.id) + 1 if lease.id in waiting else None,
    }


def attachment_json(core: Core, session: Session, lease: Lease) -> dict[str, Any] | None:
    """The grants with their devices' facts; None while the nodes have not (again) told the grants."""
    grants = {grant.ordinal: grant for grant in core.live.grants(lease.id)}
    query = (
        select(LeaseDevice, DeviceRow)
        .join(DeviceRow, DeviceRow.id == LeaseDevice.device_id)
        .where(LeaseDevice.lease_id == lease.id)
        .order_by(LeaseDevice.ordinal)
    )
    rows = session.execute(query).all()
    if not rows or {held.ordinal for held, _ in rows} != set(grants):
        return None
    return {
        "lease_id": lease.id,
        "devices": [
            grants[held.ordinal].to_json()
            | {"model": device.model, "uuid": device.uuid, "emulated": device.emulated, "share": held.share}
            for held, device in rows
        ],
    }


def pool_json(session: Session) -> dict[str, Any]:
    """Devices by model. Free counts only what could be granted now."""
    row = DeviceRow
    free = WHOLE - row.used_share
    query = (
        select(
            row.model,
            row.emulated,
            row.memory_bytes,
            func.count(),
            func.sum(_one_if(row.healthy)),
            func.sum(_one_if(row.usable & (row.used_share == 0))),
            func.sum(_some_if(row.usable, free)),
            func.max(_some_if(row.usable, free)),
        )
        .where(row.present)
        .group_by(row.model, row.emulated, row.memory_bytes)
        .order_by(row.emulated, row.memory_bytes.desc(), row.model)
    )
    names = ("model", "emulated", "memory_bytes", "devices", "healthy", "free_whole", "free_share_total")
    models = []
    for values in session.execute(query):
        model = dict(zip((*names, "largest_free_share"), values, strict=True))
        models.append({key: value if key in ("model", "emulated") else int(value or 0) for key, value in model.items()})
    queued = session.scalar(select(func.count()).select_from(Lease).where(UNFINISHED, WANTED, Lease.state == "queued"))
    return {"devices_total": sum(model["devices"] for model in models), "models": models, "queued": int(queued or 0)}


def _one_if(condition: Any) -> Any:
    return _some_if(condition, 1)


def _some_if(condition: Any, value: Any) -> Any:
    return case((condition, value), else_=0)


def node_json(live: Live, session: Session, nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """Nodes with their devices and who holds them."""
    listed = list(nodes)
    devices: dict[str, list[DeviceRow]] = defaultdict(list)
    query = select(DeviceRow).where(DeviceRow.node_id.in_([node.id for node in listed]), DeviceRow.present)
    for device in session.scalars(query.order_by(DeviceRow.ordinal)):
        devices[device.node_id].append(device)
    connected = live.connected()
    return [
        {
            "id": node.id,
            "name": node.name,
            "connected": node.id in connected,
            "last_seen": stamp(node.last_seen),
            "agent_version": node.agent_version,
            "device_users": node.device_users,
            "created_at": stamp(node.created_at),
            "devices": [
                {
                    "uuid": device.uuid,
                    "index": device.ordinal,
                    "model": device.model,
                    "memory_bytes": device.memory_bytes,
                    "emulated": device.emulated,
                    "healthy": device.healthy,
                    "fault": device.fault,
                    "free_share": WHOLE - device.used_share,
                }
                for device in devices[node.id]
            ],
        }
        for node in listed
    ]


def project_places(session: Session, project_ids: set[int]) -> dict[int, tuple[str, str]]:
    """Team and project slug by the project's id."""
    query = select(Project.id, Team.slug, Project.slug).join(Team, Team.id == Project.team_id)
    return {key: (team, project) for key, team, project in session.execute(query.where(Project.id.in_(project_ids)))}


def stamp(moment: datetime | None) -> str | None:
    """RFC 3339, UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
