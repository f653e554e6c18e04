"""One job in a training process, on a real database: what it leaves behind however it stops."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import update

from service.checkpoints import decode_weights, encode_weights, sha256
from service.data import simulated
from service.errors import Unavailable
from service.figures.report import make as make_report
from service.running import lease
from service.running.lease import Lease
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, events, jobs, metrics, models, reports, schema, tables
from service.store.attempts import Attempt
from service.store.database import Database
from worker import attempt, device, record, tasks
from worker.attempt import Training
from worker.leaving import Leaving
from worker.process import Process
from worker.record import Record
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
    def holding(self, attempt: Attempt, *, claimed_at: float) -> Iterator[Lease[Attempt]]:
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
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.01)


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "POLL_SECONDS", 0.0)


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
    tasks.train(process, job_id)
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
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "queued"
    process.leaving = Leaving()
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "succeeded"


def test_a_job_handed_back_and_taken_up_again_has_a_series_without_a_gap(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(process)
    at_step(monkeypatch, 20, process.leaving.set)
    tasks.train(process, job_id)
    assert steps_of(process, job_id) == list(range(1, 21))
    process.leaving = Leaving()
    tasks.train(process, job_id)
    assert steps_of(process, job_id) == list(range(1, 301))


# enough for a machine with other work to do
BUDGET: dict[str, Any] = {"steps": None, "budget_seconds": 4.0}


@pytest.fixture
def warm() -> None:
    """As a worker is when it takes a job: a process's first step takes seconds of its own."""
    device.warm_up(torch.device("cpu"))


@pytest.mark.usefixtures("warm")
def test_a_budget_is_turned_into_steps_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(process, **BUDGET)
    at_step(monkeypatch, 20, process.leaving.set)
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "queued"
    assert job.progress is not None
    steps = job.progress["steps"]
    assert steps > 20

    process.leaving = Leaving()
    monkeypatch.setattr(attempt, "Trial", None)  # another would not be the same
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert (job.state, job.progress and job.progress["step"]) == ("succeeded", steps)
    assert (job.spec["budget_seconds"], job.spec["steps"]) == (4.0, None)
    said = [event.data.get("message", "") for event in events.page(process.db, job_id, after=0, limit=1000)]
    assert [line for line in said if "fit into 4 seconds" in line] == [
        f"{steps:,} steps, {steps:.4g} epochs, fit into 4 seconds"
    ]
    weights = checkpoints.weights(process.db, checkpoints.of_job(process.db, job_id)[0])
    assert decode_weights(weights).spec.steps == steps


