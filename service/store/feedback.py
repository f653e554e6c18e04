"""Images that were read and kept on request, with what they are once somebody has said so."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, func, insert, null, select, update

from service.data.uploaded import Uploaded
from service.errors import Conflict, NotFound
from service.store.database import Database, now
from service.store.identifiers import new_id
from service.store.tables import feedback

MAX_EXAMPLES = 100_000  # of one dataset: 80 MB of pixels in memory while it is made


class FeedbackFull(Conflict):
    code = "feedback_full"


class NothingLabelled(Conflict):
    code = "nothing_labelled"


@dataclass(frozen=True)
class Sample:
    """A row of the feedback table; see there for the columns."""

    id: str
    model_id: str
    preprocessing: str
    pixels: bytes
    predicted: int
    confidence: float
    label: int | None
    created_at: float
    labelled_at: float | None

    @classmethod
    def of(cls, row: Any) -> "Sample":
        return cls(**(dict(row._mapping) | {"pixels": bytes(row.pixels)}))


@dataclass(frozen=True)
class Seen:
    """One image as a network saw it, (784,) uint8, and what it said."""

    pixels: NDArray[np.uint8]
    predicted: int
    confidence: float


def keep(db: Database, seen: Iterable[Seen], *, model_id: str, preprocessing: str, at_most: int) -> list[str]:
    """Store images, all or none. Returns their ids. Raises FeedbackFull over `at_most` in all."""
    rows: list[dict[str, Any]] = [
        {
            "id": new_id("fb"),
            "model_id": model_id,
            "preprocessing": preprocessing,
            "pixels": one.pixels.tobytes(),
            "predicted": one.predicted,
            "confidence": one.confidence,
        }
        for one in seen
    ]
    if not rows:
        return []
    with db.write() as connection:
        there = connection.execute(select(func.count()).select_from(feedback)).scalar_one()
        if there + len(rows) > at_most:
            raise FeedbackFull(
                f"{there:,} images are kept, and {len(rows):,} more are over the limit of {at_most:,} "
                "(NUMERAL_MAX_FEEDBACK): delete some, or ask without store"
            )
        moment = connection.execute(select(now())).scalar_one()
        connection.execute(insert(feedback), [row | {"created_at": moment} for row in rows])
    return [row["id"] for row in rows]


def label(db: Database, sample_id: str, value: int | None) -> Sample:
    """Say what an image is; None takes it back. Raises NotFound."""
    with db.write() as connection:
        moment = null() if value is None else now()
        row = connection.execute(
            update(feedback)
            .where(feedback.c.id == sample_id)
            .values(label=value, labelled_at=moment)
            .returning(*feedback.c)
        ).first()
        if row is None:
            raise _unknown(sample_id)
        return Sample.of(row)


def get(db: Database, sample_id: str) -> Sample:
    """Raises NotFound."""
    with db.read() as connection:
        row = connection.execute(select(feedback).where(feedback.c.id == sample_id)).first()
    if row is None:
        raise _unknown(sample_id)
    return Sample.of(row)


def page(
    db: Database, *, limit: int, after: str | None = None, labelled: bool | None = None
) -> tuple[list[Sample], bool]:
    """Images, newest first, those older than the id `after`; and whether there are more."""
    query = select(feedback).order_by(feedback.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(feedback.c.id < after)
    if labelled is not None:
        query = query.where(_is_labelled if labelled else ~_is_labelled)
    with db.read() as connection:
        found = [Sample.of(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def counts(db: Database) -> tuple[int, int]:
    """How many are kept, and how many of them are labelled."""
    with db.read() as connection:
        row = connection.execute(
            select(func.count(), func.count(feedback.c.label)).select_from(feedback)
        ).one()
    return row[0], row[1]


def remove(db: Database, sample_id: str) -> None:
    """Forget an image. Datasets that were made with it stay as they are. Raises NotFound."""
    with db.write() as connection:
        if connection.execute(delete(feedback).where(feedback.c.id == sample_id)).rowcount == 0:
            raise _unknown(sample_id)


def examples(db: Database) -> Uploaded:
    """Every labelled image, as a dataset to train on: each image once, with the newest of its labels, in the order of
    their pixels, so that the same images give the same dataset. Raises NothingLabelled."""
    with db.read() as connection:
        newest = _labelled(connection)
    if not newest:
        raise NothingLabelled(
            "no image that is kept has a label: predict with store=true, then PUT /v1/feedback/{id}/label"
        )
    pixels = sorted(newest)
    images = np.frombuffer(b"".join(pixels), np.uint8).reshape(len(pixels), -1)
    return Uploaded.of((images, np.array([newest[one] for one in pixels], np.int64)))


def _labelled(connection: Connection) -> dict[bytes, int]:
    found = connection.execute(
        select(feedback.c.pixels, feedback.c.label)
        .where(_is_labelled)
        .order_by(feedback.c.labelled_at, feedback.c.id)
        .limit(MAX_EXAMPLES + 1)
    ).all()
    if len(found) > MAX_EXAMPLES:
        raise FeedbackFull(f"over {MAX_EXAMPLES:,} images are labelled: delete some of them first")
    return {bytes(row.pixels): row.label for row in found}


_is_labelled: ColumnElement[bool] = feedback.c.label.is_not(None)


def _unknown(sample_id: str) -> NotFound:
    return NotFound(f"there is no kept image {sample_id!r}", code="feedback_not_found")
