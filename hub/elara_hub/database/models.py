"""The tables. Times are aware UTC datetimes, shares are thousandths of a device, memory is in bytes.

Rows of teams, projects, workspaces, nodes and leases are never deleted and their ids never used again: an archived
project's name may be taken by a new one, which inherits nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    literal_column,
    text,
)
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy import Integer as SqlInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite keeps no time zone: what goes in and comes out is aware and UTC all the same."""

    impl = SqlDateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite hands out ever-growing ids only for a plain INTEGER key.
_Id = BigInteger().with_variant(SqlInteger(), "sqlite")
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), str: String(255)}  # noqa: RUF012


def _only(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows that matter, kept small by its condition."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class User(Base):
    __tablename__ = "users"
    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class Team(Base):
    __tablename__ = "teams"
    __table_args__ = (
        _only("uq_teams_slug", "slug", where="archived_at IS NULL", unique=True),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    slug: Mapped[str]
    title: Mapped[str]
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]


class TeamMember(Base):
    __tablename__ = "team_members"
    __table_args__ = (Index("ix_team_members_user", "user"),)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    user: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]


class Project(Base):
    """`handle` is the name handed out for volumes and the MLflow workspace; it is unique for ever."""

    __tablename__ = "projects"
    __table_args__ = (
        _only("uq_projects_slug", "team_id", "slug", where="archived_at IS NULL", unique=True),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
    slug: Mapped[str]
    handle: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    max_device_share: Mapped[int]
    max_lease_minutes: Mapped[int]
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]


class ProjectMember(Base):
    __tablename__ = "project_members"
    __table_args__ = (Index("ix_project_members_user", "user"),)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]


class Workspace(Base):
    """One start of one server: the only proof of which project a workspace's token belongs to."""

    __tablename__ = "workspaces"
    __table_args__ = (
        _only("uq_workspaces_running", "user", "server", where="stopped_at IS NULL", unique=True),
        Index("ix_workspaces_user", "user", "id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    user: Mapped[str]
    server: Mapped[str]
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    image: Mapped[str]
    size: Mapped[str]
    started_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]


class Node(Base):
    __tablename__ = "nodes"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str]
    public_key_pem: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    boot_id: Mapped[str | None]
    agent_version: Mapped[str | None]
    device_users: Mapped[str | None] = mapped_column(Text)
    data_local: Mapped[str | None] = mapped_column(Text)
    data_tcp: Mapped[str | None]


class JoinToken(Base):
    __tablename__ = "join_tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class DeviceRow(Base):
    """`used_share` repeats what `lease_devices` adds up to, in the same transaction; its check is the last guard
    against handing out more than a device has."""

    __tablename__ = "devices"
    __table_args__ = (
        CheckConstraint("used_share >= 0 AND used_share <= 1000", name="capacity"),
        Index("uq_devices_node_uuid", "node_id", "uuid", unique=True),
        _only("ix_devices_usable", "model", "used_share", where="usable"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    uuid: Mapped[str]
    ordinal: Mapped[int]
    model: Mapped[str]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    emulated: Mapped[bool]
    healthy: Mapped[bool]
    fault: Mapped[str | None] = mapped_column(Text)
    present: Mapped[bool]
    usable: Mapped[bool]
    used_share: Mapped[int] = mapped_column(default=0)


class Lease(Base):
    """`state` is what is, `target` (active or ended) what shall be; the reconciler drives the one to the other."""

    __tablename__ = "leases"
    __table_args__ = (
        _only(
            "uq_leases_workspace",
            "workspace_id",
            where="target = 'active' AND state IN ('queued', 'starting', 'active')",
            unique=True,
        ),
        _only("ix_leases_unfinished", "state", "created_at", where="state <> 'ended'"),
        _only("ix_leases_ends", "ends_at", where="state <> 'ended' AND target = 'active'"),
        _only("ix_leases_workspace", "workspace_id", where="state <> 'ended'"),
        Index("ix_leases_user", "user", "created_at"),
        Index("ix_leases_project", "project_id", "created_at"),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    user: Mapped[str]
    server: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(16))
    generation: Mapped[int]
    count: Mapped[int]
    wanted_share: Mapped[int | None]
    wanted_memory: Mapped[int | None] = mapped_column(BigInteger)
    wanted_model: Mapped[str | None]
    minutes: Mapped[int]
    share: Mapped[int | None]
    created_at: Mapped[datetime]
    placed_at: Mapped[datetime | None]
    active_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]
    end_message: Mapped[str | None] = mapped_column(Text)


class LeasePart(Base):
    """A lease on one node. `sure_end` is when the node has surely let go by its own clock, whatever reached it."""

    __tablename__ = "lease_parts"
    __table_args__ = (
        _only("ix_lease_parts_held", "node_id", where="state <> 'released'"),
        _only("ix_lease_parts_moving", "lease_id", where="state IN ('starting', 'stopping')"),
    )
    lease_id: Mapped[str] = mapped_column(ForeignKey("leases.id"), primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """starting, ready, stopping, released"""
    sure_end: Mapped[datetime]
    released_at: Mapped[datetime | None]
    used_until: Mapped[datetime | None]
    usage: Mapped[dict[str, Any] | None]


# The conditions of the partial indexes. Their words are literals on purpose: SQLite does not use a partial index when
# the word that proves its condition is a bound parameter.
UNFINISHED = Lease.state != literal_column("'ended'")
WANTED = Lease.target == literal_column("'active'")
UNRELEASED = LeasePart.state != literal_column("'released'")
MOVING = LeasePart.state.in_([literal_column("'starting'"), literal_column("'stopping'")])


class LeaseDevice(Base):
    """A device's share held by a lease; `released_at` set means that the share may be granted again."""

    __tablename__ = "lease_devices"
    __table_args__ = (
        _only("ix_lease_devices_held", "device_id", where="released_at IS NULL"),
        _only("ix_lease_devices_project", "project_id", where="released_at IS NULL"),
    )
    lease_id: Mapped[str] = mapped_column(ForeignKey("leases.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"))
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    share: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    released_at: Mapped[datetime | None]


class Usage(Base):
    """One row a lease that was active, written at its end."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_project", "project_id", "ended_at"), Index("ix_usage_user", "user", "ended_at"))
    lease_id: Mapped[str] = mapped_column(ForeignKey("leases.id"), primary_key=True)
    user: Mapped[str]
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    model: Mapped[str]
    emulated: Mapped[bool]
    devices: Mapped[int]
    share: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    seconds: Mapped[float]
    device_seconds: Mapped[float]
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    busy_seconds: Mapped[float | None]
    end_reason: Mapped[str]


class Event(Base):
    """What happened, for audit and for whoever counts. Ids grow in the order of commits."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_project", "project_id", "id"),
        Index("ix_events_lease", "lease_id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str]
    actor: Mapped[str]
    user: Mapped[str | None]
    team_id: Mapped[int | None] = mapped_column(BigInteger)
    project_id: Mapped[int | None] = mapped_column(BigInteger)
    lease_id: Mapped[str | None] = mapped_column(String(32))
    node_id: Mapped[str | None] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
