"""The migration of the previous schema to this one, while others read and write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, update

from service.spec import TrainingSpec
from service.store import jobs, schema
from service.store.database import Database, now
from service.store.tables import job
from tests.deploy.files import ROOT
from tests.deploy.load import under_load

COLUMNS = {
    "state": "queued",
    "spec": TrainingSpec().model_dump(mode="json"),
    "parameter_count": 1,
    "queue": "cpu",
    "priority": 5,
    "metadata": {},
    "attempt": 0,
    "crashes": 0,
    "max_attempts": 3,
    "metrics": {},
    "last_event": 0,
    "queued_at": 1.0,
    "created_at": 1.0,
}


@pytest.fixture
def previous(database_url: str) -> Database:
    """A database as the release before this schema left it, with jobs in it."""
    db = Database(database_url)
    with db.engine.connect() as connection, connection.execution_options(numeral_write=True).begin():
        config = schema._config(connection)
        scripts = ScriptDirectory.from_config(config)
        newest = scripts.get_revision("head")
        assert newest is not None
        assert isinstance(newest.down_revision, str)
        command.upgrade(config, newest.down_revision)
        for number in range(200):
            connection.execute(insert(job).values(id=f"job_{number:032x}", **COLUMNS))
    return db


def test_others_go_on_while_it_is_migrated(previous: Database, tmp_path: Path) -> None:
    ids = [f"job_{number:032x}" for number in range(200)]

    def as_the_release_before() -> None:
        with previous.read() as connection:
            found = connection.execute(select(job.c.id).where(job.c.state == "queued")).scalars().all()
        assert sorted(found) == ids
        with previous.write(durable=False) as connection:
            changed = connection.execute(update(job).where(job.c.id == ids[0]).values(last_progress_at=now()))
            assert changed.rowcount == 1

    with under_load(as_the_release_before) as load:
        ran = subprocess.run(
            [sys.executable, "-m", "service.cli", "migrate", "--json"],
            env={
                "NUMERAL_HOME": str(tmp_path),
                "NUMERAL_DATABASE_URL": previous.url.render_as_string(hide_password=False),
                "PYTHONPATH": str(ROOT),
                "PATH": "/usr/bin:/bin",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    moved = json.loads(ran.stdout)
    assert moved["before"] != moved["after"] == schema.head()
    assert load.failed == []
    assert load.done > 0
    assert load.slowest < 20, "nobody waits longer than for a lock"
    assert [found.id for found in jobs.page(previous, limit=500)[0]] == list(reversed(ids))
    previous.close()
