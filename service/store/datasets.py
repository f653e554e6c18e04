"""Datasets that were uploaded: bytes in a blob, then one row that makes them visible and never changes.

A dataset is named by its content: the same content under the same name is the dataset that is there. It goes only when
nothing uses it: no job that learns from it, and no model that did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, or_, select, update

from service.data.uploaded import Malformed, Uploaded, decode
from service.errors import Conflict, FieldError, Invalid, NotFound
from service.spec import TrainingSpec
from service.store import blobs, keys, tables
from service.store.blobs import Damaged
from service.store.database import Database, insert_new, now
from service.store.identifiers import new_id
from service.store.keys import Submitter
from service.store.tables import dataset, job_dataset

Source = Literal["idx", "npz", "pictures", "feedback"]
COUNTER = "dataset"


class DatasetDamaged(Conflict):
    code = "dataset_damaged"


@dataclass(frozen=True)
class Dataset:
    """A row of the dataset table; see there for the columns."""

    id: str
    name: str
    version: int
    source: Source
    preprocessing: str | None
    blob: str
    sha256: str
    size: int
    train_examples: int
    test_examples: int
    classes: dict[str, list[int]]
    created_at: float
    key_id: str | None


def add(
    db: Database,
    content: Uploaded,
    *,
    name: str,
    source: Source,
    preprocessing: str | None = None,
    submitter: Submitter | None = None,
) -> tuple[Dataset, bool]:
    """Store a dataset. Returns it, and whether it is new: what has been stored under this name before is it. Raises
    Conflict if the submitter has no room for it."""
    with db.read() as connection:
        known = _same(connection, name, content.sha256)
    if known is not None:
        return known, False
    data = content.bytes
    blob = blobs.write(db, data)
    with db.write() as connection:
        # the counter first: it is what two that come at once wait for on PostgreSQL
        version = _next_version(connection)
        known = _same(connection, name, content.sha256)
        if known is not None:
            return known, False
        if submitter is not None:
            keys.require_room(connection, submitter, len(data))
        blobs.require(connection, {blob: len(data)})
        values = {
            "id": new_id("ds"),
            "name": name,
            "version": version,
            "source": source,
            "preprocessing": preprocessing,
            "blob": blob,
            "sha256": content.sha256,
            "size": len(data),
            "train_examples": len(content.train_labels),
            "test_examples": len(content.test_labels),
            "classes": content.classes,
            "created_at": now(),
            "key_id": None if submitter is None else submitter.key_id,
        }
        row = connection.execute(insert(dataset).values(values).returning(*dataset.c)).one()
        return Dataset(**row._mapping), True


def _same(connection: Connection, name: str, sha256: str) -> Dataset | None:
    query = select(dataset).where(dataset.c.name == name, dataset.c.sha256 == sha256)
    row = connection.execute(query).first()
    return None if row is None else Dataset(**row._mapping)


def _next_version(connection: Connection) -> int:
    counter = tables.counter
    connection.execute(insert_new(connection, counter), {"name": COUNTER, "value": 0})
    raised = update(counter).where(counter.c.name == COUNTER).values(value=counter.c.value + 1)
    version: int = connection.execute(raised.returning(counter.c.value)).scalar_one()
    return version


def get(db: Database, dataset_id: str) -> Dataset:
    """Raises NotFound."""
    with db.read() as connection:
        return _get(connection, dataset_id)


def _get(connection: Connection, dataset_id: str) -> Dataset:
    row = connection.execute(select(dataset).where(dataset.c.id == dataset_id)).first()
    if row is None:
        raise NotFound(f"there is no dataset {dataset_id!r}", code="dataset_not_found")
    return Dataset(**row._mapping)


def page(db: Database, *, limit: int, after: str | None = None) -> tuple[list[Dataset], bool]:
    """Datasets, newest first, those older than the id `after`; and whether there are more."""
    query = select(dataset).order_by(dataset.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(dataset.c.id < after)
    with db.read() as connection:
        found = [Dataset(**row._mapping) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def content(db: Database, dataset_id: str) -> Uploaded:
    """What was uploaded. Raises NotFound, and DatasetDamaged for bytes that are no longer what was stored."""
    header = get(db, dataset_id)
    try:
        found = decode(b"".join(blobs.read(db, header.blob, start=0, stop=header.size)))
        if found.sha256 != header.sha256:
            raise Damaged(f"the bytes of {header.id} do not match their hash")
    except (Damaged, Malformed) as damage:
        raise DatasetDamaged(f"{damage}: upload it again, under another name") from damage
    return found


def use(connection: Connection, learners: Sequence[tuple[str, TrainingSpec]]) -> None:
    """Note which datasets jobs learn from, within the transaction that makes them; from then on none of these can be
    deleted. Raises Invalid for one that is not there, or is not what the spec says of it."""
    wanted = {one.id: one for _, spec in learners for one in spec.dataset.uploads}
    if not wanted:
        return
    held = select(dataset).where(dataset.c.id.in_(wanted)).with_for_update(read=True)
    there = {row.id: row for row in connection.execute(held)}
    for identifier, one in wanted.items():
        row = there.get(identifier)
        if row is None:
            raise _unfit(f"there is no dataset {identifier!r}: GET /v1/datasets lists those there are")
        if (row.sha256, row.train_examples, row.test_examples) != (
            one.sha256,
            one.train_examples,
            one.test_examples,
        ):
            raise _unfit(f"{identifier} is not what is said of it: give its id alone")
    rows = [
        {"job_id": job_id, "dataset_id": one.id} for job_id, spec in learners for one in spec.dataset.uploads
    ]
    connection.execute(insert(job_dataset), rows)


def _unfit(detail: str) -> Invalid:
    return Invalid(detail, code="unknown_dataset", errors=[FieldError("#/dataset/uploads", detail)])


def remove(db: Database, dataset_id: str) -> None:
    """Forget a dataset; its bytes become garbage. Raises NotFound, and Conflict while a job or a model uses it."""
    with db.write() as connection:
        held = connection.execute(
            select(dataset.c.id).where(dataset.c.id == dataset_id).with_for_update()
        ).first()
        if held is None:
            raise NotFound(f"there is no dataset {dataset_id!r}", code="dataset_not_found")
        mine = job_dataset.c.dataset_id == dataset_id
        connection.execute(delete(job_dataset).where(mine, ~_lives(job_dataset.c.job_id)))
        users = (
            connection.execute(select(job_dataset.c.job_id).where(mine).order_by(job_dataset.c.job_id))
            .scalars()
            .all()
        )
        if users:
            others = "" if len(users) == 1 else f" and {len(users) - 1:,} more"
            raise Conflict(
                f"{users[0]}{others} learnt from it, or will: delete those jobs first; what a model learnt from stays",
                code="dataset_in_use",
            )
        connection.execute(delete(dataset).where(dataset.c.id == dataset_id))


def _lives(job_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a job is there, or a model that it made."""
    job, model = tables.job, tables.model
    return or_(
        exists().where(job.c.id == job_id, job.c.deleted_at.is_(None)),
        exists().where(model.c.job_id == job_id),
    )
