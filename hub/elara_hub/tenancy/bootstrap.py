"""What a first start makes, so that a new installation has a place to work in."""

from __future__ import annotations

from sqlalchemy import select

from elara_hub.accounting.events import SERVICE
from elara_hub.core import Core
from elara_hub.database.models import Team, User
from elara_hub.tenancy.access import ProjectPlace
from elara_hub.tenancy.names import check_user
from elara_hub.tenancy.teams import create_project, create_team, set_project_member, set_team_member

TEAM, PROJECT = "demo", "digits"


def bootstrap(core: Core, admin: str) -> bool:
    """Make team `demo`, project `digits`, with `admin` as lead and owner; False when this is not the first start."""
    check_user(admin)
    with core.change() as unit:
        # Archived ones count: what an administrator took away must not come back at the next start.
        if unit.session.scalars(select(Team.id)).first() is not None:
            return False
        if unit.session.get(User, admin) is None:
            unit.session.add(User(name=admin, created_at=unit.now))
        team = create_team(unit, TEAM, "Demo", SERVICE)
        set_team_member(unit, team, admin, "lead", SERVICE)
        project = create_project(core, unit, team, PROJECT, "Handwritten digits", SERVICE)
        set_project_member(core, unit, ProjectPlace(team, project, frozenset()), admin, "owner", SERVICE)
        return True
