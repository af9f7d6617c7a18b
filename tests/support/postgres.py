"""A throw-away PostgreSQL of Debian's programs, on a Unix socket only, so that no port of the machine is taken."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_START_SECONDS = 60.0
# What a crash of the machine would lose is no loss in a test.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian does not put it on the path. None when there is none."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    return next((file.parent for file in found if (file.parent / "initdb").exists()), None)


def why_not() -> str | None:
    """Why no PostgreSQL can be had here, as a sentence; None when one can."""
    if programs() is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    return None


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; yields the SQLAlchemy address of its database `postgres`, whose user may make others."""
    found = programs()
    assert found is not None, why_not()
    user = {"user": _user(), "group": pwd.getpwnam(_user() or "").pw_gid} if os.geteuid() == 0 else {}
    # A socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="elara-pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, user["user"], user["group"])
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": folder}
    initdb = [found / "initdb", "-D", folder / "data", "-A", "trust", "-U", "elara", "--no-sync", "-E", "UTF8"]
    subprocess.run([*initdb, "--locale=C"], check=True, stderr=subprocess.DEVNULL, **user, **quiet)  # type: ignore[call-overload]
    options = ["listen_addresses=", f"unix_socket_directories={folder}", "timezone=Asia/Kathmandu", *_FAST]
    arguments = [word for option in options for word in ("-c", option)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([found / "postgres", "-D", folder / "data", *arguments], stderr=log, **user, **quiet)  # type: ignore[call-overload]
    try:
        _wait(folder, server)
        yield f"postgresql+psycopg://elara@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # the fast way: it does not wait for idle connections
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def create(address: str, name: str, template: str = "template1") -> str:
    """Make a database beside the one at `address`, as a copy of another; returns its address."""
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return address.replace("/postgres?", f"/{name}?")


def drop(address: str, name: str) -> None:
    """Remove a database, whoever is still connected to it."""
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _user() -> str | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


def _wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(f"postgresql://elara@/postgres?host={folder}", connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-1000:]}") from None
        time.sleep(0.05)
