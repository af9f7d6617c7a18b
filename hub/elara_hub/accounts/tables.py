"""The tables of accounts: a small SQLite database of its own, beside the hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Float, String, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERSION = 1
"""Kept in SQLite's user_version."""


class AccountsTooNew(RuntimeError):
    """A newer Elara wrote the file."""


class Base(DeclarativeBase):
    pass


class Account(Base):
    """One who may sign in, or may not any more. Times are seconds since the epoch."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    password_hash: Mapped[str]
    admin: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), default="active")
    """``active``, ``pending`` (signed up, not approved yet) or ``disabled``."""
    created_at: Mapped[float] = mapped_column(Float)
    signed_in_at: Mapped[float | None]
    shut_out: Mapped[bool] = mapped_column(default=False)
    """The hub has yet to end what this account holds: sessions, tokens, and servers of a disabled one."""


class Invitation(Base):
    """A link that makes one account. Only a digest of its token is kept."""

    __tablename__ = "invitation"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    admin: Mapped[bool] = mapped_column(default=False)
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_by: Mapped[str | None] = mapped_column(String(64))


class Failure(Base):
    """Failed sign-ins under one key."""

    __tablename__ = "failure"
    key: Mapped[str] = mapped_column(String(400), primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
    last_at: Mapped[float]
    locked_until: Mapped[float] = mapped_column(default=0.0)


def open_tables(file: Path) -> Engine:
    """Open `file`, making it (mode 0600) and its tables when missing.

    Raises:
        AccountsTooNew: it comes from a newer version.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 10})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The hub and the command line may write at the same time: WAL lets readers go on meanwhile.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # IMMEDIATE: two that both read and then write must not both believe what they read (one invitation, one user).
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found > VERSION:
            raise AccountsTooNew(f"{file} is of a newer version of Elara. Start that one, or restore a backup.")
        Base.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
    return engine
