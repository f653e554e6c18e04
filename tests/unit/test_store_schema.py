"""The migrated schema is the one that the tables describe, and migrating is safe to repeat, to race and
to fail."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import IntegrityError

from service.errors import Unavailable
from service.spec import TrainingSpec
from service.store import checkpoints, events, garbage, jobs, metrics, models, schema, sweeps
from service.store.checkpoints import Kept
from service.store.database import Database
from service.store.tables import metadata
from service.sweep import Member


def tables(db: Database) -> list[str]:
    with db.read() as connection:
        return inspect(connection).get_table_names()


def test_an_empty_database_is_migrated_once(database_url: str) -> None:
    db = Database(database_url)
    assert schema.version(db) is None
    assert schema.migrate(db) == (None, schema.head())
    assert schema.migrate(db) == (schema.head(), schema.head())
    assert schema.version(db) == schema.head()
    assert set(tables(db)) == {*metadata.tables, "alembic_version"}
    db.close()


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    databases = [Database(database_url, pooled=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        before = [found for found, _ in pool.map(schema.migrate, databases)]
    assert sorted(before, key=str) == [schema.head()] * 3 + [None]


def test_the_migrations_make_what_the_tables_say(db: Database) -> None:
    with db.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_a_state_that_does_not_exist_is_refused(db: Database) -> None:
    jobs.submit(db, TrainingSpec(), answer=lambda _: {}, queue="cpu")
    with pytest.raises(IntegrityError), db.write() as connection:
        connection.execute(text("UPDATE job SET state = 'asleep'"))


def test_a_newer_database_is_left_alone(db: Database) -> None:
    with db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE job ADD COLUMN of_the_future INTEGER"))
        before = inspect(connection).get_columns("job")
    with pytest.raises(schema.SchemaTooNew) as refusal:
        schema.migrate(db)
    assert refusal.value.status == 503
    assert schema.version(db) == "9999"
    with db.read() as connection:
        assert str(inspect(connection).get_columns("job")) == str(before)


def test_a_migration_that_fails_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = command.upgrade

    def failing(*arguments: Any) -> None:
        upgrade(*arguments)
        raise RuntimeError("half-way")

    db = Database(database_url)
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", failing)
        with pytest.raises(RuntimeError):
            schema.migrate(db)
    assert tables(db) == []
    assert schema.migrate(db) == (None, schema.head())
    db.close()


def test_a_server_that_is_away_is_said_plainly() -> None:
    with pytest.raises(Unavailable) as refusal:
        schema.migrate(Database("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert refusal.value.code == "storage_unavailable"


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    db = Database(f"sqlite:///{tmp_path / 'numeral.db'}")
    schema.migrate(db)
    return db


def test_sqlite_keeps_series_by_key_and_watches_references(sqlite: Database) -> None:
    with sqlite.read() as connection:
        query = "SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'"
        assert sorted(connection.execute(text(query)).scalars()) == [
            "curve",
            "event",
            "metric",
            "sweep_member",
        ]
        made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'job'")).scalar_one()
        assert "CONSTRAINT ck_job_state CHECK" in made
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1, "off only to migrate"
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def _sweep(db: Database) -> None:
    members = [Member({"seed": seed}, TrainingSpec(seed=seed)) for seed in range(2)]
    answer, _ = sweeps.submit(
        db,
        members,
        answer=lambda found, _: {"id": found.id},
        spec={},
        search={"grid": {"seed": [0, 1]}},
        metric="test_accuracy",
        preset=None,
        metadata={},
        priority=5,
        max_attempts=3,
        max_queued=10,
    )
    sweeps.get_with_members(db, answer["id"])
    sweeps.cancel(db, answer["id"])


QUERIES: dict[str, tuple[Callable[[Database], object], str]] = {
    "jobs": (lambda db: jobs.page(db, limit=5, after="job_x"), "SEARCH job"),
    "jobs in a state": (lambda db: jobs.page(db, limit=5, states=["succeeded"]), "ix_job_state_id"),
    "jobs of a preset": (lambda db: jobs.page(db, limit=5, preset="p"), "ix_job_preset_id"),
    "jobs of a sweep": (lambda db: jobs.page(db, limit=5, sweep="sweep_x"), "ix_job_sweep_id_id"),
    "jobs of both": (lambda db: jobs.page(db, limit=5, preset="p", states=["failed"]), "SEARCH job"),
    "speed": (lambda db: jobs.measured_speed(db, device_prefix="cpu"), "ix_job_state_id"),
    "unrung": (lambda db: jobs.unrung(db, older_than=1, limit=5), "ix_job_state_priority_id"),
    "position": (lambda db: jobs.queue_position(db, priority=5, job_id="job_x"), "COVERING INDEX"),
    "events": (lambda db: events.page(db, "job_x", after=5, limit=5), "(job_id=? AND seq>?)"),
    "metrics": (lambda db: metrics.page(db, "job_x", limit=5), "PRIMARY KEY (job_id=?)"),
    "a series": (
        lambda db: metrics.page(db, "job_x", names=["loss"], after_step=5, limit=5),
        "(job_id=? AND name=? AND step>?)",
    ),
    "latest": (lambda db: models.page(db, limit=5, after="model_x"), "version<?"),
}
SMALL: dict[str, tuple[Callable[[Database], object], str]] = {  # these may sort the few rows they find
    "held": (jobs.held, "(state=?)"),
    "counts": (jobs.count_by_queue, "(state=?)"),
    "jobs in some states": (lambda db: jobs.page(db, limit=5, states=["failed", "queued"]), "(state=?)"),
    "prune": (lambda db: checkpoints.prune(db, "job_x", Kept(everything=False, newest=1)), "ix_model_job_id"),
    "sweeps": (lambda db: sweeps.page(db, limit=5, after="sweep_x"), "SEARCH sweep"),
    "a sweep, made and looked at": (lambda db: _sweep(db), "ix_job_sweep_id_id"),
    "its members": (lambda db: _sweep(db), "sweep_member USING PRIMARY KEY (sweep_id=?)"),
    "deleted jobs": (lambda db: garbage.collect(db), "ix_job_deleted_at"),
}


@pytest.mark.parametrize("name", [*QUERIES, *SMALL])
def test_queries_find_their_index(sqlite: Database, name: str) -> None:
    query, index = (QUERIES | SMALL)[name]
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "DELETE")):
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in cursor.fetchall())
            cursor.close()

    event.listen(sqlite.engine, "before_cursor_execute", explain)
    query(sqlite)
    assert any(index in step for step in plans), plans
    scans = ("SCAN job", "SCAN model", "SCAN event", "SCAN metric", "SCAN chunk")
    whole = [step for step in plans if step.startswith(scans) and "USING COVERING INDEX" not in step]
    sorted_ = [step for step in plans if "TEMP B-TREE" in step and name in QUERIES]
    assert whole + sorted_ == [], plans
