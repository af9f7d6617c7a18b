"""Names: what a slug may be, and the handle of a project, which is handed out once and never again."""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.database.models import Project
from elara_hub.refusal import invalid

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LONGEST = 61
"""Of a team's and a project's slug together."""
_LONGEST_HANDLE = 63


def check_slug(what: str, slug: str) -> str:
    """Raises:
    Refusal: it is no slug.
    """
    if not _SLUG.fullmatch(slug) or len(slug) > LONGEST - 1:
        raise invalid(
            f"{slug[:80]!r} cannot be the name of a {what}.",
            "Use lower-case letters and digits, with single hyphens inside, such as vision-lab.",
        )
    return slug


def check_together(team: str, project: str) -> None:
    """Raises:
    Refusal: the two names are too long together.
    """
    if len(team) + len(project) > LONGEST:
        raise invalid(
            f"The names {team!r} and {project!r} have more than {LONGEST} characters together.",
            "Choose a shorter name for the project.",
        )


def new_handle(session: Session, team: str, project: str) -> str:
    """``team--project``, or with a number behind it when that name was handed out before."""
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        handle = f"{team}--{project}"[: _LONGEST_HANDLE - len(suffix)].rstrip("-") + suffix
        if session.scalars(select(Project.id).where(Project.handle == handle)).first() is None:
            return handle
        number += 1


def check_user(name: str) -> str:
    """Raises:
    Refusal: no hub user can be called so.
    """
    if not 1 <= len(name) <= 255 or name != name.strip() or "/" in name or not name.isprintable():
        raise invalid(f"{name[:80]!r} cannot be a user's name.")
    return name
