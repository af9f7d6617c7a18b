"""Brings the database to the newest schema, at every start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from elara_hub.database.engine import Database


def upgrade(database: Database) -> None:
    """Run what migrations are missing; nothing happens when there are none."""
    with database.engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
