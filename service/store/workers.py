"""The processes that train, or read batches, and are alive, so that jobs go where someone serves them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, exists, func, literal, select, update

from service.store.database import Database, insert_new, now
from service.store.leases import Held, LeaseLost
from service.store.tables import job, worker

ALIVE_SECONDS = 45.0  # more than three of the heartbeats that a worker sends


@dataclass(frozen=True)
class Worker:
    """One process. `job_id`: what it works on, a job or a batch. `figures`: what it has counted since it began."""

    name: str
    queues: str
    device: str
    job_id: str | None
    started_at: float
    seen_at: float
    figures: dict[str, Any] | None


def seen(
    db: Database,
    name: str,
    *,
    queues: Sequence[str],
    device: str,
    job_id: str | None,
    figures: Mapping[str, float] | None = None,
    renewing: Held | None = None,
    lease_seconds: float = 0.0,
) -> bool:
    """A worker says that it lives, and what it has counted. What it holds is renewed in the same transaction: the
    database bears half as many again as of two. Returns whether it still holds it."""
    values = {
        "queues": ",".join(queues),
        "device": device,
        "job_id": job_id,
        "figures": None if figures is None else dict(figures),
        "seen_at": now(),
    }
    with db.write(durable=False) as connection:
        is_held = renewing is None or _is_renewed(connection, renewing, lease_seconds)
        known = connection.execute(update(worker).where(worker.c.name == name).values(values))
        if known.rowcount == 0:
            connection.execute(insert_new(connection, worker).values(name=name, started_at=now(), **values))
    return is_held


def _is_renewed(connection: Connection, held: Held, lease_seconds: float) -> bool:
    try:
        held.renew(connection, lease_seconds=lease_seconds)
    except LeaseLost:
        return False
    return True


def gone(db: Database, name: str) -> None:
    """A worker has left."""
    with db.write(durable=False) as connection:
        connection.execute(delete(worker).where(worker.c.name == name))


def alive(db: Database) -> list[Worker]:
    """Workers seen of late, by name."""
    with db.read() as connection:
        return alive_within(connection)


def alive_within(connection: Connection) -> list[Worker]:
    """As `alive`, in a transaction that is open."""
    recent = select(worker).where(worker.c.seen_at > now() - ALIVE_SECONDS)
    return [Worker(**row._mapping) for row in connection.execute(recent.order_by(worker.c.name))]


def serving(db: Database, queue: str) -> int:
    """How many live workers take jobs of the queue."""
    return sum(queue in one.queues.split(",") for one in alive(db))


def queue_for(device: str) -> str | ColumnElement[str]:
    """Where a job of that device waits, `gpu` or `cpu`, as SQL to go into the statement that stores it:
    `auto` goes to a GPU if a live worker has one."""
    if device != "auto":
        return "gpu" if device == "cuda" else "cpu"
    serving = exists().where(worker.c.seen_at > now() - ALIVE_SECONDS, worker.c.queues.contains("gpu"))
    return case((serving, "gpu"), else_="cpu")


def queue_now(db: Database, device: str) -> str:
    """Where such a job would wait at present."""
    with db.read() as connection:
        return queue_within(connection, device)


def queue_within(connection: Connection, device: str) -> str:
    """As `queue_now`, in a transaction that is open."""
    where = queue_for(device)
    return connection.execute(select(literal(where) if isinstance(where, str) else where)).scalar_one()


def forget_old(db: Database) -> None:
    """Drop those not seen for a day."""
    with db.write(durable=False) as connection:
        connection.execute(delete(worker).where(worker.c.seen_at < now() - 86_400.0))


def oldest_wait(db: Database, queues: Sequence[str]) -> float | None:
    """Seconds that the oldest queued job of these queues has waited; None if none waits."""
    query = select(now() - func.min(job.c.queued_at)).where(
        job.c.state == "queued", job.c.queue.in_(queues), job.c.deleted_at.is_(None)
    )
    with db.read() as connection:
        return connection.execute(query).scalar_one_or_none()
