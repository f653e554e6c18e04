"""Reports of finished jobs, what each network said of the test examples, and the curves of regressions.

A report is stored by the transaction that ends its job (`models.finish`), so that there is one exactly of
the jobs that succeeded. The answers are bytes in chunks, written before; those of a save that lost its job
are garbage and collected."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, func, insert, or_, select

from service.store import blobs
from service.store.attempts import Curve
from service.store.blobs import Damaged
from service.store.database import Database, now
from service.store.tables import curve, report


@dataclass(frozen=True)
class Draft:
    """A report that is yet to be stored: its data as JSON, and a classification's answers. What it says of the
    calibration and of the form of bytes is JSON that is stored with the model."""

    data: Mapping[str, Any]
    answers: bytes | None
    calibration: Mapping[str, Any] | None = None
    quantized: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """A stored report. The answers are `answers_size` bytes, of a classification only."""

    job_id: str
    data: dict[str, Any]
    answers_blob: str | None
    answers_sha256: str | None
    answers_size: int | None
    created_at: float


def write_answers(db: Database, draft: Draft) -> str | None:
    """Write the answers ahead of the transaction that makes them visible. Returns the name of their chunks."""
    return None if draft.answers is None else blobs.write(db, draft.answers)


def insert_into(connection: Connection, job_id: str, draft: Draft, blob: str | None) -> None:
    """Store the report, within the transaction that ends its job."""
    values: dict[str, Any] = {"job_id": job_id, "data": dict(draft.data), "created_at": now()}
    if draft.answers is not None and blob is not None:
        blobs.require(connection, {blob: len(draft.answers)})
        values |= {
            "answers_blob": blob,
            "answers_sha256": hashlib.sha256(draft.answers).hexdigest(),
            "answers_size": len(draft.answers),
        }
    connection.execute(insert(report).values(values))


def find(db: Database, job_id: str) -> Report | None:
    """The report of a job; None if it has none."""
    with db.read() as connection:
        row = connection.execute(select(report).where(report.c.job_id == job_id)).first()
    return None if row is None else Report(**row._mapping)


def answers(db: Database, found: Report) -> bytes:
    """The answers of a classification's report, as they were stored. Raises blobs.Damaged."""
    assert found.answers_blob is not None
    assert found.answers_size is not None
    pieces = blobs.read(db, found.answers_blob, start=0, stop=found.answers_size)
    data = b"".join(pieces)
    if hashlib.sha256(data).hexdigest() != found.answers_sha256:
        raise Damaged(f"the answers of {found.job_id} do not match their hash")
    return data


def curves(db: Database, job_id: str, *, at_most: int) -> list[Curve]:
    """What a regression predicted over its test grid, by step; thinned evenly to at most so many (at least
    2), first and last kept. A worker stores about `worker.record.CURVES_OF_A_RUN` of a run."""
    return _curves(db, job_id, _thinned(job_id, at_most))


def curves_at(db: Database, job_id: str, steps: Collection[int]) -> list[Curve]:
    """Those of these steps that are stored, by step."""
    return _curves(db, job_id, steps)


def curve_steps(db: Database, job_id: str, *, at_most: int) -> list[int]:
    """The first steps that a curve is stored of."""
    query = select(curve.c.step).where(curve.c.job_id == job_id).order_by(curve.c.step).limit(at_most)
    with db.read() as connection:
        return list(connection.execute(query).scalars())


def _curves(db: Database, job_id: str, steps: Collection[int] | Select[tuple[int]]) -> list[Curve]:
    query = select(curve).where(curve.c.job_id == job_id, curve.c.step.in_(steps)).order_by(curve.c.step)
    with db.read() as connection:
        rows = connection.execute(query).all()
    return [Curve(row.step, row.epoch, np.frombuffer(row.outputs, "<f4").astype(np.float32)) for row in rows]


def _thinned(job_id: str, at_most: int) -> Select[tuple[int]]:
    """The steps to show: of the places 0 to `last`, the first at or after each of `at_most` even marks."""
    numbered = (
        select(
            curve.c.step,
            (func.row_number().over(order_by=curve.c.step) - 1).label("place"),
            (func.count().over() - 1).label("last"),
        )
        .where(curve.c.job_id == job_id)
        .subquery()
    )
    place, last, parts = numbered.c.place, func.nullif(numbered.c.last, 0), at_most - 1
    begins = place * parts // last > (place - 1) * parts // last
    return select(numbered.c.step).where(or_(place == 0, begins))
