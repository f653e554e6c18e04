"""A job's events: numbered without gaps, stored in the transaction of what they tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from service.store import tables
from service.store.database import Database, now
from service.store.tables import job

EventType = Literal["status", "progress", "metric", "checkpoint", "log", "warning", "end"]


@dataclass(frozen=True)
class Event:
    """What happened to a job. `seq` counts from 1 within the job."""

    job_id: str
    seq: int
    type: EventType
    data: dict[str, Any]
    time: float


_CHANGE = update(job).returning(*job.c, now().label("clock"))

Telling = tuple[EventType, Mapping[str, Any]]


def change(
    connection: Connection, where: ColumnElement[bool], values: Mapping[str, Any], *tellings: Telling
) -> Row[Any] | None:
    """The one way a job row changes: a conditional UPDATE and the events that tell of it.

    Returns the row as it is now, or None if `where` did not hold, and then nothing has changed.
    A telling's value may be a column of the row, given as `job.c.name`.
    """
    rows = change_all(connection, where, values, *tellings)
    return rows[0] if rows else None


def change_all(
    connection: Connection, where: ColumnElement[bool], values: Mapping[str, Any], *tellings: Telling
) -> Sequence[Row[Any]]:
    """As `change`, of every job that `where` finds. Returns the rows as they are now, in no order."""
    rows = connection.execute(
        _CHANGE.where(where, job.c.deleted_at.is_(None)).values(
            last_event=job.c.last_event + len(tellings), **values
        )
    ).all()
    record(connection, rows, tellings)
    return rows


def hold(connection: Connection, where: ColumnElement[bool]) -> None:
    """Let nobody else change the job rows that `where` finds until this transaction ends, so that the
    conditional updates that follow all meet one state. SQLite's writers are alone as it is."""
    connection.execute(select(job.c.id).where(where).order_by(job.c.id).with_for_update())


def record(connection: Connection, rows: Sequence[Row[Any]], tellings: Sequence[Telling]) -> None:
    """Store the events that tell of each row, the last of them numbered as the row says."""
    told = [
        {
            "job_id": row.id,
            "seq": row.last_event - len(tellings) + 1 + index,
            "type": type_,
            "data": {
                key: row._mapping[value.name] if isinstance(value, ColumnElement) else value
                for key, value in data.items()
            },
            "time": row.clock,
        }
        for row in rows
        for index, (type_, data) in enumerate(tellings)
    ]
    if told:
        connection.execute(insert(tables.event), told)


def page(db: Database, job_id: str, *, after: int, limit: int) -> list[Event]:
    """Up to `limit` events with a number over `after`, in order."""
    columns = tables.event.c
    with db.read() as connection:
        rows = connection.execute(
            select(tables.event)
            .where(columns.job_id == job_id, columns.seq > after)
            .order_by(columns.seq)
            .limit(limit)
        )
        return [Event(**row._mapping) for row in rows]


def heads(db: Database, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the newest event of each of these jobs; a deleted job is missing."""
    with db.read() as connection:
        rows = connection.execute(
            select(job.c.id, job.c.last_event).where(job.c.id.in_(job_ids), job.c.deleted_at.is_(None))
        )
        return {row.id: row.last_event for row in rows}
