"""Batches in the store: who may write, what stays, and that no answer is there twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from service.errors import Conflict, Invalid, NotFound, Unavailable
from service.keys import Secret
from service.store import batches, blobs, garbage, keys
from service.store.batches import Batch, Body, Hold
from service.store.database import Database, now
from service.store.jobs import Idempotency
from service.store.keys import Submitter
from service.store.leases import LeaseLost
from service.store.tables import batch, chunk
from tests.conftest import renew


def submit(
    db: Database,
    data: bytes = b"[1]\n[2]\n",
    *,
    key: Idempotency | None = None,
    submitter: Submitter | None = None,
) -> Batch:
    body = Body("lines", blobs.write(db, data), len(data), 2)
    _, made = batches.submit(
        db,
        body,
        answer=lambda one: {"id": one.id},
        model_id="model_1",
        preprocess=None,
        scale="byte",
        max_attempts=2,
        idempotency=key,
        submitter=submitter,
    )
    assert made is not None
    return made


def claim(db: Database, batch_id: str) -> Hold:
    claimed = batches.claim(db, batch_id, worker="w", lease_seconds=60)
    assert claimed is not None
    return Hold(batch_id, claimed.attempt)


def lose(db: Database, hold: Hold) -> Batch | None:
    """As the reconciler does when the lease has stood still."""
    until = batches.get(db, hold.held_id).lease_until
    assert until is not None
    return batches.worker_lost(db, hold, reason="lease_expired", lease_until=until)


def answers(db: Database, batch_id: str) -> bytes:
    found = batches.get(db, batch_id)
    data = b"".join(blobs.read_rows(db, found.results_blob, found.results_rows))
    assert len(data) == found.results_size
    return data


def chunks(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(select(func.count()).select_from(chunk)).scalar_one()


def collect_all(db: Database) -> None:
    garbage.collect(db, grace_seconds=-60, seconds=60)


def test_a_batch_from_its_queue_to_its_end(db: Database) -> None:
    made = submit(db)
    assert (made.state, made.total, made.done, made.attempt) == ("queued", 2, 0, 0)
    assert (made.queue, made.priority, made.is_terminal) == ("batch", 5, False)
    hold = claim(db, made.id)
    assert batches.claim(db, made.id, worker="v", lease_seconds=60) is None, "the message came twice"
    batches.append(db, hold, b"one\n", done=1, errors=0)
    batches.append(db, hold, b"two\n", done=2, errors=1)
    collect_all(db)
    assert answers(db, made.id) == b"one\ntwo\n", "what a batch names is no garbage"
    batches.succeed(db, hold)
    found = batches.get(db, made.id)
    assert (found.state, found.done, found.errors, found.worker) == ("succeeded", 2, 1, None)
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.created_at <= found.started_at <= found.finished_at
    assert chunks(db) == 3
    collect_all(db)
    assert chunks(db) == 2, "its body is let go of"
    batches.remove(db, made.id)
    collect_all(db)
    assert chunks(db) == 0


def test_a_lost_batch_goes_on_and_the_stale_worker_is_refused(db: Database) -> None:
    made = submit(db)
    stale = claim(db, made.id)
    batches.append(db, stale, b"one\n", done=1, errors=0)
    lost = lose(db, stale)
    assert lost is not None
    assert (lost.state, lost.done, lost.crashes) == ("queued", 1, 1)
    hold = claim(db, made.id)
    assert hold.number == 2
    for write in (
        lambda: batches.append(db, stale, b"two\n", done=2, errors=0),
        lambda: batches.succeed(db, stale),
        lambda: batches.fail(db, stale, code="c", detail="d"),
        lambda: batches.release(db, stale),
        lambda: renew(db, stale),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert batches.worker_lost(db, stale, reason="r", lease_until=0.0) is None
    batches.append(db, hold, b"two\n", done=2, errors=0)
    assert answers(db, made.id) == b"one\ntwo\n"
    failed = lose(db, hold)
    assert failed is not None
    assert (failed.state, failed.error and failed.error["code"]) == ("failed", "worker_lost")
    assert answers(db, made.id) == b"one\ntwo\n", "what was answered stays"


def test_a_lease_that_was_renewed_is_not_taken(db: Database) -> None:
    hold = claim(db, submit(db).id)
    read = batches.get(db, hold.held_id).lease_until
    assert read is not None
    renew(db, hold, seconds=120)
    assert batches.worker_lost(db, hold, reason="r", lease_until=read) is None
    assert batches.get(db, hold.held_id).state == "running"


def test_a_released_batch_costs_no_crash(db: Database) -> None:
    hold = claim(db, submit(db).id)
    released = batches.release(db, hold)
    assert (released.state, released.crashes, released.attempt) == ("queued", 0, 1)
    assert claim(db, released.id).number == 2


def test_cancel_and_delete(db: Database) -> None:
    made = submit(db)
    for held in (False, True):
        if held:
            made = submit(db)
            hold = claim(db, made.id)
            batches.append(db, hold, b"one\n", done=1, errors=0)
        with pytest.raises(Conflict, match="cancel it first"):
            batches.remove(db, made.id)
        cancelled, has_changed = batches.cancel(db, made.id)
        assert (cancelled.state, has_changed) == ("cancelled", True)
        assert batches.cancel(db, made.id) == (cancelled, False)
    with pytest.raises(LeaseLost):
        batches.append(db, hold, b"two\n", done=2, errors=0)
    assert answers(db, made.id) == b"one\n"
    batches.remove(db, made.id)
    with pytest.raises(NotFound):
        batches.get(db, made.id)
    with pytest.raises(NotFound):
        batches.remove(db, made.id)
    with pytest.raises(NotFound):
        batches.cancel(db, made.id)
    done = claim(db, submit(db).id)
    batches.succeed(db, done)
    with pytest.raises(Conflict, match="succeeded"):
        batches.cancel(db, done.held_id)


def test_a_key_makes_one_batch(db: Database) -> None:
    key = Idempotency("k", "a" * 64)
    made = submit(db, key=key)
    body = Body("lines", blobs.write(db, b"[1]"), 3, 1)
    fields = {"model_id": "m", "preprocess": None, "scale": "byte", "max_attempts": 2}
    told, again = batches.submit(db, body, answer=lambda _: {}, idempotency=key, **fields)  # type: ignore[arg-type]
    assert (told, again) == ({"id": made.id}, None)
    other = Idempotency("k", "b" * 64)
    with pytest.raises(Invalid):
        batches.submit(db, body, answer=lambda _: {}, idempotency=other, **fields)  # type: ignore[arg-type]
    assert len(batches.page(db, limit=10)[0]) == 1


def test_a_body_with_a_hole_is_not_accepted(db: Database) -> None:
    body = Body("lines", "blob_of_nothing", 3, 1)
    with pytest.raises(Unavailable):
        batches.submit(
            db, body, answer=lambda _: {}, model_id="m", preprocess=None, scale="byte", max_attempts=2
        )
    assert batches.page(db, limit=10) == ([], False)


def test_pages_and_what_waits(db: Database) -> None:
    assert (batches.count_by_queue(db), batches.oldest_wait(db)) == ({}, None)
    made = [submit(db).id for _ in range(3)]
    found, has_more = batches.page(db, limit=2)
    assert ([one.id for one in found], has_more) == (made[:0:-1], True)
    found, has_more = batches.page(db, limit=2, after=found[-1].id)
    assert ([one.id for one in found], has_more) == (made[:1], False)
    claim(db, made[0])
    assert [one.id for one in batches.page(db, limit=9, states=["running"])[0]] == made[:1]
    assert [one.id for one in batches.held(db)] == made[:1]
    assert batches.count_by_queue(db) == {"batch": 2}
    waited = batches.oldest_wait(db)
    assert waited is not None
    assert 0 <= waited < 60
    assert batches.unrung(db, older_than=60, limit=9) == []
    with db.write() as connection:
        connection.execute(update(batch).values(queued_at=now() - 61))
    assert [one.id for one in batches.unrung(db, older_than=60, limit=9)] == made[1:]
    batches.mark_rung(db, made[1])
    assert [one.id for one in batches.unrung(db, older_than=60, limit=9)] == made[2:]
    with db.write() as connection:  # as if the clock had been set back since
        connection.execute(update(batch).where(batch.c.id == made[1]).values(rung_at=now() + 3600))
    assert [one.id for one in batches.unrung(db, older_than=60, limit=9)] == made[1:]


def test_a_keys_batches_count_with_what_is_stored_of_them(db: Database) -> None:
    mine, other = Submitter("num_aaaaaaaa", None, 100), Submitter("num_bbbbbbbb", None, 100)
    first = submit(db, bytes(60), submitter=mine)
    with pytest.raises(Conflict, match="take 60 bytes, its limit is 100") as refusal:
        submit(db, bytes(41), submitter=mine)
    assert refusal.value.code == "stored_bytes_quota"
    submit(db, bytes(41), submitter=other)
    hold = claim(db, first.id)
    batches.append(db, hold, bytes(30), done=2, errors=0)
    with pytest.raises(Conflict, match="take 90 bytes"):
        submit(db, bytes(11), submitter=mine)
    batches.succeed(db, hold)  # and nothing needs its body any more
    second = submit(db, bytes(70), submitter=mine)
    with pytest.raises(Conflict, match="take 100 bytes"):
        submit(db, bytes(1), submitter=mine)
    batches.remove(db, first.id)
    submit(db, bytes(30), submitter=mine)
    batches.cancel(db, second.id)
    submit(db, bytes(70), submitter=mine)


def test_submits_of_one_key_at_once_share_one_quota(db: Database) -> None:
    secret = Secret.new()
    keys.create(db, secret, name="test", scopes=["predict"])
    mine = Submitter(secret.id, None, 100)

    def fits(_: int) -> bool:
        try:
            submit(db, bytes(30), submitter=mine)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(fits, range(6))) == 3
