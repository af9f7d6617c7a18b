"""Teams, projects and their members: what changes them, each with its event and its consequences for leases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from elara_hub.accounting.events import record
from elara_hub.contract import PROJECT_ROLES, TEAM_ROLES
from elara_hub.core import Core, Unit
from elara_hub.database.models import Project, ProjectMember, Team, TeamMember
from elara_hub.pool import leases
from elara_hub.refusal import Refusal, invalid, not_found
from elara_hub.tenancy.access import ProjectPlace
from elara_hub.tenancy.names import check_slug, check_together, check_user, new_handle


def create_team(unit: Unit, slug: str, title: str, actor: str) -> Team:
    """Raises:
    Refusal: the name is none, or taken.
    """
    check_slug("team", slug)
    session = unit.session
    if session.scalars(select(Team.id).where(Team.slug == slug, Team.archived_at.is_(None))).first() is not None:
        raise Refusal("name_taken", f"There is a team {slug!r} already.", "Choose another name.")
    team = Team(slug=slug, title=title or slug, created_at=unit.now)
    session.add(team)
    session.flush()
    record(session, unit.now, "team.created", actor, team_id=team.id, slug=slug)
    unit.tenancy_changed = True
    return team


def archive_team(core: Core, unit: Unit, team: Team, actor: str) -> None:
    """The team and its projects disappear; their ids and handles stay taken, their members and leases end."""
    session = unit.session
    for project in session.scalars(select(Project).where(Project.team_id == team.id, Project.archived_at.is_(None))):
        archive_project(core, unit, project, actor)
    session.execute(delete(TeamMember).where(TeamMember.team_id == team.id))
    team.archived_at = unit.now
    record(session, unit.now, "team.archived", actor, team_id=team.id, slug=team.slug)
    unit.tenancy_changed = True


def set_team_member(unit: Unit, team: Team, user: str, role: str, actor: str) -> TeamMember:
    """Add a member, or change the role of one.

    Raises:
        Refusal: no such role, or no possible name.
    """
    _check_role(role, TEAM_ROLES)
    check_user(user)
    row = unit.session.get(TeamMember, (team.id, user))
    if row is None:
        row = TeamMember(team_id=team.id, user=user, role=role)
        unit.session.add(row)
    elif row.role == role:
        return row
    row.role = role
    unit.session.flush()
    record(unit.session, unit.now, "team.member_set", actor, user=user, team_id=team.id, role=role)
    unit.tenancy_changed = True
    return row


def remove_team_member(core: Core, unit: Unit, team: Team, user: str, actor: str) -> None:
    """Out of the team is out of all its projects.

    Raises:
        Refusal: not a member.
    """
    row = unit.session.get(TeamMember, (team.id, user))
    if row is None:
        raise not_found("member", user)
    places = unit.session.execute(
        select(Project, ProjectMember)
        .join(ProjectMember, ProjectMember.project_id == Project.id)
        .where(Project.team_id == team.id, ProjectMember.user == user)
    )
    for project, _ in places.all():
        _remove_from_project(core, unit, project, user, actor)
    unit.session.delete(row)
    unit.session.flush()
    record(unit.session, unit.now, "team.member_removed", actor, user=user, team_id=team.id)
    unit.tenancy_changed = True


def create_project(core: Core, unit: Unit, team: Team, slug: str, title: str, actor: str) -> Project:
    """A new project inherits nothing of an archived one of the same name: it gets a handle of its own.

    Raises:
        Refusal: the name is none, too long, or taken.
    """
    check_slug("project", slug)
    check_together(team.slug, slug)
    session = unit.session
    taken = select(Project.id).where(Project.team_id == team.id, Project.slug == slug, Project.archived_at.is_(None))
    if session.scalars(taken).first() is not None:
        raise Refusal("name_taken", f"The team has a project {slug!r} already.", "Choose another name.")
    project = Project(
        team_id=team.id,
        slug=slug,
        handle=new_handle(session, team.slug, slug),
        title=title or slug,
        max_device_share=core.settings.default_device_share,
        max_lease_minutes=core.settings.default_lease_minutes,
        created_at=unit.now,
    )
    session.add(project)
    session.flush()
    record(
        session,
        unit.now,
        "project.created",
        actor,
        team_id=team.id,
        project_id=project.id,
        slug=slug,
        handle=project.handle,
    )
    unit.tenancy_changed = True
    return project


def archive_project(core: Core, unit: Unit, project: Project, actor: str) -> None:
    leases.end_leases_of(core, unit, "project_archived", "The project was archived.", actor, project_id=project.id)
    unit.session.execute(delete(ProjectMember).where(ProjectMember.project_id == project.id))
    project.archived_at = unit.now
    record(unit.session, unit.now, "project.archived", actor, team_id=project.team_id, project_id=project.id)
    unit.tenancy_changed = True


def set_project_member(core: Core, unit: Unit, place: ProjectPlace, user: str, role: str, actor: str) -> ProjectMember:
    """Add a member (who joins the team as well), or change the role of one.

    A member who may not attach any more loses running leases in the project.

    Raises:
        Refusal: no such role, no possible name, or the project would be left without an owner.
    """
    _check_role(role, PROJECT_ROLES)
    check_user(user)
    row = unit.session.get(ProjectMember, (place.project.id, user))
    if row is not None and row.role == role:
        return row
    if row is None:
        row = ProjectMember(project_id=place.project.id, user=user, role=role)
        unit.session.add(row)
    elif row.role == "owner":
        _keep_an_owner(unit, place.project, user)
    row.role = role
    unit.session.flush()
    if unit.session.get(TeamMember, (place.team.id, user)) is None:
        set_team_member(unit, place.team, user, "member", actor)
    if role == "viewer":
        _revoke(core, unit, place.project, user, actor)
    record(
        unit.session,
        unit.now,
        "project.member_set",
        actor,
        user=user,
        team_id=place.team.id,
        project_id=place.project.id,
        role=role,
    )
    unit.tenancy_changed = True
    return row


def remove_project_member(core: Core, unit: Unit, place: ProjectPlace, user: str, actor: str) -> None:
    """Raises:
    Refusal: not a member, or the last owner.
    """
    row = unit.session.get(ProjectMember, (place.project.id, user))
    if row is None:
        raise not_found("member", user)
    if row.role == "owner":
        _keep_an_owner(unit, place.project, user)
    _remove_from_project(core, unit, place.project, user, actor)


def set_quota(unit: Unit, project: Project, max_device_share: int, max_lease_minutes: int, actor: str) -> None:
    """Leases that run already are left alone, also when they hold more than the new quota."""
    project.max_device_share = max_device_share
    project.max_lease_minutes = max_lease_minutes
    record(
        unit.session,
        unit.now,
        "project.quota_set",
        actor,
        team_id=project.team_id,
        project_id=project.id,
        max_device_share=max_device_share,
        max_lease_minutes=max_lease_minutes,
    )
    unit.wake = True


def _remove_from_project(core: Core, unit: Unit, project: Project, user: str, actor: str) -> None:
    unit.session.execute(
        delete(ProjectMember).where(ProjectMember.project_id == project.id, ProjectMember.user == user)
    )
    _revoke(core, unit, project, user, actor)
    data: dict[str, Any] = {"user": user, "team_id": project.team_id, "project_id": project.id}
    record(unit.session, unit.now, "project.member_removed", actor, **data)
    unit.tenancy_changed = True


def _revoke(core: Core, unit: Unit, project: Project, user: str, actor: str) -> None:
    message = "Its user may not attach devices in the project any more."
    leases.end_leases_of(core, unit, "access_revoked", message, actor, project_id=project.id, user=user)


def _keep_an_owner(unit: Unit, project: Project, leaving: str) -> None:
    others = select(ProjectMember.user).where(
        ProjectMember.project_id == project.id, ProjectMember.role == "owner", ProjectMember.user != leaving
    )
    if unit.session.scalars(others).first() is None:
        raise Refusal("last_owner", f"{leaving} is the project's only owner.", "Make somebody else an owner first.")


def _check_role(role: str, roles: tuple[str, ...]) -> None:
    if role not in roles:
        raise invalid(f"{role[:40]!r} is not a role.", f"Use one of {', '.join(roles)}.")
