"""What the worker that holds a job may do to it, and what happens when that worker is lost.

A claim raises `attempt`, the fencing number; every later write of the attempt carries it, and one that
no longer matches changes nothing and raises JobLost. A lease, renewed in database time, tells the
living from the dead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, case, null, or_, select

from service.store import setbacks, tables
from service.store.database import Database, insert_new, now
from service.store.events import Telling, change, hold
from service.store.jobs import ACTIVE, Job, JobLost, State
from service.store.tables import job


@dataclass(frozen=True)
class Attempt:
    """One worker's hold on one job."""

    job_id: str
    number: int

    @property
    def holds(self) -> ColumnElement[bool]:
        return and_(job.c.id == self.job_id, job.c.attempt == self.number, job.c.state.in_(ACTIVE))

    @property
    def held_id(self) -> str:
        return self.job_id

    def renew(self, connection: Connection, *, lease_seconds: float) -> None:
        """In a transaction that is open, which stays good. Raises JobLost."""
        if change(connection, self.holds, {"lease_until": now() + lease_seconds}) is None:
            raise lost(self)


@dataclass(frozen=True)
class Point:
    """One value of one series."""

    name: str
    step: int
    epoch: float
    value: float


@dataclass(frozen=True)
class Curve:
    """What a regression predicts over its test grid after a step; outputs (n,)."""

    step: int
    epoch: float
    outputs: NDArray[np.float32]


def claim(
    db: Database,
    job_id: str,
    *,
    worker: str,
    device: str,
    lease_seconds: float,
    code_version: str | None = None,
) -> Job | None:
    """Take a queued job. None if it is not queued (any more): the message came late or twice. The claim
    outlasts a crash of the database, or the next would have the same number. The job keeps the `code_version` of
    its first attempt, and loses it to one of another: it may then go on from what that other code made."""
    with db.write(durable=db.may_crash_alone) as connection:
        row = change(
            connection,
            and_(job.c.id == job_id, job.c.state == "queued"),
            {
                "state": "running",
                "attempt": job.c.attempt + 1,
                "worker": worker,
                "device": device,
                "lease_until": now() + lease_seconds,
                "code_version": case(
                    (or_(job.c.attempt == 0, job.c.code_version == code_version), code_version), else_=null()
                ),
                "started_at": case((job.c.started_at.is_(None), now()), else_=job.c.started_at),
                "last_progress_at": now(),
            },
            ("status", {"state": "running", "attempt": job.c.attempt, "device": device}),
        )
        return None if row is None else Job.of(row)


def state(db: Database, attempt: Attempt) -> State:
    """The job's state, in which a cancel or a pause shows. Raises JobLost."""
    with db.read() as connection:
        found = connection.execute(select(job.c.state).where(attempt.holds)).scalar_one_or_none()
    if found is None:
        raise lost(attempt)
    return found  # type: ignore[no-any-return]


def write_progress(
    db: Database,
    attempt: Attempt,
    *,
    progress: Mapping[str, Any],
    points: Sequence[Point] = (),
    figures: Iterable[Mapping[str, Any]] = (),
    curves: Sequence[Curve] = (),
    dataset_sha256: str | None = None,
) -> State:
    """Store where the run is, its new points and curves (each step of a series once, whoever stores it first)
    and one `metric` event for each set of figures taken whose points are new. Raises JobLost."""
    with db.write(durable=db.may_crash_alone) as connection:
        values: dict[str, Any] = {"progress": dict(progress), "last_progress_at": now()}
        if dataset_sha256 is not None:
            values["dataset_sha256"] = dataset_sha256
        tellings: list[Telling] = [("progress", progress)]
        if points or curves:
            held = connection.execute(select(job.c.metrics).where(attempt.holds).with_for_update()).first()
            if held is None:  # before the points: the job that they belong to may be gone
                raise lost(attempt)
            new = _insert_points(connection, attempt, points)
            _insert_curves(connection, attempt, curves)
            told = [figure for figure in figures if figure["step"] in new]
            tellings[:0] = [("metric", figure) for figure in told]
            values["metrics"] = _merged(held.metrics, told)
        row = change(connection, attempt.holds, values, *tellings)
        if row is None:
            raise lost(attempt)
        return row.state  # type: ignore[no-any-return]


def _insert_points(connection: Connection, attempt: Attempt, points: Sequence[Point]) -> set[int]:
    """The steps of which at least one point was new."""
    if not points:
        return set()
    moment = connection.execute(select(now())).scalar_one()
    rows = [
        {
            "job_id": attempt.job_id,
            "name": point.name,
            "step": point.step,
            "epoch": point.epoch,
            "value": point.value,
            "time": moment,
        }
        for point in points
    ]
    statement = insert_new(connection, tables.metric).returning(tables.metric.c.step)
    return set(connection.execute(statement, rows).scalars())


def _insert_curves(connection: Connection, attempt: Attempt, curves: Sequence[Curve]) -> None:
    rows = [
        {
            "job_id": attempt.job_id,
            "step": one.step,
            "epoch": one.epoch,
            "outputs": one.outputs.astype("<f4").tobytes(),
        }
        for one in curves
    ]
    if rows:
        connection.execute(insert_new(connection, tables.curve), rows)


