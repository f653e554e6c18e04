"""Checkpoints: bytes in chunks that a header makes visible, damage found and passed over, and what is
let go of."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete, event, func, select, update

from service.errors import NotFound
from service.spec import TrainingSpec
from service.store import attempts, blobs, checkpoints, events, garbage, jobs, models
from service.store.attempts import Attempt
from service.store.blobs import Damaged
from service.store.checkpoints import Checkpoint, Kept
from service.store.database import Database
from service.store.jobs import JobLost
from service.store.tables import checkpoint, chunk
from tests.conftest import renew

SPEC = TrainingSpec()
EVERYTHING = Kept(everything=True, newest=1)


def start(db: Database) -> Attempt:
    """A job that a worker holds."""
    answer, _ = jobs.submit(db, SPEC, answer=lambda job: {"id": job.id}, queue="cpu")
    job = attempts.claim(db, str(answer["id"]), worker="w", device="cpu", lease_seconds=60)
    assert job is not None
    return Attempt(job.id, job.attempt)


def save(
    db: Database,
    attempt: Attempt,
    step: int,
    *,
    weights: bytes = b"weights",
    state: bytes | None = b"state",
    metrics: Mapping[str, float] | None = None,
) -> Checkpoint:
    return checkpoints.save(
        db,
        attempt,
        step=step,
        epoch=step / 10,
        reason="scheduled",
        metrics=metrics or {},
        spec=SPEC.model_dump(mode="json"),
        weights=weights,
        state=state,
    )


def steps(db: Database, attempt: Attempt) -> list[int]:
    return [header.step for header in checkpoints.of_job(db, attempt.job_id)]


def chunks(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(select(func.count()).select_from(chunk)).scalar_one()


def collect_all(db: Database) -> int:
    """Whatever is garbage, however young: a grace below zero reaches past this very millisecond."""
    return garbage.collect(db, grace_seconds=-60, seconds=60)


def test_what_is_saved_is_read(db: Database) -> None:
    attempt = start(db)
    whole = blobs.CHUNK_BYTES
    for step, size in enumerate((0, 1, whole - 1, whole, whole + 1, 2 * whole + 17)):
        weights, state = os.urandom(size), os.urandom(size // 3)
        header = save(db, attempt, step, weights=weights, state=state, metrics={"test_loss": 0.5})
        assert checkpoints.get(db, header.id) == header
        assert (header.weights_size, header.state_size) == (size, size // 3)
        assert checkpoints.weights(db, header) == weights
        assert checkpoints.state(db, header) == state
    assert steps(db, attempt) == [5, 4, 3, 2, 1, 0]
    told = [one.data["step"] for one in events.page(db, attempt.job_id, after=0, limit=99)[2:]]
    assert told == [0, 1, 2, 3, 4, 5]
    with pytest.raises(NotFound):
        checkpoints.get(db, "ckpt_none")


def test_a_range_is_cut_across_chunks(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 10)
    weights = os.urandom(35)
    blob = save(db, start(db), 1, weights=weights, state=None).weights_blob
    edges = (0, 1, 9, 10, 11, 20, 29, 34, 35)
    for begin in edges:
        for end in (edge for edge in edges if edge >= begin):
            pieces = list(blobs.read(db, blob, start=begin, stop=end))
            assert b"".join(pieces) == weights[begin:end]
            assert all(len(piece) <= 10 for piece in pieces)


def test_a_stale_attempt_leaves_only_garbage(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 10)
    stale = start(db)
    attempts.worker_lost(db, stale, reason="died")
    seen = events.heads(db, [stale.job_id])
    with pytest.raises(JobLost):
        save(db, stale, 1, weights=bytes(25), state=bytes(5))
    assert steps(db, stale) == []
    assert events.heads(db, [stale.job_id]) == seen
    assert chunks(db) == 4
    assert garbage.collect(db, grace_seconds=3600) == 0, "a header may be on its way"
    assert collect_all(db) == 4
    assert chunks(db) == 0


def flip(db: Database, blob_id: str) -> None:
    with db.write() as connection:
        data = connection.execute(
            select(chunk.c.data).where(chunk.c.blob_id == blob_id, chunk.c.ordinal == 1)
        ).scalar_one()
        changed = data[:5] + bytes([data[5] ^ 1]) + data[6:]
        connection.execute(
            update(chunk).where(chunk.c.blob_id == blob_id, chunk.c.ordinal == 1).values(data=changed)
        )


def lose(db: Database, blob_id: str) -> None:
    with db.write() as connection:
        connection.execute(delete(chunk).where(chunk.c.blob_id == blob_id, chunk.c.ordinal == 1))


def test_damage_is_marked_told_and_passed_over(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 10)
    harms: list[tuple[Callable[[Database, str], None], str]] = [
        (flip, "weights_blob"),
        (lose, "weights_blob"),
        (flip, "state_blob"),
        (lose, "state_blob"),
    ]
    for harm, part in harms:
        attempt = start(db)
        data = [os.urandom(25) for _ in range(3)]
        _, middle, newest = [
            save(db, attempt, step, weights=data[step], state=data[step][::-1]) for step in range(3)
        ]
        harm(db, getattr(newest, part))
        read = checkpoints.weights if part == "weights_blob" else checkpoints.state
        for _ in range(2):
            with pytest.raises(Damaged):
                read(db, newest)
        assert checkpoints.get(db, newest.id).bad
        header, weights, state = next(checkpoints.resumable(db, attempt.job_id))
        assert (header, weights, state) == (middle, data[1], data[1][::-1])
        told = [
            one.data
            for one in events.page(db, attempt.job_id, after=0, limit=99)
            if one.type == "warning"  # once, though it was read twice
        ]
        assert [(data["code"], data["id"]) for data in told] == [("checkpoint_damaged", newest.id)]


def test_resuming_finds_the_damage_itself(db: Database) -> None:
    attempt = start(db)
    header = save(db, attempt, 1)
    with db.write() as connection:
        connection.execute(delete(chunk))
    assert list(checkpoints.resumable(db, attempt.job_id)) == []
    assert checkpoints.get(db, header.id).bad


def test_pruning_keeps_the_newest_the_best_and_those_of_models(db: Database) -> None:
    attempt = start(db)
    figures = {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.95, 5: 0.6, 6: 0.7}
    for step, figure in figures.items():
        save(db, attempt, step, metrics={"test_loss": figure, "test_accuracy": figure})
    checkpoints.prune(db, attempt.job_id, EVERYTHING)
    assert steps(db, attempt) == [6, 5, 4, 3, 2, 1]
    checkpoints.prune(db, attempt.job_id, Kept(everything=False, newest=5, best_by="test_accuracy"))
    assert steps(db, attempt) == [6, 5, 4, 3, 2]
    model = models.finish(
        db,
        attempt,
        next(header for header in checkpoints.of_job(db, attempt.job_id) if header.step == 5),
        preprocessing="1",
        dataset_sha256="d",
        provenance={},
        runtime=1,
    )
    assert model is not None
    checkpoints.prune(db, attempt.job_id, Kept(everything=False, newest=1, best_by="test_accuracy"))
    assert steps(db, attempt) == [6, 5, 4]
    checkpoints.prune(db, attempt.job_id, Kept(everything=False, newest=1, best_by="test_loss"))
    assert steps(db, attempt) == [6, 5]
    checkpoints.prune(db, attempt.job_id, Kept(everything=False, newest=0, best_by="test_perplexity"))
    assert steps(db, attempt) == [5]
    other = start(db)
    save(db, other, 1)
    checkpoints.prune(db, attempt.job_id, Kept(everything=False, newest=0))
    assert steps(db, other) == [1]
    collect_all(db)
    for attempt_left in (attempt, other):
        for header in checkpoints.of_job(db, attempt_left.job_id):
            assert checkpoints.weights(db, header) == b"weights"


@pytest.mark.parametrize("with_state", [(1, 2, 3, 4), (1, 2, 3)], ids=["all", "not the newest"])
def test_only_the_newest_states_are_kept(db: Database, with_state: tuple[int, ...]) -> None:
    attempt = start(db)
    for step in (1, 2, 3, 4):
        save(db, attempt, step, state=b"state" if step in with_state else None)
    checkpoints.prune(db, attempt.job_id, EVERYTHING)
    left = [header.step for header, _, _ in checkpoints.resumable(db, attempt.job_id)]
    assert left == sorted(with_state, reverse=True)[: checkpoints.STATES_KEPT]
    assert collect_all(db) == len(with_state) - checkpoints.STATES_KEPT
    assert [len(checkpoints.weights(db, header)) for header in checkpoints.of_job(db, attempt.job_id)] == [
        7,
        7,
        7,
        7,
    ]


def test_garbage_goes_in_small_steps(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 10)
    attempt = start(db)
    named = save(db, attempt, 2, weights=bytes(100), state=bytes(50))
    save(db, attempt, 1, weights=bytes(195), state=None)
    with db.write() as connection:
        connection.execute(delete(checkpoint).where(checkpoint.c.step == 1))
    gone = [0]

    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM chunk"):
            gone[-1] += cursor.rowcount

    event.listen(db.engine, "after_cursor_execute", count)
    event.listen(db.engine, "commit", lambda _: gone.append(0))
    assert garbage.collect(db, grace_seconds=-60, seconds=0) == 0, "no time, no step"
    assert collect_all(db) == 20
    assert sum(gone) == 20
    assert max(gone) <= blobs.ROWS_A_STEP
    assert chunks(db) == 15
    assert checkpoints.weights(db, named) == bytes(100)
    assert checkpoints.state(db, named) == bytes(50)


def test_others_write_while_a_large_one_is_saved(db: Database) -> None:
    attempt, weights, written = start(db), os.urandom(50 * 1024**2), 0
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(save, db, attempt, 1, weights=weights, state=None)
        while not saving.done():
            renew(db, attempt)
            written += not saving.done()
    assert written > 0
    assert checkpoints.weights(db, saving.result()) == weights
