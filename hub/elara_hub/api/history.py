"""`/usage` and `/events`: what was used, and what happened."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select

from elara_hub.accounting.history import event_json, usage_rows
from elara_hub.auth.guards import Admin, Core, User
from elara_hub.database.models import Event
from elara_hub.refusal import invalid
from elara_hub.tenancy.access import find_project

router = APIRouter(tags=["history"])
_MOST = 500


@router.get("/usage", summary="Ended leases of a project; without one, your own (an administrator: everybody's)")
def usage(
    found: Core, user: User, project: Annotated[str | None, Query(max_length=130)] = None
) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        if project is None:
            return {"usage": usage_rows(session, _MOST, user=None if user.admin else user.name)}
        team, slash, slug = project.partition("/")
        if not slash:
            raise invalid("A project is named as team/project.")
        place = find_project(session, team, slug, user)
        return {"usage": usage_rows(session, _MOST, project_id=place.project.id)}


@router.get("/events", summary="What happened, oldest first, after the event of that number")
def events(
    found: Core,
    admin: Admin,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        rows = session.scalars(select(Event).where(Event.id > after).order_by(Event.id).limit(limit))
        return {"events": [event_json(row) for row in rows]}