@pytest.mark.usefixtures("warm")
def test_the_steps_are_known_before_the_first_checkpoint(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies between the two must not begin another schedule."""
    job_id = submit(process, **BUDGET)
    monkeypatch.setattr(attempt, "fit", lambda *_, **__: iter(()))
    tasks.train(process, job_id)
    progress = jobs.get(process.db, job_id).progress
    assert progress is not None
    assert progress["step"] == 0
    assert progress["steps"] == progress["epochs"] > 0
    assert 0 < progress["eta_seconds"] <= 4


@pytest.mark.parametrize(("ask", "becomes"), [(jobs.pause, "paused"), (jobs.cancel, "cancelled")])
def test_a_job_can_be_stopped_while_its_speed_is_measured(
    process: Process, monkeypatch: pytest.MonkeyPatch, ask: Any, becomes: str
) -> None:
    job_id = submit(process, **BUDGET)
    monkeypatch.setattr(attempt, "fit", None)  # it never begins
    stopped = Training._stopped_in_trial

    def asked(training: Training, report: Report) -> bool:
        if report.step == 2:
            ask(process.db, job_id)
            training._polled_at = 0.0
        return stopped(training, report)

    monkeypatch.setattr(Training, "_stopped_in_trial", asked)
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert (job.state, job.progress and job.progress["steps"]) == (becomes, None)


def test_a_worker_that_leaves_while_it_measures_hands_the_job_back(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(process, **BUDGET)
    encode = Training._stopped_in_trial

    def leaves(training: Training, report: Report) -> bool:
        process.leaving.set()
        return encode(training, report)

    monkeypatch.setattr(Training, "_stopped_in_trial", leaves)
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "queued"


def test_a_budget_that_is_too_small_fails_the_job_and_says_why(process: Process) -> None:
    job_id = submit(process, **BUDGET, schedule={"name": "cosine", "warmup_steps": 10**8})
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.error is not None
    assert job.error["code"] == "budget_too_small"
    assert "100,000,000 steps" in job.error["detail"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_job_and_its_model_say_what_the_products_ran_in(process: Process, precision: str) -> None:
    job_id = submit(process, precision=precision, steps=3)
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.progress is not None
    assert job.progress["precision"] == precision
    (model,), _ = models.page(process.db, limit=9)
    assert model.provenance["precision"] == precision


def test_what_a_run_saw_before_it_diverged_is_stored(process: Process) -> None:
    job_id = submit(process, optimizer={"name": "sgd", "learning_rate": 50.0}, evaluation={"every_steps": 1})
    tasks.train(process, job_id)
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
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "succeeded"
    assert steps_of(process, job_id, "validation_loss")[-3:] == [10, 20, 30]


def test_a_spec_that_is_not_accepted_any_more_fails_its_job(process: Process) -> None:
    job_id = submit(process)
    with process.db.write() as connection:
        connection.execute(update(tables.job).values(spec={**SPEC, "steps": -1}))
    tasks.train(process, job_id)
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
        tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert (job.state, job.crashes) == ("queued", 1)
    assert "does not hold" in caplog.text
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "succeeded"


def test_a_job_handed_back_and_taken_up_again_has_every_curve_once(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(process, steps=60, evaluation={"every_steps": 10, "initial": True})
    at_step(monkeypatch, 25, process.leaving.set)
    tasks.train(process, job_id)
    assert [one.step for one in curves_of(process, job_id)] == [0, 10, 20]
    process.leaving = Leaving()
    tasks.train(process, job_id)
    found = curves_of(process, job_id)
    assert [one.step for one in found] == [0, 10, 20, 30, 40, 50, 60]
    series = steps_of(process, job_id, "test_loss")
    assert series == [one.step for one in found], "one with each set of figures"
    truth = simulated.true_function(simulated.grid())[:, 0]
    report = reports.find(process.db, job_id)
    assert report is not None
    distance = np.sqrt(((found[-1].outputs - truth) ** 2).mean())
    assert report.data["curve_rmse"] == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("initial", [True, False])
def test_a_run_keeps_only_so_many_curves(
    process: Process, monkeypatch: pytest.MonkeyPatch, initial: bool
) -> None:
    monkeypatch.setattr(record, "CURVES_OF_A_RUN", 10)
    job_id = submit(process, steps=95, evaluation={"every_steps": 1, "initial": initial})
    tasks.train(process, job_id)
    kept = [one.step for one in curves_of(process, job_id)]
    assert kept == [*([0] if initial else []), 1, *range(10, 95, 10), 95]
    assert len(steps_of(process, job_id, "test_loss")) == 95 + initial, "figures are kept all"


def test_figures_seldom_taken_keep_their_curves(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "CURVES_OF_A_RUN", 10)
    job_id = submit(process, steps=95, evaluation={"every_steps": 13})
    tasks.train(process, job_id)
    assert [one.step for one in curves_of(process, job_id)] == [*range(13, 95, 13), 95]


def test_the_last_curve_is_of_the_weights_that_early_stopping_put_back(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CURVES_OF_A_RUN", 1)
    job_id = submit(
        process,
        dataset={"name": "simulated", "examples": 50, "validation": 10},
        early_stopping={"patience": 3, "monitor": "validation_loss"},
        optimizer={"name": "sgd", "learning_rate": 0.05, "momentum": 0.95},
        steps=3000,
        evaluation={"every_steps": 1},
    )
    tasks.train(process, job_id)
    (model,), _ = models.page(process.db, limit=9)
    report = reports.find(process.db, job_id)
    assert report is not None
    last = curves_of(process, job_id)[-1]
    assert last.step == model.provenance["restored_step"] > 1
    truth = simulated.true_function(simulated.grid())[:, 0]
    distance = np.sqrt(((last.outputs - truth) ** 2).mean())
    assert report.data["curve_rmse"] == pytest.approx(distance, rel=1e-5)


def test_the_report_is_made_of_the_bytes_that_are_stored(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[bytes] = []

    def encode(*given: Any, **named: Any) -> bytes:
        encoded.append(encode_weights(*given, **named))
        return encoded[-1]

    monkeypatch.setattr(attempt, "encode_weights", encode)
    job_id = submit(process, checkpoints={"every_epochs": None})
    tasks.train(process, job_id)
    report = reports.find(process.db, job_id)
    assert report is not None
    assert [sha256(one) for one in encoded] == [report.data["weights_sha256"]]


def curves_of(process: Process, job_id: str) -> list[attempts.Curve]:
    return reports.curves(process.db, job_id, at_most=1000)


def test_the_report_is_of_the_weights_that_early_stopping_put_back(process: Process) -> None:
    dataset = {"name": "simulated", "examples": 50, "validation": 10}
    stopping = {"patience": 3, "monitor": "validation_loss"}
    optimizer = {"name": "sgd", "learning_rate": 0.3, "momentum": 0.95}
    job_id = submit(
        process,
        dataset=dataset,
        early_stopping=stopping,
        optimizer=optimizer,
        steps=3000,
        evaluation={"every_steps": 1},
    )
    tasks.train(process, job_id)
    job, report = jobs.get(process.db, job_id), reports.find(process.db, job_id)
    assert report is not None
    (model,), _ = models.page(process.db, limit=9)
    assert model.provenance["restored_step"] < report.data["step"] < 3000
    assert report.data["weights_sha256"] == job.weights_sha256
    measured = {f"{part}_loss": figures["mse"] for part, figures in report.data["parts"].items()}
    assert measured == pytest.approx(job.metrics)


def test_a_report_that_fails_leaves_the_model_and_a_warning(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room for figures")

    monkeypatch.setattr(attempt, "make_report", failing)
    job_id = submit(process)
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "succeeded"
    assert job.model_id is not None
    assert reports.find(process.db, job_id) is None
    warnings = [
        one.data for one in events.page(process.db, job_id, after=0, limit=1000) if one.type == "warning"
    ]
    assert warnings == [{"code": "report_failed", "detail": "RuntimeError: no room for figures"}]
    assert "no report" in caplog.text


def test_a_cancel_while_the_report_is_made_wins(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(*given: Any, **named: Any) -> Any:
        jobs.cancel(process.db, job_id)
        return make_report(*given, **named)

    monkeypatch.setattr(attempt, "make_report", cancelled)
    job_id = submit(process)
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "cancelled"
    assert reports.find(process.db, job_id) is None
    assert models.page(process.db, limit=9) == ([], False)


def test_a_process_counts_the_steps_that_it_has_trained(process: Process) -> None:
    for _ in range(2):
        tasks.train(process, submit(process))
    assert process.figures.read() == {"steps": 600, "images": 600 * 50.0}
