"""Checkpoints: bytes in a blob, then one header row that makes them visible.

A crash between the two leaves chunks that no header names; they are garbage and collected. The header
carries hashes, so that damage is found when the bytes are read, and the checkpoint before is used.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, insert, select, update

from service.errors import NotFound
from service.store import blobs, tables
from service.store.attempts import Attempt, lost
from service.store.blobs import Damaged
from service.store.database import Database, now
from service.store.events import change
from service.store.identifiers import new_id
from service.store.tables import checkpoint, job

STATES_KEPT = 2  # the newest, and the one before it in case the newest is damaged

Reason = Literal["scheduled", "final", "paused", "released"]


@dataclass(frozen=True)
class Checkpoint:
    """A header. `step` and `epoch` say when, `bad` that its bytes no longer match their hash."""

    id: str
    job_id: str | None
    attempt: int
    step: int
    epoch: float
    reason: Reason
    metrics: dict[str, float]
    spec: dict[str, Any]
    bad: bool
    weights_blob: str
    weights_sha256: str
    weights_size: int
    state_blob: str | None
    state_sha256: str | None
    state_size: int | None
    created_at: float


@dataclass(frozen=True)
class Kept:
    """Which checkpoints of a job stay: all, or the `newest` latest and the best by `best_by`."""

    everything: bool
    newest: int
    best_by: str | None = None  # a metric; larger is better if it ends in accuracy


def save(
    db: Database,
    attempt: Attempt,
    *,
    step: int,
    epoch: float,
    reason: Reason,
    metrics: Mapping[str, float],
    spec: Mapping[str, Any],
    weights: bytes,
    state: bytes | None,
) -> Checkpoint:
    """Store a checkpoint of a running attempt. Raises JobLost; then nothing is visible."""
    weights_blob = blobs.write(db, weights)
    state_blob = blobs.write(db, state) if state is not None else None
    sizes = {weights_blob: len(weights)}
    if state is not None and state_blob is not None:
        sizes[state_blob] = len(state)
    identifier = new_id("ckpt")
    values = {
        "id": identifier,
        "job_id": attempt.job_id,
        "attempt": attempt.number,
        "step": step,
        "epoch": epoch,
        "reason": reason,
        "metrics": dict(metrics),
        "spec": dict(spec),
        "bad": False,
        "weights_blob": weights_blob,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "weights_size": len(weights),
        "state_blob": state_blob,
        "state_sha256": hashlib.sha256(state).hexdigest() if state is not None else None,
        "state_size": len(state) if state is not None else None,
        "created_at": now(),
    }
    told = {"id": identifier, "step": step, "epoch": epoch, "reason": reason}
    with db.write() as connection:
        row = change(connection, attempt.holds, {"last_progress_at": now()}, ("checkpoint", told))
        if row is None:
            raise lost(attempt)
        blobs.require(connection, sizes)
        values["key_id"] = row.key_id
        return _of(connection.execute(insert(checkpoint).values(values).returning(*checkpoint.c)).one())


def prune(db: Database, job_id: str, kept: Kept) -> None:
    """Let go of the checkpoints that the policy does not keep and no model uses, and of the resumable
    state of all but the newest. Their bytes become garbage."""
    with db.write() as connection:
        found = [_of(row) for row in connection.execute(_of_job(job_id))]
        used = set(
            connection.execute(
                select(tables.model.c.checkpoint_id).where(tables.model.c.job_id == job_id)
            ).scalars()
        )
        whole = [one for one in found if not one.bad]
        staying = used | {one.id for one in _staying(whole, kept)}
        leaving = [one.id for one in found if one.id not in staying]
        connection.execute(checkpoint.delete().where(checkpoint.c.id.in_(leaving)))
        stateless = [one.id for one in whole if one.state_blob][STATES_KEPT:]
        connection.execute(
            update(checkpoint)
            .where(checkpoint.c.id.in_(stateless))
            .values(state_blob=None, state_sha256=None, state_size=None)
        )


def _staying(whole: Sequence[Checkpoint], kept: Kept) -> list[Checkpoint]:
    """`whole` is newest first."""
    if kept.everything:
        return list(whole)
    staying = list(whole[: kept.newest])
    rated = [one for one in whole if kept.best_by in one.metrics]
    if kept.best_by is not None and rated:
        sign = 1 if kept.best_by.endswith("accuracy") else -1
        staying.append(max(rated, key=lambda one: sign * one.metrics[str(kept.best_by)]))
    return staying


def of_job(db: Database, job_id: str) -> list[Checkpoint]:
    """A job's checkpoints, newest first."""
    with db.read() as connection:
        return [_of(row) for row in connection.execute(_of_job(job_id))]


