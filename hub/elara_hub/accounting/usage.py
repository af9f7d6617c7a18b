"""The usage row of a lease, written once, when its last share is free."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.database.models import DeviceRow, Lease, LeaseDevice, LeasePart, Usage


def write_usage(session: Session, lease: Lease, ended_at: datetime) -> None:
    """Account for a lease that was active; one that never was costs nothing."""
    if lease.active_at is None or session.get(Usage, lease.id) is not None:
        return
    rows = session.execute(
        select(LeaseDevice, DeviceRow, LeasePart)
        .join(DeviceRow, LeaseDevice.device_id == DeviceRow.id)
        .join(LeasePart, (LeasePart.lease_id == LeaseDevice.lease_id) & (LeasePart.node_id == LeaseDevice.node_id))
        .where(LeaseDevice.lease_id == lease.id)
        .order_by(LeaseDevice.ordinal)
    ).all()
    device_seconds = 0.0
    for held, _, part in rows:
        until = part.used_until or ended_at
        device_seconds += max(0.0, (until - lease.active_at).total_seconds()) * held.share / 1000
    last = max((part.used_until or ended_at for _, _, part in rows), default=ended_at)
    reports = {part.node_id: part.usage or {} for _, _, part in rows}
    session.add(
        Usage(
            lease_id=lease.id,
            user=lease.user,
            project_id=lease.project_id,
            model=rows[0][1].model if rows else "",
            emulated=rows[0][1].emulated if rows else False,
            devices=len(rows),
            share=lease.share or 0,
            started_at=lease.active_at,
            ended_at=last,
            seconds=max(0.0, (last - lease.active_at).total_seconds()),
            device_seconds=device_seconds,
            peak_bytes=_total(reports.values(), "peak_bytes"),
            busy_seconds=_total(reports.values(), "busy_seconds"),
            end_reason=lease.end_reason or "ended",
        )
    )


def _total(reports: Any, key: str) -> Any:
    """Add up what the nodes reported; a node may give one number or one a device."""
    found: list[float] = []
    for report in reports:
        value = report.get(key)
        values = value if isinstance(value, list) else [value]
        found += [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]
    return sum(found) if found else None
