"""A sweep as it is answered: its counts, and its members in one table."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api.problems import bad_parameters
from service.api.schemas import SpecJson, Time, rfc3339
from service.errors import FieldError
from service.figures import ranking
from service.store.sweeps import MemberRow, MemberState, Sweep, SweepState

INDEX = "index"
METRICS = tuple(
    f"{part}_{figure}" for part in ("train", "validation", "test") for figure in ("accuracy", "loss")
)
UNRANKED = ("failed", "cancelled", "deleted")  # they have no model to choose


class SweepView(BaseModel):
    """A sweep without its members."""

    id: str
    state: Annotated[
        SweepState,
        Field(
            description="Follows from the members that are left: running from the first that begins to the last "
            "that ends; succeeded if all have, cancelled if any was, failed if any has and none was cancelled."
        ),
    ]
    counts: Annotated[
        dict[MemberState, int], Field(description="Members by state; a state of none is left out.")
    ]
    size: Annotated[int, Field(description="Members, those whose job was deleted included.")]
    preset: str | None
    spec: Annotated[SpecJson, Field(description="The base, with every default spelt out.")]
    fields: Annotated[list[str], Field(description="What varies.", examples=[["optimizer.learning_rate"]])]
    search: Annotated[
        dict[str, Any], Field(description="As it was asked for: `grid`, or `random`, `count` and `seed`.")
    ]
    metadata: dict[str, Any]
    priority: int
    created_at: Time

    @classmethod
    def of(cls, found: Sweep) -> "SweepView":
        return cls(**_fields(found))


class MemberView(BaseModel):
    """A member and its job."""

    index: Annotated[
        int, Field(description="From 0: by the grid, the last field changing fastest; or by draw.")
    ]
    job_id: str
    changes: Annotated[dict[str, Any], Field(description="To the base, by field.")]
    state: Annotated[MemberState, Field(description="Its job's; `deleted` if that was.")]
    rank: Annotated[
        int | None,
        Field(description="By the metric, 1 is best; null without it, and of one that ended badly."),
    ]
    metrics: Annotated[dict[str, float], Field(description="Newest value of each.")]
    parameter_count: int
    step: int | None
    steps: int | None
    runtime_seconds: Annotated[float | None, Field(description="Of training, all attempts that ended.")]
    model_id: str | None
    error: Annotated[dict[str, Any] | None, Field(description="Why its job failed.")]


class RepeatedView(BaseModel):
    """Members that differ in their seed alone, by the metric."""

    changes: Annotated[dict[str, Any], Field(description="To the base, but for the seed.")]
    count: Annotated[int, Field(description="Members that have a figure.")]
    mean: float
    deviation: Annotated[
        float | None, Field(description="Standard deviation over seeds; null of a single one.")
    ]


class SweepTable(SweepView):
    """A sweep and its members."""

    metric: Annotated[str, Field(description="By which members are ranked.")]
    warnings: Annotated[list[str], Field(description="What is to be known of that choice.")]
    over_seeds: Annotated[
        list[RepeatedView], Field(description="Best mean first; empty if no two differ in the seed alone.")
    ]
    members: list[MemberView]

    @classmethod
    def with_members(cls, found: Sweep, rows: Sequence[MemberRow], sort: str | None = None) -> "SweepTable":
        """Best first, then those without a rank by index; all of them by index if that is asked for. Raises
        Invalid if there is no such metric."""
        metric = found.metric if sort is None or sort == INDEX else known_metric(rows, sort, "query/sort")
        members = ranked(rows, metric)
        if sort != INDEX:
            members = sorted(members, key=lambda member: (member.rank or found.size + 1, member.index))
        warning = ranking.warning(metric)
        repeated = ranking.over_seeds(
            [row.changes for row in rows], [value_of(row, metric) for row in rows], metric
        )
        return cls(
            **_fields(found),
            metric=metric,
            warnings=[] if warning is None else [warning],
            over_seeds=[RepeatedView(**vars(one)) for one in repeated],
            members=members,
        )


def _fields(found: Sweep) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "counts": found.counts,
        "size": found.size,
        "preset": found.preset,
        "spec": found.spec,
        "fields": varied(found),
        "search": found.search,
        "metadata": found.metadata,
        "priority": found.priority,
        "created_at": rfc3339(found.created_at),
    }


def varied(found: Sweep) -> list[str]:
    """The fields that differ from member to member, in the order in which they were given."""
    return list(found.search.get("grid") or found.search["random"])


def ranked(rows: Sequence[MemberRow], metric: str) -> list[MemberView]:
    """Members in their order, each with its rank."""
    ranks = ranking.ranks([value_of(row, metric) for row in rows], metric)
    return [
        MemberView(
            index=row.number,
            job_id=row.job_id,
            changes=row.changes,
            state=row.state,
            rank=rank,
            metrics=row.metrics,
            parameter_count=row.parameter_count,
            step=row.progress.get("step"),
            steps=row.progress.get("steps"),
            runtime_seconds=row.runtime_seconds,
            model_id=row.model_id,
            error=row.error,
        )
        for row, rank in zip(rows, ranks, strict=True)
    ]


def value_of(row: MemberRow, metric: str) -> float | None:
    """By which the member is ranked; None if it has no such figure, or no rank."""
    return None if row.state in UNRANKED else row.metrics.get(metric)


def known_metric(rows: Sequence[MemberRow], name: str, pointer: str) -> str:
    """The name. Raises Invalid if no member has such a figure, or can have."""
    known = {*METRICS, *(metric for row in rows for metric in row.metrics)}
    if name not in known:
        listed = ", ".join(sorted(known))
        raise bad_parameters([FieldError(pointer, f"there is no metric {name!r}; there are {listed}")])
    return name
