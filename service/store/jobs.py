"""Jobs as their submitters see them: every query, and every transition that a caller may ask for.

States, and what each means:

- `queued`: accepted; waits for a worker. Also after a worker was lost or handed it back.
- `running`: one worker holds it by a lease and trains.
- `cancelling`: cancel was asked for; the worker has yet to stop.
- `pausing`: pause was asked for; the worker has yet to save and stop.
- `paused`: stopped with a resumable checkpoint; `resume` queues it again.
- `succeeded`, `failed`, `cancelled`: terminal. Terminal means terminal.

What the worker that holds a job may do to it is in `service.store.attempts`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, or_, select, update

from service import trail
from service.errors import Conflict, Invalid, NotFound, Unavailable
from service.spec import TrainingSpec
from service.store import datasets, keys, tables
from service.store.database import Database, insert_new, now
from service.store.events import Telling, change, hold, record
from service.store.identifiers import new_id
from service.store.keys import Submitter
from service.store.leases import LeaseLost
from service.store.tables import job

State = Literal["queued", "running", "cancelling", "pausing", "paused", "succeeded", "failed", "cancelled"]
ACTIVE = ("running", "cancelling", "pausing")  # a worker holds the job
TERMINAL = ("succeeded", "failed", "cancelled")
IDEMPOTENCY_SECONDS = 86_400.0
CLOCK_SECONDS = 1.0  # what the database's clock may be adjusted by without having been set


_INSERT = insert(job).returning(*job.c, now().label("clock"))
QUEUED: list[Telling] = [("status", {"state": "queued"})]


@dataclass(frozen=True)
class Job:
    """A row of the job table; see there for the columns."""

    id: str
    state: State
    preset: str | None
    spec: dict[str, Any]
    parameter_count: int
    queue: str
    priority: int
    metadata: dict[str, Any]
    attempt: int
    crashes: int
    max_attempts: int
    worker: str | None
    device: str | None
    lease_until: float | None
    last_progress_at: float | None
    runtime_seconds: float
    progress: dict[str, Any] | None
    metrics: dict[str, float]
    error: dict[str, Any] | None
    model_id: str | None
    weights_sha256: str | None
    dataset_sha256: str | None
    spec_sha256: str | None
    code_version: str | None
    sweep_id: str | None
    last_event: int
    queued_at: float
    rung_at: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    deleted_at: float | None
    request_id: str | None
    traceparent: str | None

    @classmethod
    def of(cls, row: Any) -> "Job":
        """From a row that has at least the columns of the job table."""
        return cls(**{name: row._mapping[name] for name in cls.__dataclass_fields__})

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Idempotency:
    """A client's key, and a hash of the request that it was sent with."""

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Versions:
    """What a job's outcome rests on beside its spec; see `service.versions`."""

    dataset_sha256: str
    code_version: str


Move = tuple[Sequence[str], Mapping[str, Any], Sequence[Telling]]  # from these states, and what tells of it
CANCEL: tuple[Move, ...] = (
    (
        ("queued", "paused"),
        {"state": "cancelled", "finished_at": now()},
        [("status", {"state": "cancelled"}), ("end", {"state": "cancelled"})],
    ),
    (("running", "pausing"), {"state": "cancelling"}, [("status", {"state": "cancelling"})]),
)


class TooManyQueued(Unavailable):
    code = "queue_full"


def submit(
    db: Database,
    spec: TrainingSpec,
    *,
    answer: Callable[[Job], dict[str, Any]],
    queue: str | ColumnElement[str],
    preset: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    priority: int = 5,
    max_attempts: int = 3,
    max_queued: int = 10_000,
    idempotency: Idempotency | None = None,
    reuse: Versions | None = None,
    submitter: Submitter | None = None,
) -> tuple[dict[str, Any], bool]:
    """Accept a job. Returns what `answer` makes of it, and whether it is new: the same idempotency key
    with the same request returns the first answer, kept in the same transaction, so that there is no
    moment in which one exists without the other. With `reuse`, a job that has done the same already is
    answered instead of making one.

    Raises Invalid if the key was used for another request, TooManyQueued over `max_queued`, and what
    `keys.require_quota` and `datasets.use` do.
    """
    with db.write() as connection:
        if idempotency is not None:
            earlier = earlier_answer(connection, idempotency)
            if earlier is not None:
                return earlier, False
        found = None if reuse is None else _done_before(connection, spec, reuse)
        if found is not None:
            body = answer(found)
            keep_answer(connection, idempotency, body)
            return body, False
        require_room(connection, 1, max_queued=max_queued, submitter=submitter)
        values = first_values(
            spec,
            preset=preset,
            metadata=metadata,
            priority=priority,
            max_attempts=max_attempts,
            submitter=submitter,
        )
        where = _INSERT.values(queue=queue, queued_at=now(), created_at=now())
        row = connection.execute(where, values).one()
        record(connection, [row], QUEUED)
        datasets.use(connection, [(row.id, spec)])
        body = answer(Job.of(row))
        keep_answer(connection, idempotency, body)
        return body, True


