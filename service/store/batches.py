"""Batches: large sets of images that are read in the background, and the answers. Every query and every transition.

States, and what each means:

- `queued`: accepted, its body stored; waits for a worker. Also after a worker was lost or handed it back.
- `running`: one worker holds it by a lease and reads.
- `succeeded`, `failed`, `cancelled`: terminal. What was answered stays; the body is let go of.

A cancel needs no consent of the worker: its next write finds the batch ended and is refused.

Answers are appended a chunk at a time, in the transaction that counts them. So `done` says where to go on, and no answer
is there twice, however often workers are lost in between."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, null, or_, select, update

from service import trail
from service.errors import Conflict, NotFound
from service.store import blobs, jobs, keys, setbacks
from service.store.database import Database, now
from service.store.identifiers import new_id
from service.store.jobs import CLOCK_SECONDS, Idempotency
from service.store.keys import Submitter
from service.store.leases import LeaseLost
from service.store.tables import batch

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TERMINAL = ("succeeded", "failed", "cancelled")
Kind = Literal["lines", "pixels", "archive"]
QUEUE = "batch"


@dataclass(frozen=True)
class Batch:
    """A row of the batch table; see there for the columns."""

    id: str
    state: State
    model_id: str
    kind: Kind
    preprocess: Literal["auto", "mnist", "none"] | None
    scale: Literal["byte", "unit"]
    body_blob: str | None
    body_size: int
    results_blob: str
    results_rows: int
    results_size: int
    total: int
    done: int
    errors: int
    attempt: int
    crashes: int
    max_attempts: int
    worker: str | None
    lease_until: float | None
    error: dict[str, Any] | None
    key_id: str | None
    queued_at: float
    rung_at: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    request_id: str | None
    traceparent: str | None

    queue: ClassVar[str] = QUEUE
    priority: ClassVar[int] = 5

    @classmethod
    def of(cls, row: Any) -> "Batch":
        return cls(**row._mapping)

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Body:
    """What was sent, stored but not yet named by a batch: how many images it holds, and of which kind."""

    kind: Kind
    blob_id: str
    size: int
    total: int


@dataclass(frozen=True)
class Hold:
    """One worker's hold on one batch; `number` is the fence, raised by each claim."""

    held_id: str
    number: int

    @property
    def holds(self) -> ColumnElement[bool]:
        mine = and_(batch.c.id == self.held_id, batch.c.attempt == self.number)
        return and_(mine, batch.c.state == "running")

    def renew(self, connection: Connection, *, lease_seconds: float) -> None:
        """In a transaction that is open, which stays good. Raises LeaseLost."""
        _change(connection, self, {"lease_until": now() + lease_seconds})


def submit(
    db: Database,
    body: Body,
    *,
    answer: Callable[[Batch], dict[str, Any]],
    model_id: str,
    preprocess: str | None,
    scale: str,
    max_attempts: int,
    idempotency: Idempotency | None = None,
    submitter: Submitter | None = None,
) -> tuple[dict[str, Any], Batch | None]:
    """Accept a batch. Returns what `answer` makes of it, and the batch; None if the idempotency key has had its answer
    before, and then nothing names the body. Raises Invalid if the key was used for another request, Unavailable if
    pieces of the body are gone, and Conflict if the submitter has no room for it."""
    with db.write() as connection:
        if idempotency is not None:
            earlier = jobs.earlier_answer(connection, idempotency)
            if earlier is not None:
                return earlier, None
        if submitter is not None:
            keys.require_room(connection, submitter, body.size)
        blobs.require(connection, {body.blob_id: body.size})
        values = {
            "id": new_id("batch"),
            "state": "queued",
            "model_id": model_id,
            "kind": body.kind,
            "preprocess": preprocess,
            "scale": scale,
            "body_blob": body.blob_id,
            "body_size": body.size,
            "results_blob": new_id("blob"),
            "total": body.total,
            "max_attempts": max_attempts,
            "key_id": None if submitter is None else submitter.key_id,
            "queued_at": now(),
            "created_at": now(),
            "request_id": trail.request_id(),
            "traceparent": trail.here().traceparent,
        }
        row = connection.execute(insert(batch).values(values).returning(*batch.c)).one()
        made = Batch.of(row)
        told = answer(made)
        jobs.keep_answer(connection, idempotency, told)
        return told, made


