"""A service on a real port, with a fast stand-in for the hub's API, a node that speaks the real channel, and both
databases."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from service_world import World, open_world

POSTGRES_PORT = 21290


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str | None]:
    """A PostgreSQL of our own, or the one of ELARA_TEST_POSTGRES; None on a machine that has none."""
    given = os.environ.get("ELARA_TEST_POSTGRES")
    if given:
        yield given
        return
    found = _postgres_folder()
    if found is None:
        yield None
        return
    # PostgreSQL refuses to run as root, and its socket's path must be short.
    user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="elara-pg-", dir="/tmp"))
    data = folder / "data"
    if user:
        shutil.chown(folder, "nobody", "nogroup")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    initdb = [found / "initdb", "-D", data, "-A", "trust", "-U", "elara", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, cwd=folder, **user, **quiet)
    options = [
        "-c",
        f"port={POSTGRES_PORT}",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={folder}",
    ]
    speed = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    server = subprocess.Popen([found / "postgres", "-D", data, *options, *speed], cwd=folder, **user, **quiet)
    try:
        _wait_for_port(POSTGRES_PORT, server)
        yield f"postgresql+psycopg://elara@127.0.0.1:{POSTGRES_PORT}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # the fast way: it does not wait for idle connections
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_folder() -> Path | None:
    for candidate in (
        shutil.which("postgres"),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True),
    ):
        if candidate and (Path(candidate).resolve().parent / "initdb").exists():
            return Path(candidate).resolve().parent
    return None


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    import time

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.poll() is None, "PostgreSQL did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not answer")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str | None) -> str:
    """An empty database of either kind; where there is no PostgreSQL, both runs use SQLite and say so."""
    if request.param == "postgresql" and postgres_url is not None:
        import psycopg

        name = f"t{os.getpid()}_{abs(hash(str(tmp_path))) % 10**9}"
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres_url.rsplit("/", 1)[0] + f"/{name}"
    if request.param == "postgresql":
        request.node.user_properties.append(("database", "sqlite, for there is no PostgreSQL here"))
    return f"sqlite:///{tmp_path / 'elara.sqlite'}"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running service on SQLite, with team `demo`, project `digits`, owner `ada`."""
    async with open_world(tmp_path, f"sqlite:///{tmp_path / 'elara.sqlite'}") as opened:
        yield opened


@pytest_asyncio.fixture
async def both_worlds(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    """The same on each database in turn."""
    async with open_world(tmp_path, database_url) as opened:
        yield opened