def require_room(
    connection: Connection, count: int, *, max_queued: int, submitter: Submitter | None = None
) -> None:
    """Raises TooManyQueued unless so many more jobs may wait, and what `keys.require_quota` does."""
    if submitter is not None:
        keys.require_quota(connection, submitter, count)
    waiting = connection.execute(select(func.count()).where(job.c.state == "queued")).scalar_one()
    if waiting + count > max_queued:
        beside = "" if count == 1 else f", and {count:,} more are over the limit of {max_queued:,}"
        raise TooManyQueued(f"{waiting:,} jobs wait already{beside}; try again later", retry_after=30)


def first_values(
    spec: TrainingSpec,
    *,
    preset: str | None,
    metadata: Mapping[str, Any] | None,
    priority: int,
    max_attempts: int,
    submitter: Submitter | None = None,
) -> dict[str, Any]:
    """The columns of a new job, but for its queue and the times; its first event is QUEUED."""
    return {
        "id": new_id("job"),
        "state": "queued",
        "preset": preset,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec.sha256,
        "parameter_count": spec.parameter_count,
        "priority": priority,
        "metadata": dict(metadata or {}),
        "max_attempts": max_attempts,
        "key_id": None if submitter is None else submitter.key_id,
        "progress": {
            "step": 0,
            "steps": None if spec.planned is None else spec.planned.steps,
            "epoch": 0.0,
            "epochs": None if spec.planned is None else spec.planned.epochs,
        },
        "metrics": {},
        "last_event": 1,
        "request_id": trail.request_id(),
        "traceparent": trail.here().traceparent,
    }


def done_before(db: Database, spec: TrainingSpec, versions: Versions) -> Job | None:
    """The newest job that has trained just this spec, on this data and by this code, and whose model is
    there to be used; None if there is none. Deleted jobs, and those that were not trained by one code
    throughout, do not count."""
    with db.read() as connection:
        return _done_before(connection, spec, versions)


def _done_before(connection: Connection, spec: TrainingSpec, versions: Versions) -> Job | None:
    model, checkpoint = tables.model, tables.checkpoint  # only a job that succeeded has a model
    row = connection.execute(
        select(job)
        .join(model, model.c.id == job.c.model_id)
        .join(checkpoint, checkpoint.c.id == model.c.checkpoint_id)
        .where(
            job.c.spec_sha256 == spec.sha256,
            job.c.dataset_sha256 == versions.dataset_sha256,
            job.c.code_version == versions.code_version,
            job.c.deleted_at.is_(None),
            checkpoint.c.bad.is_(False),
        )
        .order_by(job.c.id.desc())
        .limit(1)
    ).first()
    return None if row is None else Job.of(row)


def trained_by(db: Database, engine: str) -> str | None:
    """The whole code version, torch's included, of the newest job that ended well in this engine: what the
    workers run, as far as an API without torch can know. None before the first."""
    with db.read() as connection:
        found: str | None = connection.execute(
            select(job.c.code_version)
            .where(job.c.state == "succeeded", job.c.code_version.startswith(f"{engine}.torch"))
            .order_by(job.c.id.desc())
            .limit(1)
        ).scalar_one_or_none()
        return found


def keep_answer(connection: Connection, idempotency: Idempotency | None, body: Mapping[str, Any]) -> None:
    """What the same request with this key is to be answered from now on."""
    if idempotency is not None:
        mine = tables.idempotency.c.key == idempotency.key
        connection.execute(update(tables.idempotency).where(mine).values(answer=body))


