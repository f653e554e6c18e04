"""The state machine, on SQLite and PostgreSQL: who may do what, and that nothing else changes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from service.errors import Conflict, Invalid, NotFound
from service.spec import TrainingSpec
from service.store import attempts, events, garbage, jobs, metrics, tables
from service.store.attempts import Attempt, Point
from service.store.database import Database, now
from service.store.jobs import Idempotency, Job, JobLost, State, TooManyQueued
from tests.conftest import renew

SPEC = TrainingSpec()


def submit(db: Database, **options: Any) -> str:
    answer, _ = jobs.submit(db, SPEC, answer=lambda job: {"id": job.id}, queue="cpu", **options)
    return str(answer["id"])


def claim(db: Database, job_id: str) -> Attempt:
    job = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
    assert job is not None
    return Attempt(job_id, job.attempt)


def bring_to(db: Database, state: State) -> str:
    """A job in that state."""
    job_id = submit(db)
    if state == "queued":
        return job_id
    attempt = claim(db, job_id)
    if state == "cancelling":
        jobs.cancel(db, job_id)
    elif state == "pausing":
        jobs.pause(db, job_id)
    elif state == "paused":
        jobs.pause(db, job_id)
        attempts.paused(db, attempt, runtime=1)
    elif state == "cancelled":
        jobs.cancel(db, job_id)
        attempts.cancelled(db, attempt, runtime=1)
    elif state == "failed":
        attempts.fail(db, attempt, code="x", detail="y", runtime=1)
    assert jobs.get(db, job_id).state == state
    return job_id


VERBS: dict[str, Callable[[Database, str], tuple[Job, bool]]] = {
    "cancel": jobs.cancel,
    "pause": jobs.pause,
    "resume": jobs.resume,
}
REFUSED = "409"
TABLE: dict[str, dict[str, str]] = {  # state -> verb -> the state after
    "queued": {"cancel": "cancelled", "pause": "paused", "resume": "queued"},
    "running": {"cancel": "cancelling", "pause": "pausing", "resume": "running"},
    "cancelling": {"cancel": "cancelling", "pause": REFUSED, "resume": REFUSED},
    "pausing": {"cancel": "cancelling", "pause": "pausing", "resume": "running"},
    "paused": {"cancel": "cancelled", "pause": "paused", "resume": "queued"},
    "cancelled": {"cancel": "cancelled", "pause": REFUSED, "resume": REFUSED},
    "failed": {"cancel": REFUSED, "pause": REFUSED, "resume": REFUSED},
}


@pytest.mark.parametrize("state", list(TABLE))
def test_what_a_caller_may_ask_for(db: Database, state: State) -> None:
    for verb, expected in TABLE[state].items():
        job_id = bring_to(db, state)
        before = jobs.get(db, job_id)
        if expected == REFUSED:
            with pytest.raises(Conflict) as refusal:
                VERBS[verb](db, job_id)
            assert refusal.value.code == "illegal_transition"
            assert jobs.get(db, job_id) == before
        else:
            after, changed = VERBS[verb](db, job_id)
            assert after.state == expected
            assert changed == (expected != state)
            assert changed or after == before


def test_a_message_that_comes_a_hundred_times_claims_once(db: Database) -> None:
    job_id = submit(db)
    with ThreadPoolExecutor(8) as pool:
        claims = list(
            pool.map(
                lambda _: attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60), range(100)
            )
        )
    assert sum(claim is not None for claim in claims) == 1
    assert jobs.get(db, job_id).attempt == 1


def test_concurrent_writers_lose_no_update(db: Database) -> None:
    job_id = submit(db)
    attempt = claim(db, job_id)
    told = ("log", {"line": "x"})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: attempts.tell(db, attempt, told), range(200)))  # type: ignore[arg-type]
    numbers = [event.seq for event in events.page(db, job_id, after=0, limit=1000)]
    assert numbers == list(range(1, 203))


def test_a_stale_attempt_writes_nothing(db: Database) -> None:
    job_id = submit(db)
    stale = claim(db, job_id)
    assert attempts.worker_lost(db, stale, reason="died") is not None
    fresh = claim(db, job_id)
    assert fresh.number == stale.number + 1
    before = jobs.get(db, job_id)
    for write in (
        lambda: renew(db, stale),
        lambda: attempts.state(db, stale),
        lambda: attempts.write_progress(db, stale, progress={}, points=[Point("loss", 1, 0.0, 1.0)]),
        lambda: attempts.tell(db, stale, ("log", {})),
        lambda: attempts.fail(db, stale, code="x", detail="y", runtime=0),
        lambda: attempts.cancelled(db, stale, runtime=0),
        lambda: attempts.release(db, stale, runtime=0),
    ):
        with pytest.raises(JobLost):
            write()
    assert attempts.paused(db, stale, runtime=0) is False
    assert attempts.worker_lost(db, stale, reason="died") is None
    assert jobs.get(db, job_id) == before
    assert metrics.page(db, job_id, limit=10) == ([], False)


@pytest.mark.parametrize(
    ("asked", "becomes"), [(None, "queued"), ("cancel", "cancelled"), ("pause", "paused")]
)
def test_a_lost_worker_leaves_what_was_asked_for(db: Database, asked: str | None, becomes: str) -> None:
    job_id = submit(db)
    attempt = claim(db, job_id)
    if asked:
        VERBS[asked](db, job_id)
    lost = attempts.worker_lost(db, attempt, reason="died")
    assert lost is not None
    assert (lost.state, lost.crashes, lost.worker, lost.lease_until) == (becomes, 1, None, None)


def test_a_job_that_kills_its_workers_fails(db: Database) -> None:
    job_id = submit(db, max_attempts=2)
    attempts.worker_lost(db, claim(db, job_id), reason="died")
    attempts.worker_lost(db, claim(db, job_id), reason="died")
    job = jobs.get(db, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert [event.type for event in events.page(db, job_id, after=0, limit=99)][-2:] == ["status", "end"]


def test_handing_back_costs_nothing(db: Database) -> None:
    job_id = submit(db, max_attempts=1)
    for _ in range(3):
        attempts.release(db, claim(db, job_id), runtime=2.0)
    job = jobs.get(db, job_id)
    assert (job.state, job.crashes, job.attempt, job.runtime_seconds) == ("queued", 0, 3, 6.0)


def test_a_lease_that_was_renewed_is_not_lost(db: Database) -> None:
    job_id = submit(db)
    attempt = claim(db, job_id)
    seen = jobs.get(db, job_id).lease_until
    renew(db, attempt)
    assert attempts.worker_lost(db, attempt, reason="silent", lease_until=seen) is None
    assert jobs.get(db, job_id).state == "running"


def test_each_step_of_a_series_is_stored_once(db: Database) -> None:
    job_id = submit(db)
    attempt = claim(db, job_id)
    points = [Point(name, step, step / 10, 1.0) for name in ("a", "b") for step in range(5)]
    figures = [{"step": 4, "epoch": 0.4, "metrics": {"a": 1.0}}]
    attempts.write_progress(db, attempt, progress={"step": 4}, points=points, figures=figures)
    attempts.write_progress(db, attempt, progress={"step": 4}, points=points, figures=figures)
    values, more = metrics.page(db, job_id, limit=100)
    assert (len(values), more) == (10, False)
    told = [event.type for event in events.page(db, job_id, after=0, limit=99)]
    assert told.count("metric") == 1
    assert jobs.get(db, job_id).metrics == {"a": 1.0}


def test_series_page_and_thin(db: Database) -> None:
    job_id = submit(db)
    attempt = claim(db, job_id)
    points = [Point(name, step, 0.0, float(step)) for name in ("a", "b") for step in range(1, 1001)]
    attempts.write_progress(db, attempt, progress={}, points=points)
    for most in (2, 3, 10, 999, 1000, 2000):
        thin, _ = metrics.page(db, job_id, names=["a"], max_points=most, limit=5000)
        assert (thin[0].step, thin[-1].step) == (1, 1000)
        assert min(most, 1000) / 2 <= len(thin) <= most
    assert [value.step for value in metrics.page(db, job_id, names=["b"], after_step=998, limit=9)[0]] == [
        999,
        1000,
    ]
    first, more = metrics.page(db, job_id, limit=1500)
    rest, no_more = metrics.page(db, job_id, after=(first[-1].name, first[-1].step), limit=1500)
    assert (len(first), more, len(rest), no_more) == (1500, True, 500, False)


def test_an_idempotency_key_answers_once(db: Database) -> None:
    key = Idempotency("k", "print")

    def send(_: int) -> tuple[dict[str, Any], bool]:
        return jobs.submit(db, SPEC, answer=lambda job: {"id": job.id}, queue="cpu", idempotency=key)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(20)))
    assert len({answer["id"] for answer, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert len(jobs.page(db, limit=50)[0]) == 1
    with pytest.raises(Invalid) as refusal:
        jobs.submit(db, SPEC, answer=lambda _: {}, queue="cpu", idempotency=Idempotency("k", "other"))
    assert refusal.value.code == "idempotency_key_reused"


def test_a_full_queue_says_when_to_return(db: Database) -> None:
    submit(db)
    with pytest.raises(TooManyQueued) as refusal:
        submit(db, max_queued=1)
    assert refusal.value.headers["Retry-After"]


def test_lists_page_by_id_and_filter(db: Database) -> None:
    made = [submit(db, preset="p" if index % 2 else None) for index in range(5)]
    first, more = jobs.page(db, limit=3)
    rest, no_more = jobs.page(db, limit=3, after=first[-1].id)
    assert [job.id for job in first + rest] == made[::-1]
    assert (more, no_more) == (True, False)
    assert [job.id for job in jobs.page(db, limit=9, preset="p")[0]] == [made[3], made[1]]
    jobs.cancel(db, made[0])
    assert [job.id for job in jobs.page(db, limit=9, states=["cancelled"])[0]] == [made[0]]


def test_the_queue_is_ordered_by_priority_then_age(db: Database) -> None:
    first, second, urgent = submit(db), submit(db), submit(db, priority=0)
    places = [
        jobs.queue_position(db, priority=priority, job_id=job_id)
        for job_id, priority in ((first, 5), (second, 5), (urgent, 0))
    ]
    assert places == [1, 2, 0]
    assert jobs.queue_position(db, priority=5) == 3


def test_a_deleted_job_is_gone_at_once_and_its_rows_later(db: Database) -> None:
    job_id = bring_to(db, "failed")
    jobs.remove(db, job_id)
    with pytest.raises(NotFound):
        jobs.get(db, job_id)
    assert jobs.page(db, limit=9) == ([], False)
    while garbage.collect(db):
        pass
    with db.read() as connection:
        for table in (tables.job, tables.event, tables.metric):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0


@pytest.mark.parametrize("state", ["queued", "running", "cancelling", "pausing"])
def test_a_job_in_use_is_not_deleted(db: Database, state: State) -> None:
    job_id = bring_to(db, state)
    with pytest.raises(Conflict) as refusal:
        jobs.remove(db, job_id)
    assert refusal.value.code == "job_active"
    assert jobs.get(db, job_id).state == state


def test_unrung_jobs_are_found_until_they_are_rung(db: Database) -> None:
    job_id = submit(db)
    assert [job.id for job in jobs.unrung(db, older_than=0, limit=9)] == [job_id]
    jobs.mark_rung(db, job_id)
    assert jobs.unrung(db, older_than=60, limit=9) == []


@pytest.mark.parametrize("column", ["queued_at", "rung_at"])
def test_a_clock_set_back_hides_no_job_from_the_reconciler(db: Database, column: str) -> None:
    job_id = submit(db)
    with db.write() as connection:
        connection.execute(update(tables.job).values({column: now() + 3600}))
    assert [job.id for job in jobs.unrung(db, older_than=60, limit=9)] == [job_id]
    jobs.mark_rung(db, job_id)
    assert jobs.unrung(db, older_than=60, limit=9) == []


def test_metadata_and_priority_can_be_edited(db: Database) -> None:
    job_id = submit(db)
    job = jobs.edit(db, job_id, metadata={"who": "me"}, priority=1)
    assert (job.metadata, job.priority) == ({"who": "me"}, 1)
    failed = bring_to(db, "failed")
    jobs.edit(db, failed, metadata={"note": "kept"}, priority=None)
    with pytest.raises(Conflict):
        jobs.edit(db, failed, metadata=None, priority=1)
