"""The roll of training processes, and how long jobs have waited for one."""

from sqlalchemy import update

from service.spec import TrainingSpec
from service.store import attempts, jobs, workers
from service.store.database import Database, now
from service.store.tables import job, worker
from service.store.workers import ALIVE_SECONDS


def names(db: Database) -> list[str]:
    return [one.name for one in workers.alive(db)]


def test_a_worker_is_alive_while_it_is_seen(db: Database) -> None:
    workers.seen(db, "b", queues=["gpu", "cpu"], device="cuda", job_id=None)
    workers.seen(db, "a", queues=["cpu"], device="cpu", job_id=None)
    workers.seen(db, "b", queues=["gpu", "cpu"], device="cuda", job_id="job_1")
    _, busy = workers.alive(db)
    assert (busy.name, busy.queues, busy.device, busy.job_id) == ("b", "gpu,cpu", "cuda", "job_1")
    assert busy.started_at <= busy.seen_at
    workers.seen(db, "b", queues=["gpu"], device="cuda", job_id=None)
    assert workers.alive(db)[1].job_id is None
    for silent, known in ((ALIVE_SECONDS + 1, True), (86_401.0, False)):
        with db.write() as connection:
            connection.execute(update(worker).where(worker.c.name == "b").values(seen_at=now() - silent))
        assert names(db) == ["a"]
        workers.forget_old(db)
        with db.read() as connection:
            assert (
                connection.execute(worker.select().where(worker.c.name == "b")).first() is not None
            ) == known
    workers.gone(db, "a")
    workers.gone(db, "a")
    assert names(db) == []


def test_the_oldest_wait_is_that_of_the_queues_asked_for(db: Database) -> None:
    assert workers.oldest_wait(db, ["cpu"]) is None
    made = []
    for queue, seconds in (("cpu", 30), ("cpu", 20), ("gpu", 50)):
        answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda one: {"id": one.id}, queue=queue)
        made.append(str(answer["id"]))
        with db.write() as connection:
            connection.execute(update(job).where(job.c.id == made[-1]).values(queued_at=now() - seconds))

    def waits(*queues: str) -> int | None:
        found = workers.oldest_wait(db, queues)
        return None if found is None else round(found / 10) * 10

    assert (waits("cpu"), waits("gpu"), waits("cpu", "gpu"), waits("other")) == (30, 50, 50, None)
    attempts.claim(db, made[0], worker="w", device="cpu", lease_seconds=60)
    assert waits("cpu") == 20
    jobs.cancel(db, made[1])
    assert waits("cpu") is None


def test_how_many_serve_a_queue(db: Database) -> None:
    assert workers.serving(db, "cpu") == 0
    workers.seen(db, "a", queues=["gpu", "cpu"], device="cuda", job_id=None)
    workers.seen(db, "b", queues=["cpu"], device="cpu", job_id=None)
    assert (workers.serving(db, "cpu"), workers.serving(db, "gpu"), workers.serving(db, "pu")) == (2, 1, 0)


def test_a_sign_of_life_renews_what_is_held(db: Database) -> None:
    answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda job: {"id": job.id}, queue="cpu")
    claimed = attempts.claim(db, answer["id"], worker="a", device="CPU", lease_seconds=60)
    assert claimed is not None

    def seen(number: int) -> bool:
        held = attempts.Attempt(claimed.id, number)
        return workers.seen(
            db, "a", queues=["cpu"], device="CPU", job_id=claimed.id, renewing=held, lease_seconds=3600
        )

    assert seen(claimed.attempt)
    renewed = jobs.get(db, claimed.id).lease_until
    assert renewed is not None
    assert claimed.lease_until is not None
    assert renewed > claimed.lease_until + 3000
    # of another attempt nothing is renewed, and the sign of life is there
    assert not seen(claimed.attempt + 1)
    assert jobs.get(db, claimed.id).lease_until == renewed
    assert [one.job_id for one in workers.alive(db)] == [claimed.id]
