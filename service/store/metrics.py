"""The series of a job: one value a name and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select

from service.store.database import Database
from service.store.tables import metric

c = metric.c


@dataclass(frozen=True)
class Value:
    """One value of one series; `time` in seconds since 1970."""

    name: str
    step: int
    epoch: float
    value: float
    time: float


def page(
    db: Database,
    job_id: str,
    *,
    names: Sequence[str] = (),
    after_step: int | None = None,
    after: tuple[str, int] | None = None,
    max_points: int | None = None,
    limit: int,
) -> tuple[list[Value], bool]:
    """Values ordered by name and step, and whether there are more.

    `after_step` leaves out steps up to it, `after` is the last (name, step) of the page before, and
    `max_points`, at least 2, thins each series evenly to at most so many, first and last kept.
    """
    where = c.job_id == job_id
    if names:
        where = and_(where, c.name.in_(names))
    if after_step is not None:
        where = and_(where, c.step > after_step)
    query: Select[Any] = select(c.name, c.step, c.epoch, c.value, c.time).where(where)
    if max_points is not None:
        query = _thinned(query, max_points)
    columns = query.selected_columns
    if after is not None:
        query = query.where(
            or_(columns.name > after[0], and_(columns.name == after[0], columns.step > after[1]))
        )
    with db.read() as connection:
        rows = connection.execute(query.order_by(columns.name, columns.step).limit(limit + 1)).all()
    values = [Value(row.name, row.step, row.epoch, row.value, row.time) for row in rows]
    return values[:limit], len(values) > limit


def best(db: Database, job_id: str, name: str, *, highest: bool) -> float | None:
    """The highest value of a series, or the lowest; None if it has none."""
    extreme = func.max(c.value) if highest else func.min(c.value)
    with db.read() as connection:
        found: float | None = connection.execute(
            select(extreme).where(c.job_id == job_id, c.name == name)
        ).scalar_one()
    return found


def _thinned(query: Select[Any], max_points: int) -> Select[Any]:
    numbered = query.add_columns(
        func.row_number().over(partition_by=c.name, order_by=c.step).label("place"),
        func.count().over(partition_by=c.name).label("size"),
    ).subquery()
    size = numbered.c.size
    # ceil((size - 1) / (max_points - 1)) from the first on, and then the last
    stride = case((size <= max_points, 1), else_=(size + max_points - 3) // (max_points - 1))
    n = numbered.c
    return select(n.name, n.step, n.epoch, n.value, n.time).where(
        or_((n.place - 1) % stride == 0, n.place == n.size)
    )
