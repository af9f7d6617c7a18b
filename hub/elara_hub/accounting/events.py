"""Event rows: audit, usage and fairness read the same ones. Written in the transaction of what they tell of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from elara_hub.database.models import Event, Lease

SERVICE = "elara"
"""The actor of what the service did by itself."""


def record(
    session: Session,
    at: datetime,
    kind: str,
    actor: str,
    *,
    user: str | None = None,
    team_id: int | None = None,
    project_id: int | None = None,
    lease: Lease | None = None,
    node_id: str | None = None,
    **data: Any,
) -> None:
    """Add an event. `kind` is `<thing>.<what happened>`; `actor` did it; `data` holds JSON values, no secrets."""
    session.add(
        Event(
            at=at,
            kind=kind,
            actor=actor,
            user=user if lease is None else lease.user,
            team_id=team_id,
            project_id=project_id if lease is None else lease.project_id,
            lease_id=None if lease is None else lease.id,
            node_id=node_id,
            data=data,
        )
    )
