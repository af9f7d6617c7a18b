"""The pages' routes: each reads what its template shows; changes go through the REST."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy import select

from elara_hub.accounting.history import event_json, usage_rows
from elara_hub.api.leases import visible
from elara_hub.auth.guards import AdminVisitor, Core, Visitor
from elara_hub.config import Settings
from elara_hub.contract import LIVE_STATES
from elara_hub.database.models import Event, Node
from elara_hub.pages.reading import api_groups, device_rows, team_sections
from elara_hub.pages.rendering import STATIC, render
from elara_hub.pool.views import lease_json, node_json, pool_json
from elara_hub.refusal import invalid
from elara_hub.tenancy.access import find_project
from elara_hub.tenancy.workspaces import memberships

_PAST, _ROWS, _DEVICES = 10, 200, 500


def install(app: FastAPI, settings: Settings) -> None:
    """Adds the pages, their files, and the description of the REST."""
    prefix, api = settings.prefix, settings.api
    page: dict[str, Any] = {"include_in_schema": False, "response_class": HTMLResponse}

    @app.get(prefix + "/", **page)
    def home(request: Request, found: Core, user: Visitor) -> HTMLResponse:
        with found.core.read() as session:
            seen = lease_json(found.core, session, visible(session, user, mine=False, state=None))
            projects = memberships(session, user.name)
        mine = [lease for lease in seen if lease["user"] == user.name]
        held = (*LIVE_STATES, "ending")
        return render(
            request,
            "home.html",
            user=user,
            here="/",
            live=[lease for lease in mine if lease["state"] in held],
            past=[lease for lease in mine if lease["state"] == "ended"][:_PAST],
            others=[lease for lease in seen if lease["user"] != user.name and lease["state"] in held],
            projects=projects,
        )

    @app.get(prefix + "/pool", **page)
    def pool(request: Request, found: Core, user: Visitor) -> HTMLResponse:
        with found.core.read() as session:
            summary = pool_json(session)
            devices = device_rows(found.core.live, session, _DEVICES)
        more = summary["devices_total"] > len(devices)
        return render(request, "pool.html", user=user, here="/pool", pool=summary, devices=devices, more=more)

    @app.get(prefix + "/teams", **page)
    def teams(request: Request, found: Core, user: Visitor) -> HTMLResponse:
        with found.core.read() as session:
            return render(request, "teams.html", user=user, here="/teams", teams=team_sections(session, user))

    @app.get(prefix + "/usage", **page)
    def usage(
        request: Request, found: Core, user: Visitor, project: Annotated[str | None, Query(max_length=130)] = None
    ) -> HTMLResponse:
        with found.core.read() as session:
            if project is None:
                rows = usage_rows(session, _ROWS, user=None if user.admin else user.name)
            else:
                team, slash, slug = project.partition("/")
                if not slash:
                    raise invalid("A project is named as team/project.")
                place = find_project(session, team, slug, user)
                rows = usage_rows(session, _ROWS, project_id=place.project.id)
        return render(request, "usage.html", user=user, here="/usage", rows=rows, project=project)

    @app.get(prefix + "/events", **page)
    def events(
        request: Request, found: Core, user: AdminVisitor, before: Annotated[int, Query(ge=1, le=2**62)] = 2**62
    ) -> HTMLResponse:
        with found.core.read() as session:
            query = select(Event).where(Event.id < before).order_by(Event.id.desc()).limit(_ROWS)
            rows = [event_json(row) for row in session.scalars(query)]
        return render(request, "events.html", user=user, here="/events", rows=rows, older=len(rows) == _ROWS)

    @app.get(prefix + "/nodes", **page)
    def nodes(request: Request, found: Core, user: AdminVisitor) -> HTMLResponse:
        with found.core.read() as session:
            rows = session.scalars(select(Node).where(Node.removed_at.is_(None)).order_by(Node.name, Node.id))
            listed = node_json(found.core.live, session, rows)
        public = settings.public_url.rstrip("/") or "http://HUB"
        return render(request, "nodes.html", user=user, here="/nodes", nodes=listed, public=public)

    @app.get(api + "/docs", **page)
    def docs(request: Request, user: Visitor) -> HTMLResponse:
        groups = api_groups(app.openapi(), api)
        return render(request, "docs.html", user=user, here="/api/v1/docs", groups=groups)

    @app.get(api + "/openapi.json", include_in_schema=False)
    def openapi(user: Visitor) -> JSONResponse:
        return JSONResponse(app.openapi())

    app.mount(prefix + "/static", StaticFiles(directory=STATIC), name="static")
