"""Bring the database's schema to the version that this code needs.

One process migrates at a time (a lock file beside SQLite, an advisory lock on PostgreSQL). SQLite
rebuilds a table to change it, so foreign keys are off meanwhile, or the children of a dropped table would
go with it, and are checked before the commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, text

from service.errors import ServiceError
from service.store.database import Database, translated

ADVISORY_LOCK = 0x6E756D6572616C  # "numeral"
LOCK_SECONDS = 120


class SchemaTooNew(ServiceError):
    status, code, title = 503, "schema_too_new", "The database is of a newer version of Numeral"


def migrate(db: Database) -> tuple[str | None, str]:
    """Upgrade to the newest version; returns the version before (None: empty) and after.
    Raises SchemaTooNew if the database comes from a newer Numeral; it is then left as it is."""
    with translated(), _alone(db), db.engine.connect() as connection:
        if db.is_sqlite:
            _off_and_on(connection, "OFF")
        try:
            with connection.execution_options(numeral_write=True).begin():
                return _migrate(db, connection)
        finally:
            if db.is_sqlite:
                _off_and_on(connection, "ON")


def _migrate(db: Database, connection: Connection) -> tuple[str | None, str]:
    config = _config(connection)
    before, newest = _current(connection), head()
    if before == newest:
        return before, newest
    if before is not None and before not in _known(config):
        raise SchemaTooNew(f"its schema is {before}, this code knows up to {newest}: run a newer Numeral")
    command.upgrade(config, "head")
    if db.is_sqlite:
        broken = connection.execute(text("PRAGMA foreign_key_check")).all()
        if broken:
            raise ServiceError(f"the migration would break {len(broken)} references; nothing was changed")
    return before, newest


def version(db: Database) -> str | None:
    """The schema's version as it is; None before the first migration."""
    with db.read() as connection:
        return _current(connection)


def head() -> str:
    """The version that this code needs."""
    found = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert found is not None
    return found


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _known(config: Config) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _off_and_on(connection: Connection, value: str) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA foreign_keys={value}")
    cursor.close()


@contextmanager
def _alone(db: Database) -> Iterator[None]:
    if db.is_sqlite:
        with FileLock(f"{db.url.database}.migrate.lock", timeout=LOCK_SECONDS):
            yield
        return
    with db.engine.connect() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # while it is migrated
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