def earlier_answer(connection: Connection, idempotency: Idempotency) -> dict[str, Any] | None:
    """The answer kept under the key; None if the key is new, and then it is taken. On PostgreSQL the
    insert waits for a concurrent holder of the key to commit, on SQLite the transaction has."""
    columns = tables.idempotency.c
    taken = connection.execute(
        insert_new(connection, tables.idempotency)
        .values(key=idempotency.key, fingerprint=idempotency.fingerprint, answer={}, created_at=now())
        .returning(columns.key)
    ).first()
    if taken is not None:
        return None
    mine = columns.key == idempotency.key
    kept = connection.execute(
        select(tables.idempotency, (columns.created_at < now() - IDEMPOTENCY_SECONDS).label("is_old")).where(
            mine
        )
    ).one()
    if kept.is_old:
        renewed = {"fingerprint": idempotency.fingerprint, "created_at": now()}
        connection.execute(update(tables.idempotency).where(mine).values(renewed))
        return None
    if kept.fingerprint != idempotency.fingerprint:
        raise Invalid(
            "this Idempotency-Key was sent with another request before: use a new key",
            code="idempotency_key_reused",
        )
    return dict(kept.answer)


def get(db: Database, job_id: str) -> Job:
    """Raises NotFound."""
    with db.read() as connection:
        return _get(connection, job_id)


def _get(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(job).where(job.c.id == job_id, job.c.deleted_at.is_(None))).first()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
    return Job.of(row)


