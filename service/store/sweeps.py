"""Sweeps: many jobs that were asked for at once. Their jobs are jobs like any other, on the same queues.

A sweep has no state of its own, its members' states are counted whenever somebody asks. Those of one sweep
that wait are `job.sweep_id = ? AND state = 'queued'`, in the order of their ids, which is that of their numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, func, insert, select

from service.errors import NotFound
from service.store import datasets, jobs, tables, workers
from service.store.database import Database, now
from service.store.events import change_all, hold
from service.store.identifiers import new_id
from service.store.jobs import ACTIVE, CANCEL, QUEUED, TERMINAL, Idempotency, Job, State
from service.store.keys import Submitter
from service.store.tables import job, sweep, sweep_member
from service.sweep import Member

SweepState = Literal["queued", "running", "cancelling", "paused", "succeeded", "failed", "cancelled"]
MemberState = Literal[State, "deleted"]
_LIVING = and_(job.c.id == sweep_member.c.job_id, job.c.deleted_at.is_(None))


@dataclass(frozen=True)
class Sweep:
    """A row of the sweep table, and how many of its members are in which state."""

    id: str
    preset: str | None
    spec: dict[str, Any]
    search: dict[str, Any]
    metric: str
    priority: int
    metadata: dict[str, Any]
    size: int
    created_at: float
    counts: dict[MemberState, int]

    @property
    def state(self) -> SweepState:
        """Of its members that are left. It is `running` from the first that begins to the last that ends, and
        `succeeded` if all have; `failed` if any has and none was cancelled."""
        there = {state for state, count in self.counts.items() if count}
        if "cancelling" in there:
            return "cancelling"
        if there.intersection(ACTIVE):
            return "running"
        if "queued" in there:
            return "running" if there.intersection(TERMINAL) else "queued"
        for state in ("paused", "cancelled", "failed"):
            if state in there:
                return state
        return "succeeded"


@dataclass(frozen=True)
class MemberRow:
    """A member, and its job as it is now; of a job that was deleted only what the sweep itself knows."""

    number: int
    job_id: str
    changes: dict[str, Any]
    parameter_count: int
    state: MemberState
    progress: dict[str, Any]
    metrics: dict[str, float]
    runtime_seconds: float | None
    model_id: str | None
    error: dict[str, Any] | None


def submit(
    db: Database,
    members: Sequence[Member],
    *,
    answer: Callable[[Sweep, list[MemberRow]], dict[str, Any]],
    spec: Mapping[str, Any],
    search: Mapping[str, Any],
    metric: str,
    preset: str | None,
    metadata: Mapping[str, Any],
    priority: int,
    max_attempts: int,
    max_queued: int,
    idempotency: Idempotency | None = None,
    submitter: Submitter | None = None,
) -> tuple[dict[str, Any], list[Job]]:
    """Accept a sweep and all its jobs, or none of them, in one transaction. Returns what `answer` makes of it,
    and the jobs to ring for: none if the idempotency key has had its answer before.

    Raises as `jobs.submit` does; TooManyQueued if not all of them may wait."""
    with db.write() as connection:
        if idempotency is not None:
            earlier = jobs.earlier_answer(connection, idempotency)
            if earlier is not None:
                return earlier, []
        jobs.require_room(connection, len(members), max_queued=max_queued, submitter=submitter)
        row: dict[str, Any] = {
            "id": new_id("sweep"),
            "preset": preset,
            "spec": dict(spec),
            "search": dict(search),
            "metric": metric,
            "priority": priority,
            "metadata": dict(metadata),
            "size": len(members),
            "created_at": connection.execute(select(now())).scalar_one(),
        }
        connection.execute(insert(sweep), row)
        made = _insert_jobs(connection, members, row, max_attempts, submitter)
        _insert_members(connection, members, made)
        body = answer(Sweep(**row, counts={"queued": len(members)}), _members(connection, row["id"]))
        jobs.keep_answer(connection, idempotency, body)
        return body, made


def _insert_jobs(
    connection: Connection,
    members: Sequence[Member],
    of: Mapping[str, Any],
    max_attempts: int,
    submitter: Submitter | None,
) -> list[Job]:
    moment = of["created_at"]
    devices = {member.spec.device for member in members}
    queues = {device: workers.queue_within(connection, device) for device in devices}
    rows = [
        jobs.first_values(
            member.spec,
            preset=of["preset"],
            metadata=of["metadata"],
            priority=of["priority"],
            max_attempts=max_attempts,
            submitter=submitter,
        )
        | {
            "sweep_id": of["id"],
            "queue": queues[member.spec.device],
            "queued_at": moment,
            "created_at": moment,
        }
        for member in members
    ]
    connection.execute(insert(job), rows)
    told = [
        {"job_id": row["id"], "seq": 1, "type": type_, "data": dict(data), "time": moment}
        for row in rows
        for type_, data in QUEUED
    ]
    connection.execute(insert(tables.event), told)
    specs = [member.spec for member in members]
    datasets.use(connection, [(row["id"], spec) for row, spec in zip(rows, specs, strict=True)])
    found = connection.execute(select(job).where(job.c.sweep_id == of["id"]))
    made = {row.id: Job.of(row) for row in found}
    return [made[row["id"]] for row in rows]


def _insert_members(connection: Connection, members: Sequence[Member], made: Sequence[Job]) -> None:
    rows = [
        {
            "sweep_id": one.sweep_id,
            "number": number,
            "job_id": one.id,
            "changes": member.changes,
            "parameter_count": one.parameter_count,
        }
        for number, (member, one) in enumerate(zip(members, made, strict=True))
    ]
    connection.execute(insert(sweep_member), rows)


def get(db: Database, sweep_id: str) -> Sweep:
    """Raises NotFound."""
    with db.read() as connection:
        return _get(connection, sweep_id)


def get_with_members(db: Database, sweep_id: str) -> tuple[Sweep, list[MemberRow]]:
    """A sweep and its members by number, as they were at one moment. Raises NotFound."""
    with db.read() as connection:
        return _get(connection, sweep_id), _members(connection, sweep_id)


def _get(connection: Connection, sweep_id: str) -> Sweep:
    row = connection.execute(select(sweep).where(sweep.c.id == sweep_id)).first()
    if row is None:
        raise NotFound(f"there is no sweep {sweep_id!r}", code="sweep_not_found")
    return _counted(connection, [row])[0]


def page(db: Database, *, limit: int, after: str | None = None) -> tuple[list[Sweep], bool]:
    """Sweeps, newest first, those older than the id `after`; and whether there are more."""
    query = select(sweep).order_by(sweep.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(sweep.c.id < after)
    with db.read() as connection:
        found = connection.execute(query).all()
        return _counted(connection, found[:limit]), len(found) > limit


def _counted(connection: Connection, rows: Iterable[Any]) -> list[Sweep]:
    found = list(rows)
    counts: dict[str, dict[MemberState, int]] = {row.id: {} for row in found}
    grouped = (
        select(job.c.sweep_id, job.c.state, func.count().label("number"))
        .where(job.c.sweep_id.in_(list(counts)), job.c.deleted_at.is_(None))
        .group_by(job.c.sweep_id, job.c.state)
    )
    for row in connection.execute(grouped):
        counts[row.sweep_id][row.state] = row.number
    for row in found:
        gone = row.size - sum(counts[row.id].values())
        if gone:
            counts[row.id]["deleted"] = gone
    return [Sweep(**row._mapping, counts=counts[row.id]) for row in found]


def _members(connection: Connection, sweep_id: str) -> list[MemberRow]:
    member = sweep_member.c
    query = (
        select(
            *(member.number, member.job_id, member.changes, member.parameter_count),
            *(job.c.state, job.c.progress, job.c.metrics, job.c.runtime_seconds, job.c.model_id, job.c.error),
        )
        .select_from(sweep_member.outerjoin(job, _LIVING))
        .where(member.sweep_id == sweep_id)
        .order_by(member.number)
    )
    return [_member(row) for row in connection.execute(query)]


def _member(row: Any) -> MemberRow:
    return MemberRow(
        number=row.number,
        job_id=row.job_id,
        changes=row.changes,
        parameter_count=row.parameter_count,
        state=row.state or "deleted",
        progress=row.progress or {},
        metrics=row.metrics or {},
        runtime_seconds=row.runtime_seconds,
        model_id=row.model_id,
        error=row.error,
    )


def unended(db: Database, sweep_id: str) -> int:
    """How many of its jobs wait or are trained."""
    there = job.c.state.in_(("queued", *ACTIVE))
    query = select(func.count()).where(job.c.sweep_id == sweep_id, there, job.c.deleted_at.is_(None))
    with db.read() as connection:
        return connection.execute(query).scalar_one()


def waiting(db: Database, sweep_id: str, *, queue: str, priority: int) -> list[Job]:
    """Its jobs that wait in that queue with that priority and have never begun, in the order of their numbers."""
    query = select(job).where(
        job.c.sweep_id == sweep_id,
        job.c.state == "queued",
        job.c.attempt == 0,
        job.c.queue == queue,
        job.c.priority == priority,
        job.c.deleted_at.is_(None),
    )
    with db.read() as connection:
        return [Job.of(row) for row in connection.execute(query.order_by(job.c.id))]


def cancel(db: Database, sweep_id: str) -> tuple[Sweep, bool]:
    """Ask for all members to end, as `jobs.cancel` does for one; those that have ended stay as they are.
    Returns the sweep and whether anything changed. Raises NotFound."""
    of_sweep = job.c.sweep_id == sweep_id
    with db.write() as connection:
        _get(connection, sweep_id)
        hold(connection, of_sweep)
        changed = [
            change_all(connection, and_(of_sweep, job.c.state.in_(states)), values, *tellings)
            for states, values, tellings in CANCEL
        ]
        return _get(connection, sweep_id), any(changed)
