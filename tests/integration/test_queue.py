"""Broker, doorbell and reconciler on a real embedded broker: what is lost is rung for again, and jobs are
taken back from the silent and from nobody else."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from service.running import broker, queue
from service.running.queue import Doorbell
from service.running.reconciler import Reconciler
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, batches, blobs, jobs, schema, sweeps, workers
from service.store.attempts import Attempt
from service.store.batches import Body
from service.store.database import Database
from service.sweep import Member
from tests.conftest import renew


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lease_seconds=30)


@pytest.fixture
def store(settings: Settings) -> Iterator[Database]:
    db = Database(settings.database)
    schema.migrate(db)
    yield db
    db.close()


@pytest.fixture
def running_broker(settings: Settings) -> Iterator[Any]:
    process = broker.start(settings)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    made = queue.celery(settings)
    yield made
    made.close()


class Clock:
    """A monotonic clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def submit(store: Database, **options: Any) -> jobs.Job:
    answer, _ = jobs.submit(store, TrainingSpec(), answer=lambda job: {"id": job.id}, queue="cpu", **options)
    return jobs.get(store, answer["id"])


def claim(store: Database, job: jobs.Job, seconds: float = 30) -> Attempt:
    claimed = attempts.claim(store, job.id, worker="w", device="cpu", lease_seconds=seconds)
    assert claimed is not None
    return Attempt(job.id, claimed.attempt)


def test_messages_wait_by_queue_and_priority(
    settings: Settings, store: Database, app: Celery, running_broker: Any
) -> None:
    for priority in (0, 5, 5, 9):
        queue.send(app, submit(store, priority=priority))
    assert queue.depths(settings) == {"cpu": 4, "gpu": 0, "batch": 0}


def test_auto_goes_where_a_live_worker_serves(store: Database) -> None:
    assert workers.queue_now(store, "auto") == "cpu"
    workers.seen(store, "g", queues=["gpu", "cpu"], device="NVIDIA", job_id=None)
    assert [workers.queue_now(store, device) for device in ("auto", "cpu", "cuda")] == ["gpu", "cpu", "gpu"]
    workers.gone(store, "g")
    assert workers.queue_now(store, "auto") == "cpu"


