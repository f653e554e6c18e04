"""What is kept for how long: the policy of the settings, over what has ended. What it lets go of becomes garbage, whose
bytes `service.store.garbage` deletes in small steps.

A checkpoint that a model version is of is never let go of, so neither is what `latest`, an alias, its history or a
teacher's name points at: models are what the service is there for. Nor is anything of a job or a batch that has not
ended, so that no worker can be surprised: whether it has is asked again in the statement that deletes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, false, func, select, update

from service.store.batches import TERMINAL as BATCH_ENDS
from service.store.database import Database, now
from service.store.jobs import TERMINAL as JOB_ENDS
from service.store.tables import batch, checkpoint, job, model

DAY = 86_400.0
ROWS_A_STEP = 100


@dataclass(frozen=True)
class Policy:
    """Days that something outlives the end of its job or batch; None: for good."""

    checkpoints_days: float | None = None
    batches_days: float | None = None


@dataclass(frozen=True)
class Old:
    """What a policy would let go of, or has. Bytes are those of the weights, states and answers themselves."""

    checkpoints: int = 0
    states: int = 0  # resumable ones, of checkpoints that stay since a model is of them
    batches: int = 0
    bytes: int = 0


def old(db: Database, policy: Policy) -> Old:
    """What the policy lets go of at this moment. Changes nothing."""
    with db.read() as connection:
        leaving, states, batches = (
            tuple(connection.execute(query).one())
            for query in (
                _measured(
                    _leaving(policy), checkpoint.c.weights_size + func.coalesce(checkpoint.c.state_size, 0)
                ),
                _measured(_outlived(policy), checkpoint.c.state_size),
                select(func.count(), func.coalesce(func.sum(batch.c.results_size), 0)).where(_over(policy)),
            )
        )
    return Old(leaving[0], states[0], batches[0], int(leaving[1] + states[1] + batches[1]))


def apply(db: Database, policy: Policy, *, seconds: float) -> int:
    """Let go for at most about `seconds`; returns how many rows were touched. Safe in several processes, and beside
    workers."""
    deadline = time.monotonic() + seconds
    touched = 0
    steps: tuple[Callable[[Database, Policy], int], ...] = (_drop_checkpoints, _drop_states, _drop_batches)
    for step in steps:
        while time.monotonic() < deadline and (count := step(db, policy)):
            touched += count
    return touched


def _measured(where: ColumnElement[bool], size: ColumnElement[Any]) -> Select[Any]:
    return (
        select(func.count(), func.coalesce(func.sum(size), 0))
        .select_from(checkpoint.join(job, job.c.id == checkpoint.c.job_id))
        .where(where)
    )


def _ended(days: float | None) -> ColumnElement[bool]:
    """Of a job, so many days ago."""
    if days is None:
        return false()
    return and_(job.c.state.in_(JOB_ENDS), job.c.finished_at < now() - days * DAY)


def _leaving(policy: Policy) -> ColumnElement[bool]:
    used = select(model.c.checkpoint_id)
    return and_(_ended(policy.checkpoints_days), checkpoint.c.id.not_in(used))


def _outlived(policy: Policy) -> ColumnElement[bool]:
    used = select(model.c.checkpoint_id)
    return and_(
        _ended(policy.checkpoints_days), checkpoint.c.id.in_(used), checkpoint.c.state_blob.is_not(None)
    )


def _over(policy: Policy) -> ColumnElement[bool]:
    if policy.batches_days is None:
        return false()
    return and_(batch.c.state.in_(BATCH_ENDS), batch.c.finished_at < now() - policy.batches_days * DAY)


def _some(where: ColumnElement[bool]) -> Select[Any]:
    joined = checkpoint.join(job, job.c.id == checkpoint.c.job_id)
    return select(checkpoint.c.id).select_from(joined).where(where).limit(ROWS_A_STEP)


def _drop_checkpoints(db: Database, policy: Policy) -> int:
    with db.write(durable=False) as connection:
        return connection.execute(
            delete(checkpoint).where(checkpoint.c.id.in_(_some(_leaving(policy))))
        ).rowcount


def _drop_states(db: Database, policy: Policy) -> int:
    nothing = {"state_blob": None, "state_sha256": None, "state_size": None}
    with db.write(durable=False) as connection:
        where = checkpoint.c.id.in_(_some(_outlived(policy)))
        return connection.execute(update(checkpoint).where(where).values(nothing)).rowcount


def _drop_batches(db: Database, policy: Policy) -> int:
    with db.write(durable=False) as connection:
        some = select(batch.c.id).where(_over(policy)).limit(ROWS_A_STEP)
        return connection.execute(delete(batch).where(batch.c.id.in_(some))).rowcount
