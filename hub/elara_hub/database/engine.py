"""One database, two kinds of transaction.

`read()` sees one consistent state. `write()` is the only way to change anything, and one writer works at a time: what
it reads cannot change under it, so a decision on quota or placement and its rows are one step. SQLite begins such a
transaction with BEGIN IMMEDIATE (a later upgrade of a read lock could fail); PostgreSQL takes one advisory lock.
Writers are short (milliseconds) and do no I/O but the database's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

_WRITE = "elara_write"
_POSTGRES_LOCK = 0x454C415241  # "ELARA"


class Database:
    """Opens the database at `url` (SQLAlchemy's form; ``sqlite:///path`` or ``postgresql+psycopg://...``).

    Raises:
        ValueError: neither SQLite nor PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.backend = parsed.get_backend_name()
        if self.backend not in ("sqlite", "postgresql"):
            raise ValueError(f"{self.backend!r} is no database that the service knows: use sqlite or postgresql")
        options: dict[str, Any] = {"pool_pre_ping": self.backend == "postgresql"}
        if self.backend == "sqlite":
            options["connect_args"] = {"check_same_thread": False, "timeout": 30}
        else:
            options |= {"pool_size": 10, "max_overflow": 20}
        self.engine = create_engine(parsed, **options)
        if self.backend == "sqlite":
            _prepare_sqlite(self.engine)
        else:
            _prepare_postgres(self.engine)
        # Several queries of one reader shall see one state; SQLite does that by itself.
        snapshot = {} if self.backend == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._read = sessionmaker(self.engine.execution_options(**snapshot), expire_on_commit=False)
        self._write = sessionmaker(self.engine.execution_options(**{_WRITE: True}), expire_on_commit=False)
        # Writers of this process queue here, in turn, instead of polling the database's lock.
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"Database({self.engine.url.render_as_string(hide_password=True)})"

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._read() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commits at the end of the block; an exception rolls everything back."""
        with self._turn, self._write.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling begins transactions late; ours are explicit.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _prepare_postgres(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITE, False):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