def test_a_doorbell_without_a_broker_goes_on(
    store: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    bell = Doorbell(app)
    bell.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bell.ring(submit(store))
        bell.close()
    assert len([line for line in caplog.messages if "the reconciler will" in line]) == 2


def test_more_jobs_than_a_doorbell_holds_are_told_in_one_line(
    store: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    bell, job = Doorbell(app), submit(store)
    with caplog.at_level(logging.WARNING):
        bell.ring(*[job] * 1200)
    (line,) = caplog.messages
    assert "leaving 200 of them to the reconciler" in line


def test_members_of_a_sweep_whose_messages_were_lost_are_rung_for(
    settings: Settings, store: Database, app: Celery, running_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.running.reconciler.RING_AGAIN_SECONDS", 0.0)
    _, made = sweeps.submit(
        store,
        [Member({"seed": seed}, TrainingSpec(seed=seed)) for seed in range(5)],
        answer=lambda found, _: {"id": found.id},
        spec={},
        search={"grid": {"seed": list(range(5))}},
        metric="test_accuracy",
        preset=None,
        metadata={},
        priority=5,
        max_attempts=3,
        max_queued=10,
    )
    assert len(made) == 5
    for _ in range(2):
        Reconciler(settings, store, app).round()
    assert queue.depths(settings) == {"cpu": 5, "gpu": 0, "batch": 0}


def test_what_a_broker_forgot_is_rung_for_again_and_no_more(
    settings: Settings, store: Database, app: Celery, running_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.running.reconciler.RING_AGAIN_SECONDS", 0.0)
    waiting = [submit(store) for _ in range(3)]
    queue.send(app, waiting[0])  # one message is there, two are lost
    reconciler = Reconciler(settings, store, app)
    for _ in range(3):
        reconciler.round()
    assert queue.depths(settings)["cpu"] == 3
    client = broker.client(settings)
    client.flushall()
    client.close()
    reconciler.round()
    assert queue.depths(settings)["cpu"] == 3


def test_a_job_just_submitted_is_left_to_its_sender(
    settings: Settings, store: Database, app: Celery, running_broker: Any
) -> None:
    submit(store)
    Reconciler(settings, store, app).round()
    assert queue.depths(settings)["cpu"] == 0


def test_a_silent_worker_loses_its_job_after_a_lease_on_our_clock(
    settings: Settings, store: Database, app: Celery, running_broker: Any
) -> None:
    job = submit(store)
    claim(store, job)
    clock = Clock()
    reconciler = Reconciler(settings, store, app, clock=clock)
    reconciler.round()
    clock.now += 29
    reconciler.round()
    assert jobs.get(store, job.id).state == "running"
    clock.now += 2
    reconciler.round()
    lost = jobs.get(store, job.id)
    assert (lost.state, lost.crashes) == ("queued", 1)


def test_a_database_clock_that_jumps_takes_nothing_from_a_living_worker(
    settings: Settings, store: Database, app: Celery, running_broker: Any
) -> None:
    job = submit(store)
    attempt = claim(store, job, seconds=-3600)  # as if its clock had jumped an hour ahead since
    clock = Clock()
    reconciler = Reconciler(settings, store, app, clock=clock)
    for _ in range(10):
        reconciler.round()
        clock.now += 20
        renew(store, attempt, seconds=-3600)
        time.sleep(0.002)  # the next renewal reads another millisecond
    assert jobs.get(store, job.id).state == "running"


def test_two_reconcilers_take_a_job_back_once(
    settings: Settings, store: Database, app: Celery, running_broker: Any
) -> None:
    job = submit(store)
    claim(store, job)
    clock = Clock()
    pair = [Reconciler(settings, store, app, clock=clock) for _ in range(2)]
    for moment in (0, 31):
        clock.now = moment
        for reconciler in pair:
            reconciler.round()
    assert jobs.get(store, job.id).crashes == 1


def test_without_a_broker_jobs_are_taken_back_all_the_same(
    settings: Settings, store: Database, app: Celery
) -> None:
    job = submit(store)
    claim(store, job)
    clock = Clock()
    reconciler = Reconciler(settings, store, app, clock=clock)
    reconciler.round()
    clock.now += 31
    reconciler.round()
    assert jobs.get(store, job.id).state == "queued"


def submit_batch(store: Database) -> batches.Batch:
    body = Body("lines", blobs.write(store, b"[1]"), 3, 1)
    fields: dict[str, Any] = {"model_id": "m", "preprocess": None, "scale": "byte", "max_attempts": 3}
    _, made = batches.submit(store, body, answer=lambda batch: {"id": batch.id}, **fields)
    assert made is not None
    return made


def test_batches_are_rung_for_and_taken_back_as_jobs_are(
    settings: Settings, store: Database, app: Celery, running_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.running.reconciler.RING_AGAIN_SECONDS", 0.0)
    held, waiting = submit_batch(store), submit_batch(store)
    submit(store)
    assert batches.claim(store, held.id, worker="w", lease_seconds=30) is not None
    clock = Clock()
    reconciler = Reconciler(settings, store, app, clock=clock)
    for _ in range(2):
        reconciler.round()
    assert queue.depths(settings) == {"cpu": 1, "gpu": 0, "batch": 1}
    clock.now += 31
    reconciler.round()
    found = batches.get(store, held.id)
    assert (found.state, found.crashes, found.done) == ("queued", 1, 0)
    assert batches.get(store, waiting.id).state == "queued"
    assert queue.depths(settings)["batch"] == 2


@pytest.mark.parametrize(
    ("idle", "waited", "messages", "deaf"),
    [
        (121, 121, 1, True),
        (119, 121, 1, False),
        (121, 119, 1, False),
        (121, None, 1, False),
        (121, 121, 0, False),
    ],
)
def test_a_process_is_deaf_if_work_grows_old_beside_it_and_messages_wait(
    settings: Settings,
    store: Database,
    app: Celery,
    running_broker: Any,
    idle: float,
    waited: float | None,
    messages: int,
    deaf: bool,
) -> None:
    for _ in range(messages):
        queue.send(app, submit_batch(store))
    assert queue.is_deaf(settings, ["batch"], idle=idle, oldest_wait=lambda: waited) == deaf


def test_a_long_home_still_has_a_socket(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 40)
    assert len(str(broker.socket_path(home))) <= broker.MAX_SOCKET_PATH
    settings = Settings(home=home)
    process = broker.start(settings)
    try:
        broker.check(settings)
        assert broker.socket_path(home).parent.stat().st_mode & 0o077 == 0
    finally:
        process.kill()
        process.wait()
    broker.socket_path(home).unlink()
    broker.socket_path(home).parent.rmdir()


def test_no_broker_is_said_plainly(settings: Settings) -> None:
    with pytest.raises(broker.BrokerError, match="does not answer"):
        broker.check(settings)
