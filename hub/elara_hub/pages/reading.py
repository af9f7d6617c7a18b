"""What the larger pages show, read in few queries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.auth.identity import Identity
from elara_hub.database.models import DeviceRow, Lease, LeaseDevice, Node, Project, ProjectMember, Team, TeamMember
from elara_hub.pool.live import Live
from elara_hub.pool.state import quotas
from elara_hub.pool.views import project_places, stamp
from elara_hub.tenancy.permissions import Action, allowed
from elara_remoting.types import WHOLE


def device_rows(live: Live, session: Session, most: int) -> list[dict[str, Any]]:
    """Devices with who holds them, by node."""
    query = (
        select(DeviceRow, Node.name)
        .join(Node, Node.id == DeviceRow.node_id)
        .where(DeviceRow.present)
        .order_by(Node.name, Node.id, DeviceRow.ordinal)
        .limit(most)
    )
    rows = session.execute(query).all()
    holders: dict[int, list[dict[str, Any]]] = defaultdict(list)
    held = session.execute(
        select(LeaseDevice.device_id, LeaseDevice.share, Lease)
        .join(Lease, Lease.id == LeaseDevice.lease_id)
        .where(LeaseDevice.released_at.is_(None), LeaseDevice.device_id.in_([device.id for device, _ in rows]))
        .order_by(Lease.ends_at)
    ).all()
    places = project_places(session, {lease.project_id for _, _, lease in held})
    for device_id, share, lease in held:
        project = "/".join(places[lease.project_id])
        holders[device_id].append(
            {"share": share, "user": lease.user, "project": project, "ends_at": stamp(lease.ends_at)}
        )
    connected = live.connected()
    return [
        {
            "node": node,
            "model": device.model,
            "emulated": device.emulated,
            "index": device.ordinal,
            "free": WHOLE - device.used_share,
            "state": _state(device, connected),
            "holders": holders[device.id],
        }
        for device, node in rows
    ]


def _state(device: DeviceRow, connected: set[str]) -> str:
    if device.node_id not in connected:
        return "node not connected"
    return "healthy" if device.healthy else device.fault or "not healthy"


def team_sections(session: Session, user: Identity) -> list[dict[str, Any]]:
    """The asker's teams (all, for an administrator) with projects, members, quotas, and what the asker may do there."""
    query = select(Team).where(Team.archived_at.is_(None)).order_by(Team.slug)
    if not user.admin:
        query = query.where(Team.id.in_(select(TeamMember.team_id).where(TeamMember.user == user.name)))
    teams = session.scalars(query).all()
    team_ids = [team.id for team in teams]
    in_team, in_project = defaultdict(list), defaultdict(list)
    members = select(TeamMember).where(TeamMember.team_id.in_(team_ids)).order_by(TeamMember.user)
    for row in session.scalars(members):
        in_team[row.team_id].append({"user": row.user, "role": row.role})
    rows = select(Project).where(Project.team_id.in_(team_ids), Project.archived_at.is_(None)).order_by(Project.slug)
    projects = session.scalars(rows).all()
    ids = [project.id for project in projects]
    for member in session.scalars(
        select(ProjectMember).where(ProjectMember.project_id.in_(ids)).order_by(ProjectMember.user)
    ):
        in_project[member.project_id].append({"user": member.user, "role": member.role})
    held = quotas(session, ids)

    def role_of(members: list[dict[str, str]]) -> set[str]:
        return {member["role"] for member in members if member["user"] == user.name}

    sections = []
    for team in teams:
        of_team = frozenset(role_of(in_team[team.id]) | ({"admin"} if user.admin else set()))
        shown = []
        for project in projects:
            if project.team_id != team.id:
                continue
            roles = of_team | role_of(in_project[project.id])
            if not allowed(Action.SEE_PROJECT, roles):
                continue
            quota = held[project.id]
            shown.append(
                {
                    "slug": project.slug,
                    "title": project.title,
                    "handle": project.handle,
                    "members": in_project[project.id],
                    "quota": {
                        "max_device_share": quota.limit,
                        "held_device_share": quota.held,
                        "max_lease_minutes": project.max_lease_minutes,
                    },
                    "may": {
                        "members": allowed(Action.MANAGE_MEMBERS, roles),
                        "quota": allowed(Action.SET_QUOTA, roles),
                        "archive": allowed(Action.ARCHIVE_PROJECT, roles),
                    },
                }
            )
        may = {"create": allowed(Action.CREATE_PROJECT, of_team), "manage": allowed(Action.MANAGE_TEAM, of_team)}
        sections.append(
            {"slug": team.slug, "title": team.title, "members": in_team[team.id], "projects": shown, "may": may}
        )
    return sections


def api_groups(description: dict[str, Any], api: str) -> dict[str, list[dict[str, Any]]]:
    """The OpenAPI description, as the page of the REST lists it."""
    schemas = description.get("components", {}).get("schemas", {})
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path, methods in description["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = schemas.get(content.get("$ref", "").rpartition("/")[2], {})
            required = schema.get("required", [])
            groups[route.get("tags", ["other"])[0]].append(
                {
                    "method": method.upper(),
                    "path": path.removeprefix(api),
                    "summary": route.get("summary", ""),
                    "parameters": [
                        {
                            "name": parameter["name"],
                            "place": parameter["in"],
                            "required": parameter.get("required", False),
                            "description": parameter.get("description", ""),
                        }
                        for parameter in route.get("parameters", [])
                    ],
                    "body": [
                        {
                            "name": name,
                            "required": name in required,
                            "description": field.get("description", ""),
                            "default": field.get("default"),
                        }
                        for name, field in schema.get("properties", {}).items()
                    ],
                }
            )
    return dict(groups)
