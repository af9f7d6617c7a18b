"""Records of started workspaces. The hub reports starts and stops; a workspace's project is what was recorded here."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.accounting.events import record
from elara_hub.core import Core, Unit
from elara_hub.database.models import Project, ProjectMember, Team, Workspace
from elara_hub.pool import leases
from elara_hub.refusal import forbidden
from elara_hub.tenancy.access import project_role, running_workspace


def record_start(
    core: Core, unit: Unit, user: str, server: str, team: str, project: str, image: str, size: str
) -> tuple[Project, str]:
    """A server starts in a project; returns the project and the user's role in it.

    Raises:
        Refusal: the user is no member of such a project.
    """
    session = unit.session
    query = (
        select(Project)
        .join(Team, Team.id == Project.team_id)
        .where(Team.slug == team, Project.slug == project, Team.archived_at.is_(None), Project.archived_at.is_(None))
    )
    found = session.scalars(query).first()
    role = None if found is None else project_role(session, found.id, user)
    if found is None or role is None:
        raise forbidden(f"open a workspace in {team}/{project}", "membership of that project")
    old = running_workspace(session, user, server)
    if old is not None:
        # Its stop was never reported: the hub was killed, or the start failed half-way.
        stop_workspace(core, unit, old, "hub")
        session.flush()
    session.add(Workspace(user=user, server=server, project_id=found.id, image=image, size=size, started_at=unit.now))
    session.flush()
    record(
        session,
        unit.now,
        "workspace.started",
        user,
        user=user,
        project_id=found.id,
        server=server,
        image=image,
        size=size,
    )
    return found, role


def record_stop(core: Core, unit: Unit, user: str, server: str) -> None:
    """A server stopped, for whatever reason; a second report changes nothing."""
    found = running_workspace(unit.session, user, server)
    if found is not None:
        stop_workspace(core, unit, found, "hub")


def stop_workspace(core: Core, unit: Unit, workspace: Workspace, actor: str) -> None:
    """The workspace's server is gone: so are its leases."""
    workspace.stopped_at = unit.now
    leases.end_leases_of(
        core, unit, "workspace_stopped", "The workspace was stopped.", actor, workspace_id=workspace.id
    )
    record(
        unit.session,
        unit.now,
        "workspace.stopped",
        actor,
        user=workspace.user,
        project_id=workspace.project_id,
        server=workspace.server,
    )


def memberships(session: Session, user: str) -> list[dict[str, Any]]:
    """The user's projects with the role in each, by name."""
    query = (
        select(Team.slug, Project.slug, Project.title, ProjectMember.role, Project.handle)
        .join(Project, Project.team_id == Team.id)
        .join(ProjectMember, ProjectMember.project_id == Project.id)
        .where(ProjectMember.user == user, Project.archived_at.is_(None), Team.archived_at.is_(None))
        .order_by(Team.slug, Project.slug)
    )
    return [
        {"team": team, "project": project, "title": title, "role": role, "mlflow_workspace": handle}
        for team, project, title, role, handle in session.execute(query)
    ]


def last_choice(session: Session, user: str) -> dict[str, Any] | None:
    """What the user chose at the last start."""
    query = (
        select(Workspace, Team.slug, Project.slug)
        .join(Project, Project.id == Workspace.project_id)
        .join(Team, Team.id == Project.team_id)
        .where(Workspace.user == user)
        .order_by(Workspace.id.desc())
    )
    found = session.execute(query.limit(1)).first()
    if found is None:
        return None
    workspace, team, project = found
    return {"team": team, "project": project, "image": workspace.image, "size": workspace.size}


def mlflow_access(session: Session, user: str, server: str | None) -> dict[str, str]:
    """MLflow workspaces and the user's role in each; for a workspace's own token only its project's."""
    query = (
        select(Project.id, Project.handle, ProjectMember.role)
        .join(ProjectMember, ProjectMember.project_id == Project.id)
        .where(ProjectMember.user == user, Project.archived_at.is_(None))
    )
    if server is not None:
        here = running_workspace(session, user, server)
        query = query.where(Project.id == (here.project_id if here is not None else -1))
    return {handle: role for _, handle, role in session.execute(query)}
