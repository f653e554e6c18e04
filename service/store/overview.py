"""Everything that whoever watches the service wants to know of the database, in one read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, select

from service.store import setbacks, tables, workers
from service.store.batches import QUEUE
from service.store.database import Database, now
from service.store.models import LATEST
from service.store.setbacks import Setback
from service.store.tables import batch, job
from service.store.workers import Worker


@dataclass(frozen=True)
class Waiting:
    """What is queued in one queue, and for how long the oldest of it has been."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Overview:
    """The service at a moment. States and queues without anything are missing."""

    jobs: Mapping[str, int]
    batches: Mapping[str, int]
    waiting: Mapping[str, Waiting]
    silence: float
    """seconds since the job that has been silent longest told of its progress; 0 if none runs"""
    workers: Sequence[Worker]
    setbacks: Sequence[Setback]
    versions: Mapping[str, int]
    """of the model that each name stands for"""


def taken(db: Database) -> Overview:
    """As it is now."""
    with db.read() as connection:
        return Overview(
            jobs=_by_state(connection, job),
            batches=_by_state(connection, batch),
            waiting=_waiting(connection),
            silence=_silence(connection),
            workers=workers.alive_within(connection),
            setbacks=setbacks.within(connection),
            versions=_versions(connection),
        )


def _by_state(connection: Connection, table: Table) -> dict[str, int]:
    query = select(table.c.state, func.count()).group_by(table.c.state)
    if "deleted_at" in table.c:
        query = query.where(table.c.deleted_at.is_(None))
    return {state: count for state, count in connection.execute(query)}  # noqa: C416 - rows are not plain tuples


def _waiting(connection: Connection) -> dict[str, Waiting]:
    waited = now() - func.min(job.c.queued_at)
    queued = select(job.c.queue, func.count(), waited).where(
        job.c.state == "queued", job.c.deleted_at.is_(None)
    )
    found = {
        queue: Waiting(count, seconds)
        for queue, count, seconds in connection.execute(queued.group_by(job.c.queue))
    }
    images = select(func.count(), now() - func.min(batch.c.queued_at)).where(batch.c.state == "queued")
    count, seconds = connection.execute(images).one()
    return found | ({QUEUE: Waiting(count, seconds)} if count else {})


def _silence(connection: Connection) -> float:
    silent = select(now() - func.min(job.c.last_progress_at)).where(job.c.state == "running")
    return max(0.0, connection.execute(silent).scalar_one() or 0.0)


def _versions(connection: Connection) -> dict[str, int]:
    model, alias = tables.model, tables.alias
    named = select(alias.c.name, model.c.version).join(model, model.c.id == alias.c.model_id)
    newest = select(func.max(model.c.version)).where(model.c.task == "classification")
    latest = connection.execute(newest).scalar_one()
    found = {name: version for name, version in connection.execute(named)}  # noqa: C416 - rows are not plain tuples
    return found if latest is None else {LATEST: latest} | found
