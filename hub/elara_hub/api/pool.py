"""`/me`, `/pool`, `/nodes`: who asks, what there is, and the machines behind it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, WebSocket
from sqlalchemy import select

from elara_hub.api.bodies import JoinBody, NameBody
from elara_hub.auth.guards import Admin, Core, FrequentUser
from elara_hub.database.models import Node, Project, Team
from elara_hub.pool import nodes
from elara_hub.pool.channel import serve_node
from elara_hub.pool.views import node_json, pool_json
from elara_hub.services import Services
from elara_hub.tenancy.access import running_workspace
from elara_hub.tenancy.workspaces import memberships

router = APIRouter()


@router.get("/me", tags=["me"], summary="Who you are, and your projects")
def me(found: Core, user: FrequentUser) -> dict[str, Any]:
    with found.core.read() as session:
        answer: dict[str, Any] = {
            "user": user.name,
            "admin": user.admin,
            "may_attach": user.may_attach,
            "projects": memberships(session, user.name),
            "workspace": None,
        }
        if user.server is None:
            return answer
        here = running_workspace(session, user.name, user.server)
        place: dict[str, str | None] = {"team": None, "project": None, "role": None}
        if here is not None:
            project = session.get_one(Project, here.project_id)
            team = session.get_one(Team, project.team_id)
            role = next(
                (p["role"] for p in answer["projects"] if (p["team"], p["project"]) == (team.slug, project.slug)), None
            )
            place = {"team": team.slug, "project": project.slug, "role": role}
        return answer | {"workspace": {"server": user.server} | place}


@router.get("/pool", tags=["pool"], summary="Devices by model, and what is free")
def pool(found: Core, user: FrequentUser) -> dict[str, Any]:
    with found.core.read() as session:
        return pool_json(session)


@router.get("/nodes", tags=["nodes"], summary="Every node with its devices")
def list_nodes(found: Core, admin: Admin) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        rows = session.scalars(select(Node).where(Node.removed_at.is_(None)).order_by(Node.name, Node.id))
        return {"nodes": node_json(found.core.live, session, rows)}


@router.post("/nodes/join-tokens", status_code=201, tags=["nodes"], summary="A one-time token for a new node")
def make_token(found: Core, admin: Admin, body: NameBody) -> dict[str, Any]:
    with found.core.change() as unit:
        token = nodes.make_join_token(found.core, unit, body.name, admin.name)
    return {"token": token, "minutes": found.core.settings.join_token_minutes}


@router.delete("/nodes/{node_id}", tags=["nodes"], summary="Take a node out of the pool; its leases end")
def remove_node(found: Core, admin: Admin, node_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> dict[str, Any]:
    with found.core.change() as unit:
        node = nodes.remove(found.core, unit, node_id, admin.name)
        return {"id": node.id, "name": node.name}


@router.post("/nodes/join", tags=["nodes"], summary="A node spends its token and gets its certificate")
def join(found: Core, body: JoinBody) -> dict[str, Any]:
    with found.core.change() as unit:
        node_id, certificate = nodes.join(unit, found.authority, body.token, body.name, body.public_key_pem)
    return {"node_id": node_id, "certificate_pem": certificate, "ca_pem": found.authority.ca_pem}


@router.websocket("/nodes/channel")
async def channel(socket: WebSocket) -> None:
    found: Services = socket.app.state.services
    await serve_node(found.core, found.authority, socket)
