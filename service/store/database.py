"""The engine and its transactions, the same on SQLite and PostgreSQL.

A reader opens `read()`, a writer `write()`; nothing else begins a transaction. On SQLite a writer
begins IMMEDIATE, so that a read followed by a write cannot lose another's update, and waits its turn
for at most ten seconds, twice; then the caller gets a 503 to retry.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Double, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.sql.functions import FunctionElement

from service.errors import ServiceError, Unavailable

BUSY_TIMEOUT_MS = 10_000
IDLE_TIMEOUT_MS = 30_000  # of a PostgreSQL's transaction whose process has been stopped amid it


class StorageFull(ServiceError):
    """The disk has no room: nothing was written, what was there is whole."""

    status, code, title = 507, "disk_full", "There is no room left to store this"


class now(FunctionElement[float]):  # noqa: N801 - reads as SQL's own functions do
    """The database's clock, in seconds since 1970 (UTC). All hosts share it, so leases compare."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "round((julianday('now') - 2440587.5) * 86400.0, 3)"  # unixepoch('subsec') needs SQLite 3.42


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """One database. `pooled=False` closes each connection after use: for a process that forks."""

    def __init__(self, url: str, *, pooled: bool = True) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._create_sqlite(pooled) if self.is_sqlite else self._create_server(pooled)

    def _create_sqlite(self, pooled: bool) -> Engine:
        if self.url.database is not None:
            try:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ServiceError(
                    f"cannot make the database's folder: {error}; set NUMERAL_HOME to one that can be written",
                    code="storage_unusable",
                ) from error
        engine = create_engine(
            self.url,
            module=sqlite_driver(),
            poolclass=QueuePool if pooled else NullPool,
            connect_args={"check_same_thread": False, "isolation_level": None},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _create_server(self, pooled: bool) -> Engine:
        if pooled:
            engine = create_engine(self.url, pool_pre_ping=True, pool_size=10, max_overflow=20)
        else:
            engine = create_engine(self.url, poolclass=NullPool)
        event.listen(engine, "connect", _configure_server)
        return engine

    @property
    def may_crash_alone(self) -> bool:
        """Whether its latest commits can be lost while those who made them live on: a server's can, SQLite's go
        with the machine that both are on. What its writer goes on from is to be durable where they can."""
        return not self.is_sqlite

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot of the database. Keep it short: never while training or streaming."""
        with translated(), self.engine.connect() as connection:
            if not self.is_sqlite:  # by default each of its statements would see a snapshot of its own
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """One transaction. `durable`: on disk when it returns, through a power cut too; without it
        a power cut (not a crash of ours) may lose the last few, in order."""
        with translated(), self.engine.connect() as connection:
            if self.is_sqlite:
                _set_synchronous(connection, "FULL" if durable else "NORMAL")
                connection = connection.execution_options(numeral_write=True)
            with self._begin(connection):
                if not self.is_sqlite and not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    def _begin(self, connection: Connection) -> Any:
        try:
            return connection.begin()
        except OperationalError as error:
            if not _is_busy(error):
                raise
            return connection.begin()

    def describe(self) -> str:
        """Which database library runs, for the log at start."""
        if self.is_sqlite:
            return f"SQLite {sqlite_driver().sqlite_version} ({sqlite_driver().__name__})"
        with self.read() as connection:
            return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar_one()}"

    def size(self) -> int:
        """Bytes that it takes, without what is still in SQLite's log."""
        query = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if self.is_sqlite
            else "SELECT pg_database_size(current_database())"
        )
        with self.read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def close(self) -> None:
        self.engine.dispose()


def sqlite_driver() -> ModuleType:
    """pysqlite3 where its wheel exists: SQLite 3.7 to 3.51.2 can corrupt a WAL that is reset while
    another process commits, and the standard library's is often among them."""
    try:
        import pysqlite3.dbapi2
    except ImportError:
        return sqlite3
    return pysqlite3.dbapi2  # type: ignore[no-any-return]


def insert_new(connection: Connection, table: Table) -> sqlite_dialect.Insert | postgresql_dialect.Insert:
    """INSERT that passes over rows whose key is there already."""
    if connection.dialect.name == "sqlite":
        return sqlite_dialect.insert(table).on_conflict_do_nothing()
    return postgresql_dialect.insert(table).on_conflict_do_nothing()


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        "cache_size=-16000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_server(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("numeral_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_synchronous(connection: Connection, level: str) -> None:
    if connection.info.get("synchronous") != level:  # cannot change inside a transaction
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA synchronous={level}")
        cursor.close()
        connection.info["synchronous"] = level


@contextmanager
def translated() -> Iterator[None]:
    """What the database says, as an error that a caller may read."""
    try:
        yield
    except PoolTimeout as error:
        detail = "too many requests wait for the database; nothing was written"
        raise Unavailable(detail, code="storage_busy") from error
    except DBAPIError as error:
        if _is_busy(error):
            raise Unavailable("the database is busy; nothing was written", code="storage_busy") from error
        if _is_full(error):
            raise StorageFull("the disk of the database is full; nothing was written") from error
        if error.connection_invalidated or _is_unreachable(error) or "unable to open" in str(error.orig):
            raise Unavailable("the database cannot be reached", code="storage_unavailable") from error
        raise


def _is_busy(error: DBAPIError) -> bool:
    """PostgreSQL's lock timeout and deadlock, too."""
    text = str(error.orig)
    is_locked = "database is locked" in text or "database table is locked" in text
    return is_locked or getattr(error.orig, "sqlstate", "") in ("55P03", "40P01")


def _is_full(error: DBAPIError) -> bool:
    return "database or disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", "") == "53100"


def _is_unreachable(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    is_postgresql = type(error.orig).__module__.startswith("psycopg")
    return (
        is_postgresql and isinstance(error, OperationalError) and (state is None or state[:2] in ("08", "57"))
    )
