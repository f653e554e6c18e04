"""Jobs side by side."""

from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from service.api.context import Wired
from service.api.jobs.reports import answers_of
from service.api.problems import bad_parameters, documented
from service.api.schemas import Time, maybe_rfc3339
from service.errors import Conflict, FieldError, NotFound
from service.figures import comparison
from service.spec import TrainingSpec
from service.store import jobs, metrics
from service.store.database import Database
from service.store.jobs import Job, State

MOST = 10
VALUES_A_JOB = 1_000_000  # of all its series, thinned

router = APIRouter(prefix="/v1/compare", tags=["reports"])


class ComparedJob(BaseModel):
    """One of the jobs."""

    id: str
    preset: str | None
    state: State
    metrics: Annotated[dict[str, float], Field(description="Newest value of each.")]
    parameter_count: int
    runtime_seconds: Annotated[float, Field(description="Of training, all attempts that ended.")]
    device: str | None
    model_id: str | None
    dataset_sha256: str | None
    finished_at: Time | None

    @classmethod
    def of(cls, job: Job) -> "ComparedJob":
        return cls(
            id=job.id,
            preset=job.preset,
            state=job.state,
            metrics=job.metrics,
            parameter_count=job.parameter_count,
            runtime_seconds=job.runtime_seconds,
            device=job.device,
            model_id=job.model_id,
            dataset_sha256=job.dataset_sha256,
            finished_at=maybe_rfc3339(job.finished_at),
        )


class DifferenceView(BaseModel):
    """A field in which the specs differ."""

    pointer: Annotated[str, Field(description="Into the spec (RFC 6901).", examples=["#/optimizer/name"])]
    values: Annotated[
        dict[str, Any], Field(description="By job id; null also where a spec has no such field.")
    ]


class TestView(BaseModel):
    """McNemar's test of two classifiers on the same test examples."""

    a: str
    b: str
    examples: int
    accuracy_a: float
    accuracy_b: float
    difference: Annotated[float, Field(description="Accuracy of a minus that of b.")]
    interval: Annotated[
        tuple[float, float],
        Field(description="95 % confidence interval of the difference (Newcombe 1998, method 10)."),
    ]
    only_a_right: int
    only_b_right: int
    p_value: Annotated[float, Field(description="Two-sided, that both are equally good.")]
    method: Annotated[
        Literal["exact_binomial", "chi_square_corrected"],
        Field(description="exact_binomial where fewer than 25 examples tell the two apart."),
    ]


class Comparison(BaseModel):
    """Jobs side by side."""

    jobs: list[ComparedJob]
    series: Annotated[
        dict[str, dict[str, list[tuple[int, float, float]]]],
        Field(description="By name and job id: [step, epoch, value] of each point."),
    ]
    differences: Annotated[list[DifferenceView], Field(description="Of the specs.")]
    tests: Annotated[list[TestView], Field(description="Of each pair that can be tested.")]
    notes: Annotated[list[str], Field(description="Of each pair that cannot, why.")]


@router.get("", summary="Compare jobs", responses=documented(404))
def compared(
    context: Wired,
    ids: Annotated[
        str,
        Query(
            alias="jobs",
            max_length=1000,
            description="Ids of 2 to 10 jobs, with commas between them.",
            examples=["job_019ab3c4d5e67f80912a3b4c5d6e7f80,job_019ab3c4d5e67f80912a3b4c5d6e7f81"],
        ),
    ],
    name: Annotated[
        list[str] | None, Query(description="Only this series; may be repeated.", examples=["test_accuracy"])
    ] = None,
    max_points: Annotated[
        int, Query(ge=2, le=10_000, description="Thin each series evenly to at most so many.")
    ] = 200,
) -> Comparison:
    """Their newest figures, their series to lay over each other, the fields in which their specs differ, and
    for each pair of finished classifiers whether one is better or was lucky."""
    found = [_job(context.db, job_id) for job_id in _ids(ids)]
    tests, notes = _tests(context.db, found)
    return Comparison(
        jobs=[ComparedJob.of(job) for job in found],
        series=_series(context.db, found, name or (), max_points),
        differences=[
            DifferenceView(pointer=row.pointer, values=row.values)
            for row in comparison.differences({job.id: _current(job.spec) for job in found})
        ],
        tests=tests,
        notes=notes,
    )


def _current(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the defaults of fields that are newer than it; as it was stored if it is not accepted any
    more."""
    try:
        return TrainingSpec.model_validate(spec).model_dump(mode="json")
    except ValidationError:
        return spec


def _ids(text: str) -> list[str]:
    ids = [part.strip() for part in text.split(",")]
    repeated = sorted({job_id for job_id in ids if ids.count(job_id) > 1})
    mistake = None
    if not all(ids):
        mistake = "an id is empty: give ids with commas between them"
    elif repeated:
        mistake = f"{', '.join(repeated)} is there more than once: a job is not compared with itself"
    elif not 2 <= len(ids) <= MOST:
        mistake = f"that is {len(ids)}: give the ids of 2 to {MOST} jobs"
    if mistake is not None:
        raise bad_parameters([FieldError("query/jobs", mistake)])
    return ids


def _job(db: Database, job_id: str) -> Job:
    try:
        return jobs.get(db, job_id)
    except NotFound as error:
        raise NotFound(
            error.detail, code=error.code, errors=[FieldError("query/jobs", error.detail)]
        ) from None


def _series(
    db: Database, found: list[Job], names: list[str] | tuple[()], max_points: int
) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    series: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for job in found:
        values, _ = metrics.page(db, job.id, names=names, max_points=max_points, limit=VALUES_A_JOB)
        for value in values:
            points = series.setdefault(value.name, {}).setdefault(job.id, [])
            points.append((value.step, value.epoch, value.value))
    return series


def _tests(db: Database, found: list[Job]) -> tuple[list[TestView], list[str]]:
    correct: dict[str, NDArray[np.bool_]] = {}
    reasons: dict[str, str] = {}
    for job in found:
        try:
            correct[job.id] = answers_of(db, job).correct
        except (Conflict, NotFound) as error:
            reasons[job.id] = f"{job.id}: {error.detail}"
    tests: list[TestView] = []
    notes: list[str] = []
    for a, b in combinations(found, 2):
        why = [reasons[job.id] for job in (a, b) if job.id in reasons]
        if not why and not _same_test_set(a, b, correct):
            why = ["they were tested on different data"]
        if why:
            notes.append(f"{a.id} and {b.id} are not tested against each other: {'; '.join(why)}")
        else:
            result = comparison.mcnemar(correct[a.id], correct[b.id])
            tests.append(TestView(a=a.id, b=b.id, **vars(result)))
    return tests, notes


def _same_test_set(a: Job, b: Job, correct: dict[str, NDArray[np.bool_]]) -> bool:
    return a.dataset_sha256 == b.dataset_sha256 and len(correct[a.id]) == len(correct[b.id])
