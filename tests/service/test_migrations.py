"""The database at a start: made, brought up from an older schema with what it holds, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from service_world import device, open_world
from sqlalchemy import text

import elara_hub.database.migrate as migrate
from elara_hub.database.engine import Database
from elara_hub.database.models import Base

NewDatabase = Callable[[bool], str]
_THEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def _to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


def _insert(database: Database, table: str, **values: Any) -> None:
    names = ", ".join(f'"{name}"' for name in values)
    with database.write() as session:
        words = ", ".join(f":{name}" for name in values)
        session.execute(text(f"INSERT INTO {table} ({names}) VALUES ({words})"), values)


def _fill_first_schema(database: Database) -> None:
    """A team with a project, a member and a workspace that runs, written as the first version wrote them."""
    then = _THEN if database.backend == "postgresql" else _THEN.replace(tzinfo=None)
    _insert(database, "users", name="ada", created_at=then)
    _insert(database, "teams", id=1, slug="old", title="Of the first version", created_at=then)
    quota = {"max_device_share": 1500, "max_lease_minutes": 60}
    _insert(database, "projects", id=1, team_id=1, slug="p", handle="old--p", title="P", created_at=then, **quota)
    _insert(database, "project_members", project_id=1, user="ada", role="owner")
    made = {"image": "here", "size": "small", "started_at": then}
    _insert(database, "workspaces", id=1, user="ada", server="", project_id=1, **made)
    if database.backend == "postgresql":
        # As the first version's own inserts would have left the counters.
        with database.write() as session:
            for table in ("teams", "projects", "workspaces"):
                session.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1)"))


async def test_an_older_database_is_brought_up_at_the_start_and_keeps_what_it_holds(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    address = new_database(False)
    database = Database(address)
    _to(database, "0001")
    _fill_first_schema(database)
    database.close()
    async with open_world(tmp_path, address) as world:
        teams = (await world.get("/teams", "user-root"))["teams"]
        assert {"old"} <= {team["slug"] for team in teams}
        quota = await world.get("/projects/old/p/quota", "user-ada")
        assert (quota["max_device_share"], quota["max_lease_minutes"]) == (1500, 60)
        # And works: the workspace of the older version attaches.
        await world.node("n1", [device(0)])
        lease = await world.attach(world.hub.workspace_token("ada"), share=250)
        assert lease["project"] == "p"
        await world.ok("DELETE", f"/leases/{lease['id']}", "user-ada")


def test_the_migrations_lead_to_the_schema_that_the_service_uses(new_database: NewDatabase) -> None:
    database = Database(new_database(False))
    migrate.upgrade(database)
    migrate.upgrade(database)  # once more changes nothing
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    database.close()
    assert differences == []


def test_a_database_of_a_newer_version_is_refused_in_words(new_database: NewDatabase) -> None:
    database = Database(new_database(True))
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrate.DatabaseTooNew, match=r"newer version.*9999.*nothing was changed"):
        migrate.upgrade(database)
    database.close()


def test_a_time_comes_back_as_it_went_in(new_database: NewDatabase) -> None:
    """Whatever time zone the database server is set to."""
    from elara_hub.database.models import User

    database = Database(new_database(True))
    with database.write() as session:
        session.add(User(name="ada", created_at=_THEN))
    with database.read() as session:
        found = session.get(User, "ada")
        assert found is not None and found.created_at == _THEN and found.created_at.tzinfo is UTC
    database.close()
