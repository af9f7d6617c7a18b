"""The role matrix, in one place. docs/roles.md shows the same table, and a test compares the two.

A user has a role in a project (owner, editor, viewer), may lead the project's team, and may be an administrator of the
whole installation. Leading a team or administering gives no use of a project's devices or files: who works in a project
is a member of it.
"""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    SEE_PROJECT = "see the project, its members, quota and usage"
    ATTACH = "open a workspace that may attach devices and write"
    OPEN_WORKSPACE = "open a workspace in the project"
    END_LEASE = "see and end other members' leases"
    MANAGE_MEMBERS = "add, change and remove members of the project"
    EDIT_PROJECT = "change the project's title"
    SET_QUOTA = "set the project's quota"
    ARCHIVE_PROJECT = "archive the project"
    SEE_TEAM = "see the team and its members"
    CREATE_PROJECT = "create a project in the team"
    MANAGE_TEAM = "add, change and remove members and leads of the team"
    EDIT_TEAM = "create, change and archive teams"
    ADMINISTER = "see the whole pool and every event, add and remove nodes"


ROLES = ("viewer", "editor", "owner", "member", "lead", "admin")
"""Of a project (the first three), of a team, of the installation."""

MATRIX: dict[Action, frozenset[str]] = {
    Action.SEE_PROJECT: frozenset({"viewer", "editor", "owner", "lead", "admin"}),
    Action.OPEN_WORKSPACE: frozenset({"viewer", "editor", "owner"}),
    Action.ATTACH: frozenset({"editor", "owner"}),
    Action.END_LEASE: frozenset({"owner", "lead", "admin"}),
    Action.MANAGE_MEMBERS: frozenset({"owner", "lead", "admin"}),
    Action.EDIT_PROJECT: frozenset({"owner", "lead", "admin"}),
    Action.SET_QUOTA: frozenset({"lead", "admin"}),
    Action.ARCHIVE_PROJECT: frozenset({"lead", "admin"}),
    Action.SEE_TEAM: frozenset({"viewer", "editor", "owner", "member", "lead", "admin"}),
    Action.CREATE_PROJECT: frozenset({"lead", "admin"}),
    Action.MANAGE_TEAM: frozenset({"lead", "admin"}),
    Action.EDIT_TEAM: frozenset({"admin"}),
    Action.ADMINISTER: frozenset({"admin"}),
}


def allowed(action: Action, roles: frozenset[str]) -> bool:
    """Whether somebody with these roles (in the project and its team, and over all) may do it."""
    return bool(MATRIX[action] & roles)


def who_may(action: Action) -> str:
    """For a sentence: ``owner, lead or admin``."""
    names = [role for role in ROLES if role in MATRIX[action]]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def table() -> str:
    """The matrix as Markdown."""
    lines = ["| | " + " | ".join(ROLES) + " |", "| --- |" + " --- |" * len(ROLES)]
    for action, roles in MATRIX.items():
        lines.append(f"| {action} | " + " | ".join("yes" if role in roles else "" for role in ROLES) + " |")
    return "\n".join(lines)