def _of_job(job_id: str) -> Select[Any]:
    return (
        select(checkpoint)
        .where(checkpoint.c.job_id == job_id)
        .order_by(checkpoint.c.step.desc(), checkpoint.c.id.desc())
    )


def get(db: Database, checkpoint_id: str) -> Checkpoint:
    """Raises NotFound."""
    with db.read() as connection:
        row = connection.execute(select(checkpoint).where(checkpoint.c.id == checkpoint_id)).first()
    if row is None:
        raise NotFound(f"there is no checkpoint {checkpoint_id!r}", code="checkpoint_not_found")
    return _of(row)


def weights(db: Database, header: Checkpoint) -> bytes:
    """The weights file. Raises Damaged; then the checkpoint is marked and an event says so."""
    return _verified(db, header, header.weights_blob, header.weights_size, header.weights_sha256)


def check_weights(db: Database, header: Checkpoint) -> None:
    """As `weights`, but in the memory of one piece, for a file that is then sent piece by piece."""
    try:
        digest = hashlib.sha256()
        for piece in blobs.read(db, header.weights_blob, start=0, stop=header.weights_size):
            digest.update(piece)
        if digest.hexdigest() != header.weights_sha256:
            raise Damaged(f"the bytes of {header.id} do not match their hash")
    except Damaged as damage:
        _mark_bad(db, header, str(damage))
        raise


def state(db: Database, header: Checkpoint) -> bytes:
    """The resumable state of a checkpoint that has one. Raises Damaged like `weights`."""
    assert header.state_blob is not None
    assert header.state_size is not None
    assert header.state_sha256 is not None
    return _verified(db, header, header.state_blob, header.state_size, header.state_sha256)


def _verified(db: Database, header: Checkpoint, blob_id: str, size: int, sha256: str) -> bytes:
    try:
        data = b"".join(blobs.read(db, blob_id, start=0, stop=size))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Damaged(f"the bytes of {header.id} do not match their hash")
    except Damaged as damage:
        _mark_bad(db, header, str(damage))
        raise
    return data


def _mark_bad(db: Database, header: Checkpoint, detail: str) -> None:
    with db.write() as connection:
        marked = connection.execute(
            update(checkpoint)
            .where(checkpoint.c.id == header.id, checkpoint.c.bad.is_(False))
            .values(bad=True)
            .returning(checkpoint.c.job_id)
        ).first()
        if marked is not None and marked.job_id is not None:
            told = {"code": "checkpoint_damaged", "id": header.id, "detail": detail}
            change(connection, job.c.id == marked.job_id, {}, ("warning", told))


def resumable(db: Database, job_id: str) -> Iterator[tuple[Checkpoint, bytes, bytes]]:
    """Whole checkpoints to go on from, newest first, with their weights and state; a damaged one is
    marked and passed over."""
    for header in of_job(db, job_id):
        if header.bad or header.state_blob is None:
            continue
        try:
            yield header, weights(db, header), state(db, header)
        except Damaged:
            continue


def _of(row: Any) -> Checkpoint:
    return Checkpoint(**{name: row._mapping[name] for name in Checkpoint.__dataclass_fields__})