def _merged(newest: Mapping[str, Any], figures: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    merged = dict(newest)
    for figure in figures:
        merged |= figure["metrics"]
    return merged


def tell(db: Database, attempt: Attempt, *tellings: Telling, values: Mapping[str, Any] | None = None) -> None:
    """Store events of the attempt, and columns that go with them. Raises JobLost."""
    with db.write() as connection:
        if change(connection, attempt.holds, values or {}, *tellings) is None:
            raise lost(attempt)


def fail(db: Database, attempt: Attempt, *, code: str, detail: str, runtime: float) -> None:
    """End the job: it cannot succeed. Raises JobLost."""
    error = {"code": code, "detail": detail}
    _end(db, attempt, "failed", runtime, {"error": error}, {"error": error}, cause=code)


def cancelled(db: Database, attempt: Attempt, *, runtime: float) -> None:
    """End the job, as was asked for. Raises JobLost."""
    _end(db, attempt, "cancelled", runtime, {}, {})


def _end(
    db: Database,
    attempt: Attempt,
    terminal: State,
    runtime: float,
    values: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    cause: str | None = None,
) -> None:
    told = {"state": terminal, **data}
    with db.write() as connection:
        row = change(
            connection,
            attempt.holds,
            _let_go(runtime) | {"state": terminal, "finished_at": now(), **values},
            ("status", told),
            ("end", told),
        )
        if row is None:
            raise lost(attempt)
        if cause is not None:
            setbacks.note(connection, "job", terminal, cause)


def paused(db: Database, attempt: Attempt, *, runtime: float) -> bool:
    """Stop for now, the checkpoint being stored. False if the pause was withdrawn meanwhile, or
    overtaken by a cancel: look at the state again."""
    with db.write() as connection:
        row = change(
            connection,
            and_(attempt.holds, job.c.state == "pausing"),
            _let_go(runtime) | {"state": "paused"},
            ("status", {"state": "paused"}),
        )
        return row is not None


def release(db: Database, attempt: Attempt, *, runtime: float) -> Job:
    """Hand the job back because the worker is told to leave; costs the job nothing. Returns it as it is
    then. Raises JobLost."""
    with db.write() as connection:
        job_now = _give_up(connection, attempt.holds, _let_go(runtime), crashed=0, reason=setbacks.LEFT)
        if job_now is None:
            raise lost(attempt)
        return job_now


def worker_lost(
    db: Database, attempt: Attempt, *, reason: str, lease_until: float | None = None
) -> Job | None:
    """The holder died: queue the job again, or fail it after `max_attempts` such losses. With
    `lease_until`, only if the lease still reads so. None if the attempt held nothing any more."""
    where = attempt.holds
    if lease_until is not None:
        where = and_(where, job.c.lease_until == lease_until)
    with db.write() as connection:
        return _give_up(connection, where, _let_go(0.0), crashed=1, reason=reason)


def _give_up(
    connection: Connection,
    where: ColumnElement[bool],
    values: Mapping[str, Any],
    *,
    crashed: int,
    reason: str,
) -> Job | None:
    """What a job becomes when nobody trains it: cancelled or paused if that was asked for, failed if it
    has lost too many workers, else queued."""
    common = dict(values) | {"crashes": job.c.crashes + crashed}
    told = {"reason": reason, "attempt": job.c.attempt}
    used_up = and_(_state_is("running"), job.c.crashes + crashed >= job.c.max_attempts)
    detail = f"{reason}: the job lost its worker too often; see its events and the worker's log"
    error = {"code": "worker_lost", "detail": detail}
    ended = {"finished_at": now()}
    outcomes: list[tuple[ColumnElement[bool], State, dict[str, Any]]] = [
        (_state_is("cancelling"), "cancelled", ended),
        (_state_is("pausing"), "paused", {}),
    ]
    if crashed:
        outcomes.append((used_up, "failed", ended | {"error": error}))
    outcomes.append((_state_is("running"), "queued", {"queued_at": now(), "rung_at": None}))
    hold(connection, where)
    for condition, becomes, extra in outcomes:
        tellings: list[Telling] = [("status", {"state": becomes, **told})]
        if "finished_at" in extra:
            tellings.append(("end", {"state": becomes, **({"error": error} if "error" in extra else {})}))
        row = change(connection, and_(where, condition), common | extra | {"state": becomes}, *tellings)
        if row is not None:
            setbacks.note(connection, "job", becomes, reason)
            return Job.of(row)
    return None


def _state_is(state: State) -> ColumnElement[bool]:
    return job.c.state == state


def _let_go(runtime: float) -> dict[str, Any]:
    return {
        "worker": null(),
        "lease_until": null(),
        "runtime_seconds": job.c.runtime_seconds + runtime,
    }


def lost(attempt: Attempt) -> JobLost:
    """What a write of a stale attempt raises."""
    return JobLost(f"attempt {attempt.number} does not hold {attempt.job_id} any more")
