"""Alembic's entry: runs in the connection that `elara_hub.database.migrate` hands over."""

from __future__ import annotations

import os

from alembic import context

from elara_hub.database.engine import Database
from elara_hub.database.models import Base


def _run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        # For `alembic revision --autogenerate` at a developer's shell.
        connection = Database(os.environ["ELARA_DATABASE_URL"]).engine.connect()
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


_run()
