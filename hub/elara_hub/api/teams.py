"""`/teams` and `/projects`: who belongs where, and how much they may hold."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.api.bodies import QuotaBody, RoleBody, TeamBody, TitleBody
from elara_hub.auth.guards import Admin, Core, User
from elara_hub.auth.identity import Identity
from elara_hub.database.models import Project, ProjectMember, Team, TeamMember
from elara_hub.pool.state import quotas
from elara_hub.pool.views import stamp
from elara_hub.services import Services
from elara_hub.tenancy import teams
from elara_hub.tenancy.access import find_project, find_team, roles_in_project, roles_in_team
from elara_hub.tenancy.permissions import Action, allowed

router = APIRouter()
_TEAMS: list[str | Enum] = ["teams"]
_PROJECTS: list[str | Enum] = ["projects"]


@router.get("/teams", tags=_TEAMS, summary="Teams that you belong to; all of them for an administrator")
def list_teams(found: Core, user: User) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        query = select(Team).where(Team.archived_at.is_(None)).order_by(Team.slug)
        if not user.admin:
            mine = select(TeamMember.team_id).where(TeamMember.user == user.name)
            query = query.where(Team.id.in_(mine))
        seen = [team for team in session.scalars(query) if roles_in_team(session, team, user)]
        return {"teams": [team_json(team) for team in seen]}


@router.post("/teams", status_code=201, tags=_TEAMS, summary="Make a team")
def create_team(found: Core, admin: Admin, body: TeamBody) -> dict[str, Any]:
    with found.core.change() as unit:
        return team_json(teams.create_team(unit, body.slug, body.title, admin.name))


@router.get("/teams/{team}", tags=_TEAMS, summary="A team with its members and projects")
def read_team(found: Core, user: User, team: str) -> dict[str, Any]:
    with found.core.read() as session:
        row = find_team(session, team, user)
        return team_json(row) | {
            "members": team_members(session, row),
            "projects": visible_projects(session, row, user),
        }


@router.patch("/teams/{team}", tags=_TEAMS, summary="Change a team's title")
def update_team(found: Core, user: Admin, team: str, body: TitleBody) -> dict[str, Any]:
    with found.core.change() as unit:
        row = find_team(unit.session, team, user, Action.EDIT_TEAM)
        row.title = body.title
        return team_json(row)


@router.delete("/teams/{team}", tags=_TEAMS, summary="Archive a team with its projects; their leases end")
def delete_team(found: Core, user: Admin, team: str) -> dict[str, Any]:
    with found.core.change() as unit:
        row = find_team(unit.session, team, user, Action.EDIT_TEAM)
        teams.archive_team(found.core, unit, row, user.name)
        return team_json(row)


@router.get("/teams/{team}/members", tags=_TEAMS)
def list_team_members(found: Core, user: User, team: str) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        return {"members": team_members(session, find_team(session, team, user))}


@router.put("/teams/{team}/members/{user}", tags=_TEAMS, summary="Add a member, or change a role (lead or member)")
async def put_team_member(found: Core, caller: User, team: str, user: str, body: RoleBody) -> dict[str, Any]:
    await found.people.must_exist(user)
    return await _in_thread(_put_team_member, found, caller, team, user, body)


def _put_team_member(found: Services, caller: Identity, team: str, user: str, body: RoleBody) -> dict[str, Any]:
    with found.core.change() as unit:
        row = find_team(unit.session, team, caller, Action.MANAGE_TEAM)
        return _member(teams.set_team_member(unit, row, user, body.role, caller.name))


@router.delete("/teams/{team}/members/{user}", tags=_TEAMS, summary="Remove a member from the team and its projects")
def delete_team_member(found: Core, caller: User, team: str, user: str) -> dict[str, Any]:
    with found.core.change() as unit:
        row = find_team(unit.session, team, caller, Action.MANAGE_TEAM)
        teams.remove_team_member(found.core, unit, row, user, caller.name)
    return {"user": user, "role": None}


@router.get("/teams/{team}/projects", tags=_PROJECTS, summary="Projects of a team that you may see")
def list_projects(found: Core, user: User, team: str) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        return {"projects": visible_projects(session, find_team(session, team, user), user)}


@router.post("/teams/{team}/projects", status_code=201, tags=_PROJECTS, summary="Make a project")
def create_project(found: Core, user: User, team: str, body: TeamBody) -> dict[str, Any]:
    with found.core.change() as unit:
        row = find_team(unit.session, team, user, Action.CREATE_PROJECT)
        return project_json(row, teams.create_project(found.core, unit, row, body.slug, body.title, user.name))


@router.get("/projects/{team}/{project}", tags=_PROJECTS, summary="A project with its members and quota")
def read_project(found: Core, user: User, team: str, project: str) -> dict[str, Any]:
    with found.core.read() as session:
        place = find_project(session, team, project, user)
        return project_json(place.team, place.project) | {
            "members": project_members(session, place.project),
            "quota": quota_json(session, place.project),
        }


@router.patch("/projects/{team}/{project}", tags=_PROJECTS, summary="Change a project's title")
def update_project(found: Core, user: User, team: str, project: str, body: TitleBody) -> dict[str, Any]:
    with found.core.change() as unit:
        place = find_project(unit.session, team, project, user, Action.EDIT_PROJECT)
        place.project.title = body.title
        return project_json(place.team, place.project)


@router.delete("/projects/{team}/{project}", tags=_PROJECTS, summary="Archive a project; its leases end")
def delete_project(found: Core, user: User, team: str, project: str) -> dict[str, Any]:
    with found.core.change() as unit:
        place = find_project(unit.session, team, project, user, Action.ARCHIVE_PROJECT)
        teams.archive_project(found.core, unit, place.project, user.name)
        return project_json(place.team, place.project)


@router.get("/projects/{team}/{project}/members", tags=_PROJECTS)
def list_project_members(found: Core, user: User, team: str, project: str) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        return {"members": project_members(session, find_project(session, team, project, user).project)}


@router.put(
    "/projects/{team}/{project}/members/{user}",
    tags=_PROJECTS,
    summary="Add a member, or change a role (owner, editor or viewer)",
)
async def put_project_member(
    found: Core, caller: User, team: str, project: str, user: str, body: RoleBody
) -> dict[str, Any]:
    await found.people.must_exist(user)
    return await _in_thread(_put_project_member, found, caller, team, project, user, body)


def _put_project_member(
    found: Services, caller: Identity, team: str, project: str, user: str, body: RoleBody
) -> dict[str, Any]:
    with found.core.change() as unit:
        place = find_project(unit.session, team, project, caller, Action.MANAGE_MEMBERS)
        return _member(teams.set_project_member(found.core, unit, place, user, body.role, caller.name))


@router.delete("/projects/{team}/{project}/members/{user}", tags=_PROJECTS, summary="Remove a member; leases end")
def delete_project_member(found: Core, caller: User, team: str, project: str, user: str) -> dict[str, Any]:
    with found.core.change() as unit:
        place = find_project(unit.session, team, project, caller, Action.MANAGE_MEMBERS)
        teams.remove_project_member(found.core, unit, place, user, caller.name)
    return {"user": user, "role": None}


@router.get("/projects/{team}/{project}/quota", tags=_PROJECTS)
def read_quota(found: Core, user: User, team: str, project: str) -> dict[str, Any]:
    with found.core.read() as session:
        return quota_json(session, find_project(session, team, project, user).project)


@router.put("/projects/{team}/{project}/quota", tags=_PROJECTS, summary="How much the project may hold, for how long")
def put_quota(found: Core, user: User, team: str, project: str, body: QuotaBody) -> dict[str, Any]:
    with found.core.change() as unit:
        place = find_project(unit.session, team, project, user, Action.SET_QUOTA)
        teams.set_quota(unit, place.project, body.max_device_share, body.max_lease_minutes, user.name)
        unit.session.flush()
        return quota_json(unit.session, place.project)


async def _in_thread(work: Any, *arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = await asyncio.to_thread(work, *arguments)
    return result


def team_json(team: Team) -> dict[str, Any]:
    return {"id": team.id, "slug": team.slug, "title": team.title, "created_at": stamp(team.created_at)}


def project_json(team: Team, project: Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "team": team.slug,
        "slug": project.slug,
        "title": project.title,
        "handle": project.handle,
        "created_at": stamp(project.created_at),
    }


def quota_json(session: Session, project: Project) -> dict[str, Any]:
    quota = quotas(session, [project.id])[project.id]
    return {
        "max_device_share": quota.limit,
        "max_lease_minutes": project.max_lease_minutes,
        "held_device_share": quota.held,
    }


def team_members(session: Session, team: Team) -> list[dict[str, Any]]:
    query = select(TeamMember).where(TeamMember.team_id == team.id).order_by(TeamMember.user)
    return [_member(row) for row in session.scalars(query)]


def project_members(session: Session, project: Project) -> list[dict[str, Any]]:
    query = select(ProjectMember).where(ProjectMember.project_id == project.id).order_by(ProjectMember.user)
    return [_member(row) for row in session.scalars(query)]


def visible_projects(session: Session, team: Team, user: Identity) -> list[dict[str, Any]]:
    """Leads and administrators see all of a team's projects, members theirs."""
    query = select(Project).where(Project.team_id == team.id, Project.archived_at.is_(None)).order_by(Project.slug)
    if not allowed(Action.CREATE_PROJECT, roles_in_team(session, team, user)):
        mine = select(ProjectMember.project_id).where(ProjectMember.user == user.name)
        query = query.where(Project.id.in_(mine))
    rows = [row for row in session.scalars(query) if roles_in_project(session, team, row, user)]
    return [project_json(team, project) for project in rows]


def _member(row: TeamMember | ProjectMember) -> dict[str, Any]:
    return {"user": row.user, "role": row.role}