def get(db: Database, batch_id: str) -> Batch:
    """Raises NotFound."""
    with db.read() as connection:
        return _get(connection, batch_id)


def _get(connection: Connection, batch_id: str) -> Batch:
    row = connection.execute(select(batch).where(batch.c.id == batch_id)).first()
    if row is None:
        raise NotFound(f"there is no batch {batch_id!r}", code="batch_not_found")
    return Batch.of(row)


def page(
    db: Database, *, limit: int, after: str | None = None, states: Sequence[State] = ()
) -> tuple[list[Batch], bool]:
    """Batches, newest first, those older than the id `after`; and whether there are more."""
    query = select(batch).order_by(batch.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(batch.c.id < after)
    if states:
        query = query.where(batch.c.state.in_(states))
    with db.read() as connection:
        found = [Batch.of(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def cancel(db: Database, batch_id: str) -> tuple[Batch, bool]:
    """End a batch; what was answered stays. Returns it and whether anything changed: one that is cancelled is left as
    it is. Raises Conflict if it has succeeded or failed."""
    with db.write() as connection:
        where = and_(batch.c.id == batch_id, batch.c.state.in_(("queued", "running")))
        ended = connection.execute(
            update(batch).where(where).values(_ended("cancelled")).returning(*batch.c)
        ).first()
        if ended is not None:
            return Batch.of(ended), True
        found = _get(connection, batch_id)
        if found.state == "cancelled":
            return found, False
        raise Conflict(f"cannot cancel a batch that has {found.state}", code="illegal_transition")


def remove(db: Database, batch_id: str) -> None:
    """Forget a batch that has ended; its answers become garbage. Raises Conflict while it is queued or running."""
    with db.write() as connection:
        where = and_(batch.c.id == batch_id, batch.c.state.in_(TERMINAL))
        if connection.execute(delete(batch).where(where)).rowcount == 0:
            state = _get(connection, batch_id).state
            raise Conflict(f"the batch is {state}: cancel it first, then delete it", code="batch_active")


def claim(db: Database, batch_id: str, *, worker: str, lease_seconds: float) -> Batch | None:
    """Take a queued batch. None if it is not queued (any more): the message came late or twice."""
    with db.write(durable=db.may_crash_alone) as connection:
        row = connection.execute(
            update(batch)
            .where(batch.c.id == batch_id, batch.c.state == "queued")
            .values(
                state="running",
                attempt=batch.c.attempt + 1,
                worker=worker,
                lease_until=now() + lease_seconds,
                started_at=func.coalesce(batch.c.started_at, now()),
            )
            .returning(*batch.c)
        ).first()
        return None if row is None else Batch.of(row)


def append(db: Database, hold: Hold, answers: bytes, *, done: int, errors: int) -> None:
    """Store further answers, with how many there are now and how many of them are errors. Not to be tried again when it
    fails: a connection that breaks at the commit leaves unknown whether they are there. Raises LeaseLost."""
    with db.write(durable=db.may_crash_alone) as connection:
        counts = {
            "done": done,
            "errors": errors,
            "results_rows": batch.c.results_rows + 1,
            "results_size": batch.c.results_size + len(answers),
        }
        now_ = _change(connection, hold, counts)
        blobs.append(connection, now_.results_blob, now_.results_rows - 1, answers)


def succeed(db: Database, hold: Hold) -> None:
    """All is answered. Raises LeaseLost."""
    with db.write() as connection:
        _change(connection, hold, _ended("succeeded"))


def fail(db: Database, hold: Hold, *, code: str, detail: str) -> None:
    """End the batch: it cannot succeed. Raises LeaseLost."""
    with db.write() as connection:
        _change(connection, hold, _ended("failed") | {"error": {"code": code, "detail": detail}})
        setbacks.note(connection, "batch", "failed", code)


def release(db: Database, hold: Hold) -> Batch:
    """Hand the batch back; costs it nothing. Raises LeaseLost."""
    with db.write() as connection:
        queued = _change(connection, hold, _QUEUED)
        setbacks.note(connection, "batch", "queued", setbacks.LEFT)
        return queued


def worker_lost(db: Database, hold: Hold, *, reason: str, lease_until: float) -> Batch | None:
    """The holder died: queue the batch again, or fail it after `max_attempts` such losses; only if the lease still
    reads so. None if it held nothing any more."""
    used_up = batch.c.crashes + 1 >= batch.c.max_attempts
    detail = f"{reason}: the batch lost its worker too often; see the log of the batch worker"
    failed = _ended("failed") | {"error": {"code": "worker_lost", "detail": detail}}
    with db.write() as connection:
        for condition, values in ((used_up, failed), (~used_up, _QUEUED)):
            where = and_(hold.holds, batch.c.lease_until == lease_until, condition)
            row = connection.execute(
                update(batch)
                .where(where)
                .values(values | {"crashes": batch.c.crashes + 1})
                .returning(*batch.c)
            ).first()
            if row is not None:
                setbacks.note(connection, "batch", row.state, reason)
                return Batch.of(row)
    return None


def _change(connection: Connection, hold: Hold, values: Mapping[str, Any]) -> Batch:
    row = connection.execute(update(batch).where(hold.holds).values(values).returning(*batch.c)).first()
    if row is None:
        raise LeaseLost(f"attempt {hold.number} does not hold {hold.held_id} any more")
    return Batch.of(row)


_LET_GO: dict[str, Any] = {"worker": null(), "lease_until": null()}
_QUEUED: dict[str, Any] = _LET_GO | {"state": "queued", "queued_at": now(), "rung_at": null()}


def _ended(state: State) -> dict[str, Any]:
    return _LET_GO | {"state": state, "finished_at": now(), "body_blob": null()}


def unrung(db: Database, *, older_than: float, limit: int) -> list[Batch]:
    """Queued batches whose message was sent so long ago that it may be lost, or before the clock was set back; the
    oldest first."""
    sent_at = func.coalesce(batch.c.rung_at, batch.c.queued_at)
    is_due = or_(sent_at <= now() - older_than, sent_at > now() + CLOCK_SECONDS)
    where = and_(batch.c.state == "queued", is_due)
    return _found(db, where, limit=limit)


def mark_rung(db: Database, batch_id: str) -> None:
    """Note that the batch's message has been sent again."""
    with db.write(durable=False) as connection:
        where = and_(batch.c.id == batch_id, batch.c.state == "queued")
        connection.execute(update(batch).where(where).values(rung_at=now()))


def count_by_queue(db: Database) -> dict[str, int]:
    """How many batches are queued, if any, by the queue that they wait in."""
    with db.read() as connection:
        waiting = select(func.count()).where(batch.c.state == "queued")
        count = connection.execute(waiting).scalar_one()
    return {QUEUE: count} if count else {}


def oldest_wait(db: Database) -> float | None:
    """Seconds that the oldest queued batch has waited; None if none waits."""
    with db.read() as connection:
        query = select(now() - func.min(batch.c.queued_at)).where(batch.c.state == "queued")
        return connection.execute(query).scalar_one_or_none()


def held(db: Database) -> list[Batch]:
    """Batches that a worker holds, or held when it was lost."""
    return _found(db, batch.c.state == "running")


def _found(db: Database, where: ColumnElement[bool], *, limit: int | None = None) -> list[Batch]:
    query = select(batch).where(where).order_by(batch.c.id).limit(limit)
    with db.read() as connection:
        return [Batch.of(row) for row in connection.execute(query)]
