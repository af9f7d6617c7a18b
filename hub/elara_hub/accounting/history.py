"""Usage and events as the REST, the pages and the command line show them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.database.models import Event, Project, Team, Usage
from elara_hub.pool.views import stamp


def usage_rows(
    session: Session, most: int, *, user: str | None = None, project_id: int | None = None
) -> list[dict[str, Any]]:
    """Newest first. Seconds are wall-clock; `device_seconds` counts a half share for half."""
    query = (
        select(Usage, Team.slug, Project.slug)
        .join(Project, Project.id == Usage.project_id)
        .join(Team, Team.id == Project.team_id)
    )
    if user is not None:
        query = query.where(Usage.user == user)
    if project_id is not None:
        query = query.where(Usage.project_id == project_id)
    rows = session.execute(query.order_by(Usage.ended_at.desc(), Usage.lease_id).limit(most))
    return [
        {
            "lease_id": row.lease_id,
            "user": row.user,
            "project": f"{team}/{project}",
            "model": row.model,
            "emulated": row.emulated,
            "devices": row.devices,
            "share": row.share,
            "started_at": stamp(row.started_at),
            "ended_at": stamp(row.ended_at),
            "seconds": row.seconds,
            "device_seconds": row.device_seconds,
            "peak_bytes": row.peak_bytes,
            "busy_seconds": row.busy_seconds,
            "end_reason": row.end_reason,
        }
        for row, team, project in rows
    ]


def event_json(row: Event) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": stamp(row.at),
        "kind": row.kind,
        "actor": row.actor,
        "user": row.user,
        "team_id": row.team_id,
        "project_id": row.project_id,
        "lease_id": row.lease_id,
        "node_id": row.node_id,
        "data": row.data,
    }
