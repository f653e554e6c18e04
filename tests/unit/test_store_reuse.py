"""Which finished job is answered instead of training again, and which are not."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from service.errors import Invalid
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, garbage, jobs, models
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.jobs import Idempotency, Job, Versions
from service.store.tables import checkpoint, job

SPEC = TrainingSpec()
DATA, CODE = "d" * 64, "0.1.0+abcdefabcdef.torch2.0"
SAME = Versions(DATA, CODE)


def submit(db: Database, spec: TrainingSpec = SPEC, **options: Any) -> tuple[str, bool]:
    body, is_new = jobs.submit(db, spec, answer=lambda job: {"id": job.id}, queue="cpu", **options)
    return str(body["id"]), is_new


def claim(db: Database, job_id: str, code: str | None = CODE) -> Attempt:
    claimed = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60, code_version=code)
    assert claimed is not None
    return Attempt(job_id, claimed.attempt)


def finish(db: Database, attempt: Attempt) -> Job:
    attempts.write_progress(db, attempt, progress={"step": 1}, dataset_sha256=DATA)
    header = checkpoints.save(
        db,
        attempt,
        step=1,
        epoch=1.0,
        reason="final",
        metrics={},
        spec=SPEC.model_dump(mode="json"),
        weights=b"weights",
        state=None,
    )
    assert models.finish(
        db, attempt, header, preprocessing="1", dataset_sha256=DATA, provenance={}, runtime=1
    )
    return jobs.get(db, attempt.job_id)


def train(db: Database, code: str | None = CODE) -> Job:
    return finish(db, claim(db, submit(db)[0], code))


def test_the_newest_job_that_did_the_same_is_answered(db: Database) -> None:
    assert jobs.done_before(db, SPEC, SAME) is None
    train(db)
    newest = train(db)
    assert (newest.code_version, newest.dataset_sha256, newest.spec_sha256) == (CODE, DATA, SPEC.sha256)
    submit(db)  # one that waits is newer still, and has done nothing
    assert jobs.done_before(db, SPEC, SAME) == newest
    spelt_out = TrainingSpec.model_validate(SPEC.model_dump(mode="json"))
    before = jobs.page(db, limit=99)
    assert submit(db, spelt_out, reuse=SAME) == (newest.id, False)
    assert jobs.page(db, limit=99) == before
    assert submit(db)[1], "unless it is asked for, it is trained again"


@pytest.mark.parametrize(
    ("spec", "versions"),
    [
        (TrainingSpec(seed=1), SAME),
        (SPEC, Versions("e" * 64, CODE)),
        (SPEC, Versions(DATA, "0.1.0+000000000000.torch2.0")),
        (SPEC, Versions(DATA, "0.1.0+abcdefabcdef.torch2.1")),
    ],
)
def test_another_spec_other_data_or_other_code_is_trained(
    db: Database, spec: TrainingSpec, versions: Versions
) -> None:
    done = train(db)
    job_id, is_new = submit(db, spec, reuse=versions)
    assert is_new
    assert job_id != done.id


def _damage(db: Database, done: Job) -> None:
    with db.write() as connection:
        connection.execute(update(checkpoint).where(checkpoint.c.job_id == done.id).values(bad=True))


def _lose_the_model(db: Database, done: Job) -> None:
    with db.write() as connection:
        connection.execute(update(job).where(job.c.id == done.id).values(model_id="model_gone"))


def _delete(db: Database, done: Job) -> None:
    jobs.remove(db, done.id)


def _delete_and_collect(db: Database, done: Job) -> None:
    jobs.remove(db, done.id)
    garbage.collect(db)


@pytest.mark.parametrize("spoil", [_damage, _lose_the_model, _delete, _delete_and_collect])
def test_a_job_that_is_no_longer_whole_is_not_answered(
    db: Database, spoil: Callable[[Database, Job], None]
) -> None:
    older, newest = train(db), train(db)
    spoil(db, newest)
    assert jobs.done_before(db, SPEC, SAME) == older
    spoil(db, older)
    assert jobs.done_before(db, SPEC, SAME) is None
    assert submit(db, reuse=SAME)[1]


def test_jobs_that_did_not_succeed_are_not_answered(db: Database) -> None:
    failed, cancelled, running = (claim(db, submit(db)[0]) for _ in range(3))
    for attempt in (failed, cancelled, running):
        attempts.write_progress(db, attempt, progress={"step": 1}, dataset_sha256=DATA)
    attempts.fail(db, failed, code="x", detail="y", runtime=1)
    jobs.cancel(db, cancelled.job_id)
    attempts.cancelled(db, cancelled, runtime=1)
    assert jobs.done_before(db, SPEC, SAME) is None


def test_a_job_that_went_on_under_other_code_is_of_neither(db: Database) -> None:
    first = claim(db, submit(db)[0], "old")
    attempts.release(db, first, runtime=1)
    mixed = finish(db, claim(db, first.job_id))
    assert mixed.code_version is None
    same = claim(db, submit(db)[0])
    attempts.release(db, same, runtime=1)
    resumed = finish(db, claim(db, same.job_id))
    assert resumed.code_version == CODE
    assert jobs.done_before(db, SPEC, SAME) == resumed


def test_a_key_answers_the_same_also_when_there_is_a_newer_job(db: Database) -> None:
    done = train(db)
    key = Idempotency("k", "f")
    assert submit(db, reuse=SAME, idempotency=key) == (done.id, False)
    assert train(db).id != done.id
    assert submit(db, reuse=SAME, idempotency=key) == (done.id, False)
    with pytest.raises(Invalid):
        submit(db, idempotency=Idempotency("k", "another"))
    made, _ = submit(db, TrainingSpec(seed=7), reuse=SAME, idempotency=Idempotency("new", "f"))
    assert submit(db, TrainingSpec(seed=7), reuse=SAME, idempotency=Idempotency("new", "f")) == (made, False)


def test_a_full_queue_refuses_no_answer_that_is_there(db: Database) -> None:
    done = train(db)
    assert submit(db, reuse=SAME, max_queued=0) == (done.id, False)


def test_what_the_workers_run_is_told_by_the_newest_job_that_ended_well(db: Database) -> None:
    assert jobs.trained_by(db, "0.1.0+abcdefabcdef") is None
    train(db, "0.1.0+abcdefabcdef.torch2.0")
    train(db, "0.1.0+abcdefabcdef.torch2.1+cu128")
    train(db, "0.1.0+000000000000.torch2.2")
    train(db, None)
    claim(db, submit(db)[0], "0.1.0+abcdefabcdef.torch2.3")
    assert jobs.trained_by(db, "0.1.0+abcdefabcdef") == "0.1.0+abcdefabcdef.torch2.1+cu128"
