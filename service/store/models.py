"""Model versions and the aliases that point at them.

`latest` is the newest version that classifies; it cannot be set. `digits` is the name of all that classify,
where a protocol wants one name and its versions; it cannot be set either. Any other name is an alias: it moves
when a person or a rule moves it, keeps its history, and rolls back along it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from service.errors import Conflict, Invalid, NotFound
from service.spec import TrainingSpec
from service.store import reports, tables
from service.store.attempts import Attempt, lost
from service.store.checkpoints import Checkpoint
from service.store.database import Database, insert_new, now
from service.store.events import change
from service.store.identifiers import new_id
from service.store.reports import Draft
from service.store.tables import alias, alias_history, job, model

LATEST = "latest"
FAMILY = "digits"


@dataclass(frozen=True)
class Model:
    """What a finished job registered."""

    id: str
    version: int
    task: str
    job_id: str
    checkpoint_id: str
    preset: str | None
    spec: dict[str, Any]
    parameter_count: int
    preprocessing: str
    metrics: dict[str, float]
    calibration: dict[str, Any] | None
    quantized: dict[str, Any] | None
    weights_sha256: str
    dataset_sha256: str
    provenance: dict[str, Any]
    created_at: float


@dataclass(frozen=True)
class Alias:
    """A name for a model version; `seq` numbers the moves of the name."""

    name: str
    seq: int
    model_id: str
    updated_at: float


def finish(
    db: Database,
    attempt: Attempt,
    header: Checkpoint,
    *,
    preprocessing: str,
    dataset_sha256: str,
    provenance: Mapping[str, Any],
    runtime: float,
    report: Draft | None = None,
) -> Model | None:
    """End the job well: register its final checkpoint as a model version, and store its report, in one
    transaction. None if a cancel came first; the caller then ends it so. Raises JobLost."""
    spec = TrainingSpec.model_validate(header.spec)
    identifier = new_id("model")
    told = {"state": "succeeded", "model_id": identifier, "weights_sha256": header.weights_sha256}
    answers_blob = None if report is None else reports.write_answers(db, report)
    with db.write() as connection:
        row = change(
            connection,
            attempt.holds & job.c.state.in_(("running", "pausing")),
            {
                "state": "succeeded",
                "finished_at": now(),
                "model_id": identifier,
                "weights_sha256": header.weights_sha256,
                "metrics": header.metrics,
                "worker": None,
                "lease_until": None,
                "runtime_seconds": job.c.runtime_seconds + runtime,
            },
            ("status", told),
            ("end", told),
        )
        if row is None:
            still_held = connection.execute(select(job.c.id).where(attempt.holds)).first()
            if still_held is None:
                raise lost(attempt)
            return None
        if report is not None:
            reports.insert_into(connection, attempt.job_id, report, answers_blob)
        values = {
            "id": identifier,
            "version": _next_version(connection),
            "task": spec.task_name,
            "job_id": attempt.job_id,
            "checkpoint_id": header.id,
            "preset": row.preset,
            "spec": header.spec,
            "parameter_count": spec.parameter_count,
            "preprocessing": preprocessing,
            "metrics": header.metrics,
            "calibration": None if report is None else report.calibration,
            "quantized": None if report is None else report.quantized,
            "weights_sha256": header.weights_sha256,
            "dataset_sha256": dataset_sha256,
            "provenance": dict(provenance),
            "created_at": now(),
        }
        return _model(connection.execute(insert(model).values(values).returning(*model.c)).one())


def _next_version(connection: Connection) -> int:
    connection.execute(insert_new(connection, tables.counter), {"name": "model", "value": 0})
    version: int = connection.execute(
        update(tables.counter)
        .where(tables.counter.c.name == "model")
        .values(value=tables.counter.c.value + 1)
        .returning(tables.counter.c.value)
    ).scalar_one()
    return version


def page(db: Database, *, limit: int, after: str | None = None) -> tuple[list[Model], bool]:
    """Models, newest first, those older than the id `after`; and whether there are more."""
    query = select(model).order_by(model.c.version.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(
            model.c.version < select(model.c.version).where(model.c.id == after).scalar_subquery()
        )
    with db.read() as connection:
        found = [_model(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def resolve(db: Database, reference: str) -> Model:
    """The model that an id, `latest` or an alias stands for. Raises NotFound."""
    with db.read() as connection:
        return _resolve(connection, reference)


def _resolve(connection: Connection, reference: str) -> Model:
    query = select(model)
    if reference == LATEST:
        query = query.where(model.c.task == "classification").order_by(model.c.version.desc()).limit(1)
    elif reference.startswith("model_"):
        query = query.where(model.c.id == reference)
    else:
        query = query.join(alias, alias.c.model_id == model.c.id).where(alias.c.name == reference)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"{reference!r} is no model id and no alias", code="model_not_found")
    return _model(row)


def classifiers(db: Database, *, limit: int) -> list[tuple[str, int]]:
    """Id and version of each model that classifies, newest first, so many at most."""
    query = select(model.c.id, model.c.version).where(model.c.task == "classification")
    with db.read() as connection:
        rows = connection.execute(query.order_by(model.c.version.desc()).limit(limit))
        return [(row.id, row.version) for row in rows]


def of_version(db: Database, version: int) -> Model:
    """The model of that number. Raises NotFound."""
    with db.read() as connection:
        row = connection.execute(select(model).where(model.c.version == version)).first()
    if row is None:
        raise NotFound(f"there is no model version {version}", code="model_not_found")
    return _model(row)


def of_checkpoint(db: Database, checkpoint_id: str) -> Model | None:
    """The model whose weights a checkpoint is; None if it is none's."""
    with db.read() as connection:
        row = connection.execute(select(model).where(model.c.checkpoint_id == checkpoint_id)).first()
    return None if row is None else _model(row)


