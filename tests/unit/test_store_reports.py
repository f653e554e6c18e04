"""Reports are there exactly of jobs that finished; curves once a step."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from alembic import command
from sqlalchemy import Table, delete, func, insert, select, update

from service.spec import TrainingSpec
from service.store import (
    attempts,
    blobs,
    events,
    garbage,
    jobs,
    metrics,
    models,
    reports,
    schema,
    tables,
)
from service.store.attempts import Attempt, Curve, Point
from service.store.blobs import Damaged
from service.store.checkpoints import Checkpoint
from service.store.database import Database
from service.store.jobs import JobLost
from service.store.models import Model
from service.store.reports import Draft
from tests.unit.test_store_models import final, start

DATA = {"zeta": 1, "alpha": [0.1, None, {"b": 1, "a": 2}], "third": 1 / 3}
DRAFT = Draft(DATA, b"answers" * 10)


def finish(db: Database, attempt: Attempt, header: Checkpoint, draft: Draft | None = DRAFT) -> Model | None:
    return models.finish(
        db,
        attempt,
        header,
        preprocessing="1",
        dataset_sha256="d" * 64,
        provenance={},
        runtime=3.0,
        report=draft,
    )


def finished(db: Database, draft: Draft | None = DRAFT) -> str:
    """The id of a job that finished with this report."""
    attempt = start(db)
    assert finish(db, attempt, final(db, attempt), draft) is not None
    return attempt.job_id


def count(db: Database, table: Table) -> int:
    with db.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def collect_all(db: Database) -> int:
    return garbage.collect(db, grace_seconds=-60, seconds=60)


def test_a_report_is_read_as_it_was_stored(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 9)
    found = reports.find(db, finished(db))
    assert found is not None
    assert (found.data, list(found.data)) == (DATA, ["zeta", "alpha", "third"])
    assert found.created_at > 0
    assert reports.answers(db, found) == DRAFT.answers
    collect_all(db)
    assert reports.answers(db, found) == DRAFT.answers, "what a report names is no garbage"


def test_a_regression_has_no_answers(db: Database) -> None:
    found = reports.find(db, finished(db, Draft(DATA, None)))
    assert found is not None
    assert (found.answers_blob, found.answers_sha256, found.answers_size) == (None, None, None)


def test_a_job_may_finish_without_one(db: Database) -> None:
    assert reports.find(db, finished(db, None)) is None
    assert reports.find(db, "job_none") is None


def test_only_a_finish_stores_a_report(db: Database) -> None:
    cancelled, stale = start(db), start(db)
    headers = [final(db, attempt) for attempt in (cancelled, stale)]
    kept = count(db, tables.chunk)
    jobs.cancel(db, cancelled.job_id)
    assert finish(db, cancelled, headers[0]) is None
    attempts.worker_lost(db, stale, reason="died")
    with pytest.raises(JobLost):
        finish(db, stale, headers[1])
    assert count(db, tables.report) == 0
    assert count(db, tables.chunk) == kept + 2
    assert collect_all(db) == 2, "the answers of both are garbage"


def test_a_finish_that_fails_stores_no_report(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = start(db)
    header = final(db, attempt)

    def failing(*_: Any) -> int:
        raise RuntimeError("half-way")

    with monkeypatch.context() as patch:
        patch.setattr(models, "_next_version", failing)
        with pytest.raises(RuntimeError):
            finish(db, attempt, header)
    assert reports.find(db, attempt.job_id) is None
    assert jobs.get(db, attempt.job_id).state == "running"
    assert finish(db, attempt, header) is not None
    assert reports.find(db, attempt.job_id) is not None


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_damaged_answers_are_not_given_out(db: Database, harm: str) -> None:
    found = reports.find(db, finished(db))
    assert found is not None
    mine = tables.chunk.c.blob_id == found.answers_blob
    with db.write() as connection:
        connection.execute(
            delete(tables.chunk).where(mine)
            if harm == "lost"
            else update(tables.chunk).where(mine).values(data=b"Answers" * 10)
        )
    with pytest.raises(Damaged):
        reports.answers(db, found)
    assert reports.find(db, found.job_id) == found, "the figures are whole"


def test_a_deleted_job_takes_its_report_along(db: Database) -> None:
    job_id = finished(db)
    chunks = count(db, tables.chunk)
    jobs.remove(db, job_id)
    collect_all(db)
    assert reports.find(db, job_id) is None
    assert count(db, tables.chunk) == chunks - 1, "the weights of the model stay"


def write(db: Database, attempt: Attempt, *curves: Curve) -> None:
    attempts.write_progress(db, attempt, progress={"step": 1}, curves=curves)


def curve(step: int, value: float = 1 / 3) -> Curve:
    return Curve(step, step / 10, np.full(5, value, np.float32))


def steps(db: Database, attempt: Attempt, at_most: int = 1000) -> list[int]:
    return [one.step for one in reports.curves(db, attempt.job_id, at_most=at_most)]


def test_a_curve_is_stored_once_a_step(db: Database) -> None:
    attempt = start(db)
    write(db, attempt, curve(20), curve(10))
    write(db, attempt, curve(20, 9.0), curve(30))
    found = reports.curves(db, attempt.job_id, at_most=10)
    assert [(one.step, one.epoch) for one in found] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    for one in found:
        np.testing.assert_array_equal(one.outputs, np.full(5, 1 / 3, np.float32))
        assert one.outputs.dtype == np.float32
    assert reports.curves(db, "job_none", at_most=10) == []


def test_a_stale_attempt_stores_no_curve(db: Database) -> None:
    attempt = start(db)
    attempts.worker_lost(db, attempt, reason="died")
    with pytest.raises(JobLost):
        write(db, attempt, curve(1))
    assert steps(db, attempt) == []


def test_curves_are_thinned_evenly(db: Database) -> None:
    attempt = start(db)
    write(db, attempt, *(curve(step) for step in range(0, 1010, 10)))
    assert steps(db, attempt, at_most=2) == [0, 1000]
    assert steps(db, attempt, at_most=5) == [0, 250, 500, 750, 1000]
    assert len(steps(db, attempt, at_most=101)) == len(steps(db, attempt, at_most=500)) == 101


@pytest.mark.parametrize("stored", [1, 2, 7, 11, 12, 13, 100])
def test_as_many_curves_are_left_as_may_be(db: Database, stored: int) -> None:
    attempt = start(db)
    write(db, attempt, *(curve(step) for step in range(stored)))
    found = steps(db, attempt, at_most=12)
    assert (len(found), found[0], found[-1]) == (min(stored, 12), 0, stored - 1)
    gaps = {after - before for before, after in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_curves_are_found_by_their_steps(db: Database) -> None:
    attempt, other = start(db), start(db)
    write(db, attempt, *(curve(step) for step in range(0, 50, 10)))
    write(db, other, curve(5))
    found = reports.curves_at(db, attempt.job_id, [40, 10, 5])
    assert [(one.step, one.epoch) for one in found] == [(10, 1.0), (40, 4.0)]
    assert reports.curve_steps(db, attempt.job_id, at_most=3) == [0, 10, 20]


def test_the_best_of_a_series(db: Database) -> None:
    attempt, other = start(db), start(db)
    for one, values in ((attempt, (0.3, 0.9, 0.1)), (other, (2.0, -1.0))):
        points = [Point("test_loss", step, 1.0, value) for step, value in enumerate(values)]
        attempts.write_progress(db, one, progress={"step": 1}, points=points)
    assert metrics.best(db, attempt.job_id, "test_loss", highest=True) == 0.9
    assert metrics.best(db, attempt.job_id, "test_loss", highest=False) == 0.1
    assert metrics.best(db, attempt.job_id, "test_accuracy", highest=True) is None


OLD_JOB = {
    "id": "job_" + "0" * 32,
    "state": "queued",
    "spec": TrainingSpec().model_dump(mode="json"),
    "parameter_count": 25_450,
    "queue": "cpu",
    "priority": 5,
    "metadata": {"of": "before"},
    "attempt": 0,
    "crashes": 0,
    "max_attempts": 3,
    "runtime_seconds": 0.0,
    "metrics": {},
    "last_event": 1,
    "queued_at": 1.0,
    "created_at": 1.0,
}


def test_a_job_of_before_reports_goes_on(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of the first schema with a queued job in it is migrated, and the job finishes."""
    db, job_id = Database(database_url), str(OLD_JOB["id"])
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        assert schema.migrate(db)[0] is None
    with db.write() as connection:
        connection.execute(insert(tables.job).values(OLD_JOB))
        told = {"job_id": job_id, "seq": 1, "type": "status", "data": {"state": "queued"}, "time": 1.0}
        connection.execute(insert(tables.event).values(told))
    assert schema.migrate(db) == ("0001", schema.head())
    job = jobs.get(db, job_id)
    assert {name: getattr(job, name) for name in OLD_JOB} == OLD_JOB
    assert (job.spec_sha256, job.code_version) == (None, None)
    assert [one.seq for one in events.page(db, job_id, after=0, limit=9)] == [1]
    claimed = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
    assert claimed is not None
    attempt = Attempt(job_id, claimed.attempt)
    assert finish(db, attempt, final(db, attempt)) is not None
    assert reports.find(db, job_id) is not None
    db.close()
