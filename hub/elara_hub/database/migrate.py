"""Brings the database to the newest schema, at every start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from elara_hub.database.engine import Database


class DatabaseTooNew(ValueError):
    """A newer version of Elara has written this database."""


def upgrade(database: Database) -> None:
    """Run what migrations are missing, all in one transaction; nothing happens when there are none.

    Raises:
        DatabaseTooNew: the database has a revision that this version does not know; nothing was changed.
    """
    config = _config()
    with database.engine.connect() as connection:
        _check(config, MigrationContext.configure(connection).get_current_revision())
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def newest() -> str:
    """The revision that this version works with."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current(database: Database) -> str | None:
    """The revision of the database; None when it has no tables of ours yet."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _check(config: Config, revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseTooNew(
            f"the database was written by a newer version of Elara (its revision is {revision}, the newest known here "
            f"is {newest()}). Start that version, or restore a backup of before it; nothing was changed."
        )
