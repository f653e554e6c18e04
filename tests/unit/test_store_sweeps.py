"""Sweeps in the store, on SQLite and PostgreSQL: all or none, states that follow from the members, cancel as
one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from sqlalchemy import insert

from service.errors import Invalid, NotFound
from service.spec import TrainingSpec
from service.store import attempts, events, garbage, jobs, schema, sweeps, tables, workers
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.jobs import Idempotency, Job, TooManyQueued
from service.store.sweeps import Sweep
from service.sweep import Member
from tests.unit.test_store_reports import OLD_JOB


def members(count: int, **fields: Any) -> list[Member]:
    return [Member({"seed": seed}, TrainingSpec(seed=seed, **fields)) for seed in range(count)]


def submit(db: Database, chosen: list[Member], **options: Any) -> tuple[str, list[Job]]:
    answer, made = sweeps.submit(
        db,
        chosen,
        answer=lambda found, rows: {"id": found.id, "numbers": [row.number for row in rows]},
        spec=TrainingSpec().model_dump(mode="json"),
        search={"grid": {"seed": list(range(len(chosen)))}},
        metric="test_accuracy",
        preset="slp-200",
        metadata={"a": 1},
        priority=3,
        max_attempts=2,
        **{"max_queued": 1000} | options,
    )
    assert answer["numbers"] == list(range(len(chosen)))
    return answer["id"], made


def claim(db: Database, job_id: str) -> Attempt:
    job = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
    assert job is not None
    return Attempt(job_id, job.attempt)


def state(db: Database, sweep_id: str) -> str:
    return sweeps.get(db, sweep_id).state


def test_a_sweep_is_its_jobs(db: Database) -> None:
    sweep_id, made = submit(db, members(5))
    found, rows = sweeps.get_with_members(db, sweep_id)
    assert (found.size, found.counts, found.state, found.preset) == (5, {"queued": 5}, "queued", "slp-200")
    assert (found.metadata, found.priority) == ({"a": 1}, 3)
    assert [row.job_id for row in rows] == [job.id for job in made]
    assert [row.changes for row in rows] == [{"seed": seed} for seed in range(5)]
    assert sorted(job.id for job in made) == [job.id for job in made], "the queue's order is the members'"
    for number, job in enumerate(made):
        assert job == jobs.get(db, job.id)
        assert TrainingSpec.model_validate(job.spec).seed == number
        assert (job.state, job.sweep_id, job.queue, job.priority) == ("queued", sweep_id, "cpu", 3)
        assert (job.metadata, job.max_attempts, job.preset) == ({"a": 1}, 2, "slp-200")
        assert [(one.seq, one.type) for one in events.page(db, job.id, after=0, limit=9)] == [(1, "status")]
        alone, _ = jobs.submit(
            db,
            TrainingSpec(seed=number),
            answer=vars,
            queue="cpu",
            preset="slp-200",
            metadata={"a": 1},
            priority=3,
            max_attempts=2,
        )
        own = {"id", "sweep_id", "queued_at", "created_at"}
        assert {k: v for k, v in vars(job).items() if k not in own} == {
            k: v for k, v in alone.items() if k not in own
        }
    assert [job.id for job in jobs.page(db, limit=9, sweep=sweep_id)[0]] == [job.id for job in made[::-1]]
    assert jobs.unrung(db, older_than=-1, limit=3) == made[:3], "what the reconciler rings for"


def test_each_member_goes_to_the_queue_of_its_device(db: Database) -> None:
    chosen = members(1, device="auto") + members(1, device="cpu") + members(1, device="cuda")
    assert [job.queue for job in submit(db, chosen)[1]] == ["cpu", "cpu", "gpu"]
    workers.seen(db, "g", queues=["gpu"], device="NVIDIA", job_id=None)
    assert [job.queue for job in submit(db, chosen)[1]] == ["gpu", "cpu", "gpu"]


def test_all_may_wait_or_none(db: Database) -> None:
    submit(db, members(3))
    with pytest.raises(TooManyQueued) as refusal:
        submit(db, members(4), max_queued=6)
    assert "3 jobs wait already, and 4 more are over the limit of 6" in refusal.value.detail
    assert len(jobs.page(db, limit=99)[0]) == 3
    assert len(sweeps.page(db, limit=9)[0]) == 1
    submit(db, members(3), max_queued=6)


def test_a_sweep_that_fails_half_way_leaves_nothing(db: Database) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        sweeps.submit(
            db,
            members(2),
            answer=broken,
            spec={},
            search={"grid": {}},
            metric="x",
            preset=None,
            metadata={},
            priority=5,
            max_attempts=1,
            max_queued=9,
            idempotency=Idempotency("k", "print"),
        )
    assert jobs.page(db, limit=9) == ([], False)
    assert sweeps.page(db, limit=9) == ([], False)
    assert len(submit(db, members(2), idempotency=Idempotency("k", "other"))[1]) == 2


def test_an_idempotency_key_makes_one_sweep(db: Database) -> None:
    key = Idempotency("k", "print")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(db, members(4), idempotency=key), range(12)))
    assert len({sweep_id for sweep_id, _ in answers}) == 1
    assert sorted(len(made) for _, made in answers) == [0] * 11 + [4]
    assert len(jobs.page(db, limit=99)[0]) == 4
    with pytest.raises(Invalid) as refusal:
        submit(db, members(1), idempotency=Idempotency("k", "other"))
    assert refusal.value.code == "idempotency_key_reused"


def test_the_state_follows_from_the_members(db: Database) -> None:
    sweep_id, made = submit(db, members(3))
    held = claim(db, made[0].id)
    assert (state(db, sweep_id), sweeps.get(db, sweep_id).counts) == ("running", {"queued": 2, "running": 1})
    attempts.fail(db, held, code="diverged", detail="x", runtime=1)
    assert state(db, sweep_id) == "running", "two still wait"
    for job in made[1:]:
        jobs.pause(db, job.id)
    assert state(db, sweep_id) == "paused"
    jobs.resume(db, made[1].id)
    held = claim(db, made[1].id)
    jobs.cancel(db, made[1].id)
    assert state(db, sweep_id) == "cancelling"
    attempts.cancelled(db, held, runtime=1)
    assert state(db, sweep_id) == "paused"
    jobs.cancel(db, made[2].id)
    assert state(db, sweep_id) == "cancelled"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"queued": 2}, "queued"),
        ({"queued": 1, "paused": 1}, "queued"),
        ({"queued": 1, "succeeded": 1}, "running"),
        ({"pausing": 1, "succeeded": 1}, "running"),
        ({"succeeded": 2}, "succeeded"),
        ({"succeeded": 1, "deleted": 1}, "succeeded"),
        ({"succeeded": 1, "failed": 1}, "failed"),
        ({"succeeded": 1, "failed": 1, "cancelled": 1}, "cancelled"),
        ({"cancelled": 0, "succeeded": 1}, "succeeded"),
    ],
)
def test_states(counts: dict[Any, int], expected: str) -> None:
    assert Sweep("s", None, {}, {}, "m", 5, {}, 2, 0.0, counts).state == expected


def test_cancel_ends_what_has_not_ended_and_nothing_else(db: Database) -> None:
    sweep_id, made = submit(db, members(5))
    other, _ = submit(db, members(1))
    done, running, pausing, paused, _waits = (job.id for job in made)
    attempts.fail(db, claim(db, done), code="x", detail="y", runtime=1)
    held = claim(db, running)
    claim(db, pausing)
    jobs.pause(db, pausing)
    jobs.pause(db, paused)
    before = jobs.get(db, done)

    found, changed = sweeps.cancel(db, sweep_id)

    assert (changed, found.state) == (True, "cancelling")
    assert found.counts == {"failed": 1, "cancelling": 2, "cancelled": 2}
    assert jobs.get(db, done) == before
    assert attempts.state(db, held) == "cancelling", "where the worker looks"
    for job in made[3:]:
        assert [one.type for one in events.page(db, job.id, after=0, limit=9)][-2:] == ["status", "end"]
        seqs = [one.seq for one in events.page(db, job.id, after=0, limit=9)]
        assert seqs == list(range(1, jobs.get(db, job.id).last_event + 1))
        assert jobs.get(db, job.id).finished_at is not None
    assert events.page(db, running, after=0, limit=9)[-1].data == {"state": "cancelling"}
    assert state(db, other) == "queued"

    again, changed = sweeps.cancel(db, sweep_id)
    assert (changed, again) == (False, found)
    attempts.cancelled(db, held, runtime=1)
    assert sweeps.cancel(db, sweep_id)[1] is False


def test_cancels_at_the_same_time_tell_each_job_once(db: Database) -> None:
    sweep_id, made = submit(db, members(20))
    with ThreadPoolExecutor(6) as pool:
        changed = [changed for _, changed in pool.map(lambda _: sweeps.cancel(db, sweep_id), range(6))]
    assert changed.count(True) == 1
    assert {jobs.get(db, job.id).last_event for job in made} == {3}


def test_a_deleted_job_leaves_its_place(db: Database) -> None:
    sweep_id, made = submit(db, members(3))
    attempts.fail(db, claim(db, made[1].id), code="x", detail="y", runtime=1)
    jobs.remove(db, made[1].id)
    for _ in range(2):
        found, rows = sweeps.get_with_members(db, sweep_id)
        assert found.counts == {"queued": 2, "deleted": 1}
        assert [row.state for row in rows] == ["queued", "deleted", "queued"]
        assert (rows[1].job_id, rows[1].changes) == (made[1].id, {"seed": 1})
        assert (rows[1].metrics, rows[1].model_id) == ({}, None)
        while garbage.collect(db):
            pass
    assert sweeps.cancel(db, sweep_id)[0].counts == {"cancelled": 2, "deleted": 1}


def test_pages(db: Database) -> None:
    made = [submit(db, members(size))[0] for size in (1, 2, 3)]
    first, more = sweeps.page(db, limit=2)
    rest, no_more = sweeps.page(db, limit=2, after=first[-1].id)
    assert [one.id for one in first + rest] == made[::-1]
    assert [one.counts for one in first + rest] == [{"queued": 3}, {"queued": 2}, {"queued": 1}]
    assert (more, no_more) == (True, False)


@pytest.mark.parametrize("act", [sweeps.get, sweeps.get_with_members, sweeps.cancel])
def test_a_sweep_that_is_not_there(db: Database, act: Any) -> None:
    with pytest.raises(NotFound) as refusal:
        act(db, "sweep_x")
    assert refusal.value.code == "sweep_not_found"


def test_a_job_of_before_sweeps_has_none(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of the second schema is migrated, and takes a sweep."""
    db = Database(database_url)
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0002"))
        schema.migrate(db)
    with db.write() as connection:
        connection.execute(insert(tables.job).values(OLD_JOB))
    assert schema.migrate(db) == ("0002", schema.head())
    assert jobs.get(db, str(OLD_JOB["id"])).sweep_id is None
    submit(db, members(2))
    db.close()


def test_those_that_wait_and_have_never_begun(db: Database) -> None:
    sweep_id, made = submit(db, members(5))
    _, others = submit(db, members(2))
    assert {job.sweep_id for job in others} != {sweep_id}

    def waiting(queue: str = "cpu", priority: int = 3) -> list[str]:
        return [job.id for job in sweeps.waiting(db, sweep_id, queue=queue, priority=priority)]

    assert waiting() == [job.id for job in made]
    assert waiting("gpu") == waiting(priority=4) == []
    held = claim(db, made[0].id)
    assert (waiting(), sweeps.unended(db, sweep_id)) == ([job.id for job in made[1:]], 5)
    attempts.release(db, held, runtime=0)
    jobs.pause(db, made[1].id)
    jobs.cancel(db, made[2].id)
    assert (waiting(), sweeps.unended(db, sweep_id)) == ([job.id for job in made[3:]], 3)
    jobs.remove(db, made[2].id)
    assert sweeps.unended(db, sweep_id) == 3
