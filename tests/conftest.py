"""What every test may use: a real database of each kind. A server that is missing is a visible skip on a
newcomer's machine and a failure in CI."""

import os
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from sqlalchemy import make_url

from service.data import sources
from service.store import schema
from service.store.database import Database
from service.store.leases import Held
from tests.faults import ledger

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ledger.summarise(terminalreporter)


def missing(what: str) -> NoReturn:
    """Skip, saying what is missing; in CI fail, since there nothing may be."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing here")


@cache
def mnist_folder() -> Path:
    """The folder with the real MNIST: as set, or fetched once and kept where `make demo` keeps it."""
    given = os.environ.get("NUMERAL_DATA_DIR")
    cache_dir = Path(__file__).parent.parent / ".numeral" / "data"
    return sources.fetch("mnist", cache_dir=cache_dir, data_dir=Path(given) if given else None).folder


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone; only where the data lies is taken from outside."""
    for name in [name for name in os.environ if name.startswith("NUMERAL_")]:
        if name != "NUMERAL_DATA_DIR":
            monkeypatch.delenv(name)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database of its own."""
    url = make_url(POSTGRES_URL)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        server = psycopg.connect(plain, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing(f"PostgreSQL ({error})".replace("\n", " "))
    name = f"numeral_test_{uuid.uuid4().hex[:12]}"
    with server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, SQLite and PostgreSQL in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'numeral.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    database = Database(database_url)
    schema.migrate(database)
    yield database
    database.close()


def renew(db: Database, hold: Held, *, seconds: float = 60) -> None:
    """Hold it for so long from now."""
    with db.write(durable=False) as connection:
        hold.renew(connection, lease_seconds=seconds)
