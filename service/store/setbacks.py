"""What went wrong with jobs and batches, counted in the transaction in which it did: so it is neither forgotten nor
counted twice, whichever process saw it, and outlives that process and the job."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, select, update

from service.store.database import insert_new
from service.store.tables import setback

Kind = Literal["job", "batch"]
LOST = ("lease_expired", "worker_died")  # causes that cost a worker, and a job one of its attempts
LEFT = "worker_left"  # it was told to stop, and has handed back what it had


@dataclass(frozen=True)
class Setback:
    """How often a lease was lost or given back for that `cause`, or something failed with that code."""

    kind: Kind
    becomes: str
    cause: str
    count: int


def note(connection: Connection, kind: Kind, becomes: str, cause: str) -> None:
    """One more. The last thing that a transaction does: until it ends nobody else can note the same."""
    key = {"kind": kind, "becomes": becomes, "cause": cause}
    columns = setback.c
    connection.execute(insert_new(connection, setback), key | {"count": 0})
    connection.execute(
        update(setback)
        .where(columns.kind == kind, columns.becomes == becomes, columns.cause == cause)
        .values(count=columns.count + 1)
    )


def within(connection: Connection) -> Sequence[Setback]:
    """All that there ever were."""
    return [Setback(**row._mapping) for row in connection.execute(select(setback))]
