"""What the policy lets go of, and what it never does."""

import pytest
from sqlalchemy import func, select, update

from service.spec import TrainingSpec
from service.store import attempts, batches, blobs, checkpoints, garbage, jobs, models, retention
from service.store.attempts import Attempt
from service.store.batches import Body
from service.store.checkpoints import Checkpoint
from service.store.database import Database
from service.store.retention import DAY, Old, Policy
from service.store.tables import batch, chunk, job

SPEC = TrainingSpec()
WEEK = Policy(checkpoints_days=7, batches_days=7)


def start(db: Database) -> Attempt:
    answer, _ = jobs.submit(db, SPEC, answer=lambda made: {"id": made.id}, queue="cpu")
    claimed = attempts.claim(db, str(answer["id"]), worker="w", device="cpu", lease_seconds=60)
    assert claimed is not None
    return Attempt(claimed.id, claimed.attempt)


def save(db: Database, attempt: Attempt, step: int) -> Checkpoint:
    return checkpoints.save(
        db,
        attempt,
        step=step,
        epoch=1.0,
        reason="scheduled",
        metrics={},
        spec=SPEC.model_dump(mode="json"),
        weights=b"w" * 100,
        state=b"s" * 10,
    )


def finish(db: Database, attempt: Attempt, header: Checkpoint) -> str:
    made = models.finish(
        db, attempt, header, preprocessing="1", dataset_sha256="0" * 64, provenance={}, runtime=1, report=None
    )
    assert made is not None
    return made.id


def age(db: Database, days: float) -> None:
    """Let all that has ended have done so so long ago."""
    with db.write() as connection:
        for table in (job, batch):
            ended = table.c.finished_at.is_not(None)
            connection.execute(
                update(table).where(ended).values(finished_at=table.c.finished_at - days * DAY)
            )


def steps(db: Database, attempt: Attempt) -> list[int]:
    return [header.step for header in checkpoints.of_job(db, attempt.job_id)]


def chunks(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(select(func.count()).select_from(chunk)).scalar_one()


def ended_batch(db: Database) -> str:
    body = Body("pixels", blobs.write(db, b"x" * 784), 784, 1)
    answer, _ = batches.submit(
        db,
        body,
        answer=lambda made: {"id": made.id},
        model_id="m",
        preprocess=None,
        scale="byte",
        max_attempts=3,
    )
    batch_id = str(answer["id"])
    batches.cancel(db, batch_id)
    return batch_id


def test_models_and_what_has_not_ended_stay(db: Database) -> None:
    done, running, failed = start(db), start(db), start(db)
    save(db, done, 1)
    model_id = finish(db, done, save(db, done, 2))
    models.set_alias(db, "champion", model_id)
    save(db, running, 1)
    save(db, failed, 1)
    attempts.fail(db, failed, code="diverged", detail="it did", runtime=1)
    age(db, 8)

    found = retention.old(db, WEEK)
    assert found == Old(checkpoints=2, states=1, batches=0, bytes=2 * 110 + 10)
    assert retention.old(db, WEEK) == found, "to look changes nothing"
    assert retention.apply(db, WEEK, seconds=60) == 3
    assert retention.old(db, WEEK) == Old()
    assert (steps(db, done), steps(db, running), steps(db, failed)) == ([2], [1], [])
    assert (
        checkpoints.weights(db, checkpoints.get(db, models.resolve(db, "champion").checkpoint_id))
        == b"w" * 100
    )
    assert list(checkpoints.resumable(db, running.job_id)), "a worker can go on from it"


def test_batches_go_after_their_time(db: Database) -> None:
    old = ended_batch(db)
    age(db, 8)
    young = ended_batch(db)
    assert retention.old(db, WEEK).batches == 1
    retention.apply(db, WEEK, seconds=60)
    assert [found.id for found in batches.page(db, limit=10)[0]] == [young]
    assert old != young


def test_bytes_go_with_the_garbage(db: Database) -> None:
    failed = start(db)
    save(db, failed, 1)
    attempts.fail(db, failed, code="diverged", detail="it did", runtime=1)
    age(db, 8)
    retention.apply(db, WEEK, seconds=60)
    assert garbage.waiting(db, grace_seconds=-60) == (0, 110)
    garbage.collect(db, grace_seconds=-60, seconds=60)
    assert (chunks(db), garbage.waiting(db, grace_seconds=-60)) == (0, (0, 0))


@pytest.mark.parametrize("policy", [Policy(), Policy(checkpoints_days=30, batches_days=30)])
def test_without_a_policy_or_before_its_time_nothing_goes(db: Database, policy: Policy) -> None:
    failed = start(db)
    save(db, failed, 1)
    attempts.fail(db, failed, code="diverged", detail="it did", runtime=1)
    ended_batch(db)
    age(db, 8)
    assert retention.old(db, policy) == Old()
    assert retention.apply(db, policy, seconds=60) == 0
    assert steps(db, failed) == [1]
