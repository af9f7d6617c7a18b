"""Finds teams and projects for somebody, and says no: the only place where a role decides."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.auth.identity import Identity
from elara_hub.database.models import Project, ProjectMember, Team, TeamMember, Workspace
from elara_hub.refusal import Refusal, forbidden, not_found
from elara_hub.tenancy.permissions import Action, allowed, who_may


@dataclass(frozen=True)
class ProjectPlace:
    """A project with its team, and what the asker is there."""

    team: Team
    project: Project
    roles: frozenset[str]

    @property
    def path(self) -> str:
        return f"{self.team.slug}/{self.project.slug}"


def project_role(session: Session, project_id: int, user: str) -> str | None:
    row = session.get(ProjectMember, (project_id, user))
    return None if row is None else row.role


def roles_in_team(session: Session, team: Team, who: Identity) -> frozenset[str]:
    """Of the asker in the team: member or lead, and admin. A workspace's own token knows its own team only."""
    if who.server is not None and not _works_in(session, who, team_id=team.id):
        return frozenset()
    roles = {"admin"} if who.admin else set()
    row = session.get(TeamMember, (team.id, who.name))
    if row is not None:
        roles.add("member" if who.server is not None else row.role)
    return frozenset(roles)


def roles_in_project(session: Session, team: Team, project: Project, who: Identity) -> frozenset[str]:
    """As `roles_in_team`, with the asker's role in the project. A workspace's own token has one in its own project
    only, and manages nothing there: code in a notebook is not its user's will."""
    role = project_role(session, project.id, who.name)
    if who.server is not None:
        if not _works_in(session, who, project_id=project.id):
            return frozenset()
        role = "editor" if role == "owner" else role
    return roles_in_team(session, team, who) | (frozenset({role}) if role else frozenset())


def _works_in(session: Session, who: Identity, *, team_id: int | None = None, project_id: int | None = None) -> bool:
    here = None if who.server is None else running_workspace(session, who.name, who.server)
    if here is None:
        return False
    if project_id is not None:
        return here.project_id == project_id
    return session.get_one(Project, here.project_id).team_id == team_id


def find_team(session: Session, slug: str, who: Identity, action: Action = Action.SEE_TEAM) -> Team:
    """Raises:
    Refusal: there is no such team for the asker (404), or they may not do this (403).
    """
    team = session.scalars(select(Team).where(Team.slug == slug, Team.archived_at.is_(None))).first()
    if team is None:
        raise not_found("team", slug)
    roles = roles_in_team(session, team, who)
    if not allowed(Action.SEE_TEAM, roles):
        raise not_found("team", slug)
    if not allowed(action, roles):
        raise forbidden(str(action), who_may(action))
    return team


def find_project(
    session: Session, team_slug: str, slug: str, who: Identity, action: Action = Action.SEE_PROJECT
) -> ProjectPlace:
    """Raises:
    Refusal: there is no such project for the asker (404), or they may not do this (403).
    """
    query = (
        select(Team, Project)
        .join(Project, Project.team_id == Team.id)
        .where(Team.slug == team_slug, Project.slug == slug, Team.archived_at.is_(None), Project.archived_at.is_(None))
    )
    found = session.execute(query).first()
    if found is None:
        raise not_found("project", f"{team_slug}/{slug}")
    team, project = found
    roles = roles_in_project(session, team, project, who)
    if not allowed(Action.SEE_PROJECT, roles):
        raise not_found("project", f"{team_slug}/{slug}")
    if not allowed(action, roles):
        raise forbidden(str(action), who_may(action))
    return ProjectPlace(team, project, roles)


def running_workspace(session: Session, user: str, server: str) -> Workspace | None:
    """Our own record of that server's start: the only thing that says which project it works in."""
    query = select(Workspace).where(Workspace.user == user, Workspace.server == server, Workspace.stopped_at.is_(None))
    return session.scalars(query).first()


def attaching_workspace(session: Session, who: Identity) -> Workspace:
    """The workspace that a workspace's own token belongs to, when its user may attach devices in its project.

    Raises:
        Refusal: it was not started in a project, or the user's role does not allow it (any more).
    """
    found = None if who.server is None else running_workspace(session, who.name, who.server)
    if found is None:
        raise Refusal(
            "no_project",
            "This workspace was not started in a project, so it has no devices to attach.",
            "Stop it, and start it from the hub's page, choosing a project.",
            status=403,
        )
    role = project_role(session, found.project_id, who.name)
    if role is None or not allowed(Action.ATTACH, frozenset({role})):
        raise forbidden("attach devices in this project", f"the role {who_may(Action.ATTACH)} in the project")
    return found
