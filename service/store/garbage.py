"""What nothing names any more is deleted in small steps, so that no writer waits long."""

import time

from sqlalchemy import ColumnElement, and_, delete, func, select, union_all

from service.store import tables
from service.store.blobs import ROWS_A_STEP
from service.store.database import Database, now
from service.store.identifiers import first_id_at
from service.store.jobs import IDEMPOTENCY_SECONDS
from service.store.tables import checkpoint, chunk, job

GRACE_SECONDS = 3600.0  # longer than any checkpoint takes from its first chunk to its header
SMALL_ROWS_A_STEP = 2000


def collect(db: Database, *, grace_seconds: float = GRACE_SECONDS, seconds: float = 2.0) -> int:
    """Delete for at most about `seconds`; returns how many rows went. Safe in several processes."""
    deadline = time.monotonic() + seconds
    removed = 0
    for step in (_deleted_jobs, _orphaned_chunks, _old_answers):
        while time.monotonic() < deadline and (count := step(db, grace_seconds)):
            removed += count
    return removed


def waiting(db: Database, *, grace_seconds: float = GRACE_SECONDS) -> tuple[int, int]:
    """Deleted jobs whose rows are still to go, and bytes of chunks that no header names. Changes nothing."""
    with db.read() as connection:
        jobs = select(func.count()).where(job.c.deleted_at.is_not(None))
        moment = connection.execute(select(now())).scalar_one()
        size = select(func.coalesce(func.sum(func.length(chunk.c.data)), 0)).where(
            _orphaned(moment - grace_seconds)
        )
        return connection.execute(jobs).scalar_one(), int(connection.execute(size).scalar_one())


def _orphaned(before: float) -> ColumnElement[bool]:
    """Of a chunk, that no header names its blob, which was begun before."""
    named = union_all(
        select(checkpoint.c.weights_blob),
        select(checkpoint.c.state_blob).where(checkpoint.c.state_blob.is_not(None)),
        select(tables.report.c.answers_blob).where(tables.report.c.answers_blob.is_not(None)),
        select(tables.batch.c.body_blob).where(tables.batch.c.body_blob.is_not(None)),
        select(tables.batch.c.results_blob),
        select(tables.dataset.c.blob),
    )
    return and_(chunk.c.blob_id < first_id_at("blob", before), chunk.c.blob_id.not_in(named))


def _orphaned_chunks(db: Database, grace_seconds: float) -> int:
    with db.read() as connection:
        moment = connection.execute(select(now())).scalar_one()
        orphans = connection.execute(
            select(chunk.c.blob_id, chunk.c.ordinal)
            .where(_orphaned(moment - grace_seconds))
            .limit(ROWS_A_STEP)
        ).all()
    if not orphans:
        return 0
    with db.write(durable=False) as connection:
        for blob_id, ordinal in orphans:
            connection.execute(delete(chunk).where(chunk.c.blob_id == blob_id, chunk.c.ordinal == ordinal))
    return len(orphans)


def _deleted_jobs(db: Database, _grace_seconds: float) -> int:
    """Take down one deleted job a little further: its series, its events, its checkpoints but those of
    models, and last the row itself."""
    with db.read() as connection:
        job_id = connection.execute(
            select(job.c.id).where(job.c.deleted_at.is_not(None)).limit(1)
        ).scalar_one_or_none()
    if job_id is None:
        return 0
    with db.write(durable=False) as connection:
        for table, key in ((tables.metric, "step"), (tables.curve, "step"), (tables.event, "seq")):
            steps = (
                select(table.c[key])
                .where(table.c.job_id == job_id)
                .order_by(table.c[key])
                .limit(SMALL_ROWS_A_STEP)
            )
            gone = connection.execute(
                delete(table).where(table.c.job_id == job_id, table.c[key].in_(steps.scalar_subquery()))
            )
            if gone.rowcount:
                return gone.rowcount
        used = select(tables.model.c.checkpoint_id).where(tables.model.c.job_id == job_id)
        connection.execute(
            delete(checkpoint).where(checkpoint.c.job_id == job_id, checkpoint.c.id.not_in(used))
        )
        return connection.execute(delete(job).where(job.c.id == job_id)).rowcount


def _old_answers(db: Database, _grace_seconds: float) -> int:
    with db.write(durable=False) as connection:
        old = tables.idempotency.c.created_at < now() - IDEMPOTENCY_SECONDS
        return connection.execute(delete(tables.idempotency).where(old)).rowcount
