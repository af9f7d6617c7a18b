"""A service on a real port, with a fast stand-in for the hub's API, a node that speaks the real channel, and both
databases: every test of a world runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from service_world import World, open_world

from elara_hub.database.engine import Database
from elara_hub.database.migrate import upgrade
from tests.support import postgres

_TEMPLATE = "migrated"
_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[str]:
    """A PostgreSQL of our own, or the one at ELARA_TEST_POSTGRES (an address of its database `postgres`)."""
    given = os.environ.get("ELARA_TEST_POSTGRES")
    if given:
        yield given
        return
    with postgres.cluster() as address:
        yield address


@pytest.fixture(scope="session")
def migrated_postgres(postgres_cluster: str) -> str:
    """The name of a database with the newest schema and nothing in it: a copy costs less than migrating anew."""
    postgres.drop(postgres_cluster, _TEMPLATE)
    _migrate(postgres.create(postgres_cluster, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    file = tmp_path_factory.mktemp("migrated") / "elara.sqlite"
    _migrate(f"sqlite:///{file}")
    return file


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[bool], str]]:
    """Makes databases of the one kind or the other, migrated (True) or empty (False); returns the address of each."""
    made: list[str] = []

    def sqlite(migrated: bool) -> str:
        file = tmp_path / f"database-{next(_numbers)}.sqlite"
        if migrated:
            shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
        return f"sqlite:///{file}"

    def postgresql(migrated: bool) -> str:
        made.append(f"test_{os.getpid()}_{next(_numbers)}")
        template = request.getfixturevalue("migrated_postgres") if migrated else "template1"
        return postgres.create(request.getfixturevalue("postgres_cluster"), made[-1], template)

    yield sqlite if request.param == "sqlite" else postgresql
    for name in made:
        postgres.drop(request.getfixturevalue("postgres_cluster"), name)


@pytest.fixture
def database_url(new_database: Callable[[bool], str]) -> str:
    """A database with the newest schema and nothing in it, of either kind in turn."""
    return new_database(True)


@pytest_asyncio.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    """A running service, with team `demo`, project `digits`, owner `ada`; on each database in turn."""
    async with open_world(tmp_path, database_url) as opened:
        yield opened