def pointers(db: Database) -> dict[str, str]:
    """The model id behind `latest` (if there is one) and behind every alias: what a serving process
    compares to see a change."""
    newest = (
        select(model.c.id).where(model.c.task == "classification").order_by(model.c.version.desc()).limit(1)
    )
    with db.read() as connection:
        found = {row.name: row.model_id for row in connection.execute(select(alias.c.name, alias.c.model_id))}
        latest = connection.execute(newest).scalar_one_or_none()
    return found | ({LATEST: latest} if latest is not None else {})


def aliases(db: Database) -> list[Alias]:
    """Every alias, by name."""
    with db.read() as connection:
        return [Alias(**row._mapping) for row in connection.execute(select(alias).order_by(alias.c.name))]


def alias_of(db: Database, name: str) -> tuple[Alias, list[dict[str, Any]]]:
    """An alias and its moves, newest first. Raises NotFound."""
    with db.read() as connection:
        current = _alias(connection, select(alias).where(alias.c.name == name), name)
        moves = connection.execute(
            select(alias_history).where(alias_history.c.name == name).order_by(alias_history.c.seq.desc())
        )
        return current, [dict(row._mapping) for row in moves]


def set_alias(db: Database, name: str, reference: str, *, at_seq: int | None = None) -> tuple[Alias, bool]:
    """Point a name at what `reference` stands for. Returns the alias and whether it moved. With `at_seq` only if it
    still stands at that move (0: there is none yet); else raises Conflict (`alias_moved`)."""
    if name in (LATEST, FAMILY) or name.startswith("model_"):
        raise Invalid(
            f"{name!r} cannot be an alias: {LATEST} follows the newest model by itself, {FAMILY} is the name of "
            "all that read digits, and model_... are ids",
            code="reserved_alias",
        )
    with db.write() as connection:
        target = _resolve(connection, reference)
        current = _locked(connection, name, target.id)
        if at_seq is not None and at_seq != (0 if current is None else current.seq):
            raise Conflict(f"{name!r} was moved meanwhile: look at it, and ask again", code="alias_moved")
        if current is not None and current.model_id == target.id:
            return current, False
        before = None if current is None else current.seq
        return _move(connection, name, target.id, "set", before), True


def roll_back(db: Database, name: str) -> Alias:
    """Point a name at what it pointed at before its last move; twice goes back twice."""
    with db.write() as connection:
        current = _current(connection, name)
        history = alias_history.c
        entry = connection.execute(
            select(alias_history).where(history.name == name, history.seq == current.seq)
        ).one()
        if entry.before is None:
            raise Conflict(f"{name!r} has no earlier model to go back to", code="no_earlier_model")
        earlier = connection.execute(
            select(alias_history).where(history.name == name, history.seq == entry.before)
        ).one()
        return _move(connection, name, earlier.model_id, "rollback", earlier.before)


def _locked(connection: Connection, name: str, model_id: str) -> Alias | None:
    """The alias, held for this transaction; None if the name is new, and then it is made."""
    made = connection.execute(
        insert_new(connection, alias)
        .values(name=name, seq=0, model_id=model_id, updated_at=now())
        .returning(alias.c.name)
    ).first()
    return None if made is not None else _current(connection, name)


def _current(connection: Connection, name: str) -> Alias:
    return _alias(connection, select(alias).where(alias.c.name == name).with_for_update(), name)


def _alias(connection: Connection, query: Select[Any], name: str) -> Alias:
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"there is no alias {name!r}", code="alias_not_found")
    return Alias(**row._mapping)


def _move(connection: Connection, name: str, model_id: str, action: str, before: int | None) -> Alias:
    highest = select(func.coalesce(func.max(alias_history.c.seq), 0)).where(alias_history.c.name == name)
    seq = connection.execute(highest).scalar_one() + 1
    connection.execute(
        insert(alias_history).values(
            name=name, seq=seq, model_id=model_id, action=action, before=before, time=now()
        )
    )
    row = connection.execute(
        update(alias)
        .where(alias.c.name == name)
        .values(seq=seq, model_id=model_id, updated_at=now())
        .returning(*alias.c)
    ).one()
    return Alias(**row._mapping)


def _model(row: Any) -> Model:
    return Model(**row._mapping)
