"""One job in a training process, on a real database: what it leaves behind however it stops."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import update

from service.errors import Unavailable
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, jobs, metrics, schema, tables
from service.store.attempts import Attempt
from service.store.database import Database
from worker import tasks
from worker.lease import Lease
from worker.leaving import Leaving
from worker.tasks import Process, Record
from worker.training import Report

SPEC: dict[str, Any] = {
    "task": "regression",
    "dataset": {"name": "simulated", "examples": 50},
    "network": {"hidden_widths": [3]},
    "batch_size": "full",
    "steps": 300,
}


class StillHeart:
    """Holds leases and renews none."""

    device = "CPU (test)"

    @contextmanager
    def holding(self, attempt: Attempt, *, claimed_at: float) -> Iterator[Lease]:
        yield Lease(attempt, 60, claimed_at + 60)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    settings = Settings(home=tmp_path)
    db = Database(settings.database)
    schema.migrate(db)
    heart: Any = StillHeart()
    yield Process(settings, db, "w", torch.device("cpu"), 1, heart, Leaving(), lambda _: None)
    db.close()


def submit(process: Process, **changes: Any) -> str:
    spec = TrainingSpec.model_validate(SPEC | changes)
    answer, _ = jobs.submit(process.db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
    return str(answer["id"])


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Do something when a run has done so many steps, once."""
    take = Record.take
    done: list[int] = []

    def took(record: Record, report: Report) -> None:
        take(record, report)
        if report.step == step and not done:
            done.append(step)
            act()

    monkeypatch.setattr(Record, "take", took)


def steps_of(process: Process, job_id: str, name: str = "batch_loss") -> list[int]:
    values, _ = metrics.page(process.db, job_id, names=[name], limit=1000)
    return [value.step for value in values]


def failing_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """The database is away at the first call."""
    works, calls = getattr(module, name), []

    def called(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise Unavailable("the database is busy")
        return works(*given, **named)

    monkeypatch.setattr(module, name, called)
    monkeypatch.setattr(tasks, "RETRY_SECONDS", 0.01)


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("looks_always")
@pytest.mark.parametrize(
    ("ask", "write", "becomes"), [(jobs.pause, "paused", "paused"), (jobs.cancel, "cancelled", "cancelled")]
)
def test_a_busy_database_fails_no_job_that_stops(
    process: Process, monkeypatch: pytest.MonkeyPatch, ask: Any, write: str, becomes: str
) -> None:
    job_id = submit(process)
    at_step(monkeypatch, 20, lambda: ask(process.db, job_id))
    failing_once(monkeypatch, attempts, write)
    process.train(job_id)
    assert jobs.get(process.db, job_id).state == becomes


@pytest.mark.parametrize(
    ("module", "write"), [(attempts, "release"), (checkpoints, "prune"), (checkpoints, "resumable")]
)
def test_a_busy_database_fails_no_job_that_leaves_or_goes_on(
    process: Process, monkeypatch: pytest.MonkeyPatch, module: Any, write: str
) -> None:
    job_id = submit(process, checkpoints={"every_steps": 10, "min_seconds": 0})
    at_step(monkeypatch, 20, process.leaving.set)
    failing_once(monkeypatch, module, write)
    process.train(job_id)
    assert jobs.get(process.db, job_id).state == "queued"
    process.leaving = Leaving()
    process.train(job_id)
    assert jobs.get(process.db, job_id).state == "succeeded"


def test_a_job_handed_back_and_taken_up_again_has_a_series_without_a_gap(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(process)
    at_step(monkeypatch, 20, process.leaving.set)
    process.train(job_id)
    assert steps_of(process, job_id) == list(range(1, 21))
    process.leaving = Leaving()
    process.train(job_id)
    assert steps_of(process, job_id) == list(range(1, 301))


def test_what_a_run_saw_before_it_diverged_is_stored(process: Process) -> None:
    job_id = submit(process, optimizer={"name": "sgd", "learning_rate": 50.0}, evaluation={"every_steps": 1})
    process.train(job_id)
    job = jobs.get(process.db, job_id)
    assert job.error is not None
    assert job.error["code"] == "diverged"
    assert job.progress is not None
    last = job.progress["step"]
    assert last > 1
    assert steps_of(process, job_id) == list(range(1, last + 1))


def test_the_last_figures_are_in_the_series_when_they_are_the_best(process: Process) -> None:
    dataset = {"name": "simulated", "examples": 50, "validation": 10}
    stopping = {"patience": 1000, "monitor": "validation_loss"}
    job_id = submit(
        process, dataset=dataset, early_stopping=stopping, steps=30, evaluation={"every_steps": 10}
    )
    process.train(job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "succeeded"
    assert steps_of(process, job_id, "validation_loss")[-3:] == [10, 20, 30]


def test_a_spec_that_is_not_accepted_any_more_fails_its_job(process: Process) -> None:
    job_id = submit(process)
    with process.db.write() as connection:
        connection.execute(update(tables.job).values(spec={**SPEC, "steps": -1}))
    process.train(job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "spec_not_accepted"


def test_a_lease_that_is_lost_leaves_the_job_to_the_next(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = submit(process)
    at_step(
        monkeypatch,
        20,
        lambda: attempts.worker_lost(process.db, Attempt(job_id, 1), reason="lease_expired"),
    )
    with caplog.at_level(logging.WARNING):
        process.train(job_id)
    job = jobs.get(process.db, job_id)
    assert (job.state, job.crashes) == ("queued", 1)
    assert "does not hold" in caplog.text
    process.train(job_id)
    assert jobs.get(process.db, job_id).state == "succeeded"