def page(
    db: Database,
    *,
    limit: int,
    after: str | None = None,
    states: Sequence[State] = (),
    preset: str | None = None,
    sweep: str | None = None,
) -> tuple[list[Job], bool]:
    """Jobs, newest first, those older than the id `after`; and whether there are more."""
    query = select(job).where(job.c.deleted_at.is_(None)).order_by(job.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(job.c.id < after)
    if states:
        query = query.where(job.c.state.in_(states))
    if preset is not None:
        query = query.where(job.c.preset == preset)
    if sweep is not None:
        query = query.where(job.c.sweep_id == sweep)
    with db.read() as connection:
        found = [Job.of(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def queue_position(db: Database, *, priority: int, job_id: str | None = None) -> int:
    """Jobs that go before this one; of a job not yet submitted, before one submitted now."""
    before = job.c.priority <= priority
    if job_id is not None:
        before = or_(job.c.priority < priority, and_(job.c.priority == priority, job.c.id < job_id))
    with db.read() as connection:
        return connection.execute(select(func.count()).where(job.c.state == "queued", before)).scalar_one()


def measured_speed(db: Database, *, device_prefix: str) -> float | None:
    """Multiply-adds a second that recent jobs on such a device reached; None before the first."""
    with db.read() as connection:
        rows = connection.execute(
            select(job.c.parameter_count, job.c.progress)
            .where(job.c.state == "succeeded", job.c.device.startswith(device_prefix))
            .order_by(job.c.id.desc())
            .limit(20)
        ).all()
    speeds = sorted(
        row.parameter_count * row.progress["images_per_second"]
        for row in rows
        if row.progress and row.progress.get("images_per_second")
    )
    return speeds[len(speeds) // 2] if speeds else None


def cancel(db: Database, job_id: str) -> tuple[Job, bool]:
    """Ask for a job to end. Returns the job and whether anything changed; a job that is cancelled or
    about to be is left as it is. Raises Conflict if it has succeeded or failed."""
    with db.write() as connection:
        changed = _first_of(
            connection,
            job_id,
            *CANCEL,
        )
        return _settled(connection, job_id, changed, "cancel", already=("cancelling", "cancelled"))


def pause(db: Database, job_id: str) -> tuple[Job, bool]:
    """Ask for a job to stop for now. Raises Conflict unless it is queued, running or already paused."""
    with db.write() as connection:
        changed = _first_of(
            connection,
            job_id,
            (("queued",), {"state": "paused"}, [("status", {"state": "paused"})]),
            (("running",), {"state": "pausing"}, [("status", {"state": "pausing"})]),
        )
        return _settled(connection, job_id, changed, "pause", already=("pausing", "paused"))


def resume(db: Database, job_id: str) -> tuple[Job, bool]:
    """Let a paused job go on: from the queue, or where it is if its worker has not stopped yet."""
    with db.write() as connection:
        changed = _first_of(
            connection,
            job_id,
            (
                ("paused",),
                {"state": "queued", "queued_at": now(), "rung_at": None},
                [("status", {"state": "queued"})],
            ),
            (("pausing",), {"state": "running"}, [("status", {"state": "running"})]),
        )
        return _settled(connection, job_id, changed, "resume", already=("queued", "running"))


def edit(db: Database, job_id: str, *, metadata: Mapping[str, Any] | None, priority: int | None) -> Job:
    """Change what may change: the metadata at any time, the priority of a job that has not ended."""
    with db.write() as connection:
        hold(connection, job.c.id == job_id)
        before = _get(connection, job_id)
        values: dict[str, Any] = {}
        if metadata is not None:
            values["metadata"] = dict(metadata)
        if priority is not None and priority != before.priority:
            if before.is_terminal:
                raise Conflict(
                    f"the job has {before.state}: its priority means nothing now", code="job_ended"
                )
            values |= {"priority": priority, "rung_at": None}  # its message waits at the old priority
        if not values:
            return before
        row = change(connection, job.c.id == job_id, values)
        assert row is not None, "the row is held by this transaction"
        return Job.of(row)


def remove(db: Database, job_id: str) -> None:
    """Forget a job that no worker holds. Its rows go in small steps later (see `service.store.garbage`);
    a model that it made stays. Raises Conflict while it is queued or held."""
    removable = (*TERMINAL, "paused")
    with db.write() as connection:
        hold(connection, job.c.id == job_id)
        row = change(connection, and_(job.c.id == job_id, job.c.state.in_(removable)), {"deleted_at": now()})
        if row is None:
            state = _get(connection, job_id).state
            raise Conflict(f"the job is {state}: cancel it first, then delete it", code="job_active")


def _first_of(connection: Connection, job_id: str, *moves: Move) -> Job | None:
    hold(connection, job.c.id == job_id)
    for states, values, tellings in moves:
        where = and_(job.c.id == job_id, job.c.state.in_(states))
        row = change(connection, where, values, *tellings)
        if row is not None:
            return Job.of(row)
    return None


def _settled(
    connection: Connection, job_id: str, changed: Job | None, verb: str, *, already: Sequence[str]
) -> tuple[Job, bool]:
    if changed is not None:
        return changed, True
    found = _get(connection, job_id)
    if found.state in already:
        return found, False
    raise Conflict(f"cannot {verb} a job that is {found.state}", code="illegal_transition")


def unrung(db: Database, *, older_than: float, limit: int) -> list[Job]:
    """Queued jobs whose message was sent so long ago that it may be lost; the first to go first. Whoever
    queues a job sends its message at once, and the reconciler notes when it sends another. What was sent later
    than now was sent before the clock was set back: nobody knows how long ago."""
    sent_at = func.coalesce(job.c.rung_at, job.c.queued_at)
    return _jobs(
        db,
        select(job)
        .where(job.c.state == "queued", or_(sent_at <= now() - older_than, sent_at > now() + CLOCK_SECONDS))
        .order_by(job.c.priority, job.c.id)
        .limit(limit),
    )


def mark_rung(db: Database, job_id: str) -> None:
    """Note that the job's message has been sent again."""
    with db.write(durable=False) as connection:
        connection.execute(
            update(job).where(job.c.id == job_id, job.c.state == "queued").values(rung_at=now())
        )


def count_by_queue(db: Database) -> dict[str, int]:
    """How many jobs are queued, by queue."""
    with db.read() as connection:
        rows = connection.execute(
            select(job.c.queue, func.count()).where(job.c.state == "queued").group_by(job.c.queue)
        )
        return {queue: count for queue, count in rows}  # noqa: C416 - rows are not plain tuples


def count_by_state(db: Database) -> dict[str, int]:
    """How many jobs there are in each state; a state without any is missing."""
    with db.read() as connection:
        rows = connection.execute(
            select(job.c.state, func.count()).where(job.c.deleted_at.is_(None)).group_by(job.c.state)
        )
        return {state: count for state, count in rows}  # noqa: C416 - rows are not plain tuples


def held(db: Database) -> list[Job]:
    """Jobs that a worker holds, or held when it was lost."""
    return _jobs(db, select(job).where(job.c.state.in_(ACTIVE)).order_by(job.c.id))


def _jobs(db: Database, query: Select[Any]) -> list[Job]:
    with db.read() as connection:
        return [Job.of(row) for row in connection.execute(query)]


class JobLost(LeaseLost):
    """The job is no longer this attempt's."""

    code = "job_lost"
