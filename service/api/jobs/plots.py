"""Pictures of jobs and of datasets."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from service.api import pictures
from service.api.context import Context, Wired
from service.api.jobs import drawings
from service.api.jobs.drawings import DRAWERS, SHOWN, Options, PlotName, Subject
from service.api.jobs.jobs import JobId
from service.api.jobs.uploads import PREFIX
from service.api.pictures import DRAWN, UNCHANGED, FileFormat, IfNoneMatch
from service.api.problems import bad_parameters, documented
from service.catalog import CATALOG, UPLOADED
from service.data import simulated
from service.errors import FieldError, NotFound
from service.plots import CURVES, MAX_TILES, Axis, Picture
from service.spec import DatasetSpec
from service.store import datasets, jobs

BUILT_IN = tuple(name for name in CATALOG if name != UPLOADED)
MAX_NUMBER = 2**53 - 1  # what JavaScript counts up to

router = APIRouter(prefix="/v1", tags=["pictures"])

_TAKES: dict[PlotName, frozenset[str]] = {
    "loss": frozenset({"axis", "log"}),
    "accuracy": frozenset({"axis"}),
    "samples": frozenset({"seed", "count"}),
    "augmented": frozenset({"seed", "count", "progress"}),
    "misclassified": frozenset({"true", "predicted", "limit"}),
    "confusion": frozenset(),
    "calibration": frozenset(),
    "weights": frozenset({"limit"}),
    "fitted": frozenset({"steps"}),
}
_Seed = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Chooses the examples.")]
_Count = Annotated[int | None, Query(ge=1, le=100, description="How many examples.")]
_Class = Annotated[int | None, Query(ge=0, le=9, description="misclassified: only of this class.")]
_Steps = Annotated[
    list[Annotated[int, Query(ge=0, le=MAX_NUMBER)]] | None,
    Query(max_length=CURVES, description="fitted: the curves of these steps; may be repeated."),
]

_Progress = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        description="augmented: at which share of the run (unset: where images are first deformed most).",
    ),
]


def _options(
    axis: Annotated[Axis, Query(description="loss, accuracy: what runs from left to right.")] = "step",
    log: Annotated[bool, Query(description="loss: a logarithmic axis.")] = False,
    true: _Class = None,
    predicted: Annotated[
        int | None, Query(ge=0, le=9, description="misclassified: only what was read as this class.")
    ] = None,
    limit: Annotated[
        int | None,
        Query(ge=1, le=MAX_TILES, description="misclassified (unset: 16), weights (100): how many tiles."),
    ] = None,
    steps: _Steps = None,
    seed: Annotated[
        int, Query(ge=0, le=MAX_NUMBER, description="samples, augmented: chooses the images.")
    ] = 0,
    count: Annotated[
        int | None,
        Query(ge=1, le=100, description="samples (unset: 16), augmented (8, at most 16): how many."),
    ] = None,
    progress: _Progress = None,
) -> Options:
    chosen_steps = tuple(sorted(set(steps or ())))
    return Options(axis, log, true, predicted, limit, chosen_steps, seed, count, progress)


@router.get(
    "/jobs/{job_id}/plots/{name}.{format}",
    response_class=Response,
    summary="A picture of a job",
    responses={**documented(404, 409), **DRAWN, **UNCHANGED, **pictures.NEEDS_TORCH},
)
def of_job(
    context: Wired,
    request: Request,
    job_id: JobId,
    name: Annotated[PlotName, Path(description="Which picture.")],
    file_format: FileFormat,
    options: Annotated[Options, Depends(_options)],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """`loss` and `accuracy` of a run, also while it goes on; `samples` and `augmented`: images that it learns
    from; `weights` of the first layer, of a committee that of its first member; of a job that has succeeded, the `misclassified` test images, the
    `confusion` matrix and the `calibration`; of a regression, the `fitted` curves."""
    _require_fitting(name, request)
    job = jobs.get(context.db, job_id)
    return pictures.answer(
        context.studio,
        lambda: DRAWERS[name](Subject(context, job), options),
        file_format,
        name=f"{job_id}-{name}",
        key=(job.id, job.last_event, name, options),
        if_none_match=if_none_match,
    )


def _require_fitting(name: PlotName, request: Request) -> None:
    takes = sorted(_TAKES[name])
    expected = f"it takes {', '.join(takes)}" if takes else "it takes none"
    unknown = sorted(set(request.query_params).difference(takes))
    if unknown:
        raise bad_parameters(
            FieldError(f"query/{one}", f"does not apply to {name}; {expected}") for one in unknown
        )


@router.get(
    "/datasets/{name}/samples.{format}",
    response_class=Response,
    summary="Examples of a dataset",
    responses={**documented(404), **DRAWN, **UNCHANGED},
)
def of_dataset(
    context: Wired,
    name: Annotated[
        str, Path(description="Name of a dataset, or id of an uploaded one.", examples=["mnist"])
    ],
    file_format: FileFormat,
    seed: _Seed = 0,
    count: _Count = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Training images under their labels, 16 unless `count` says otherwise; of `simulated`, points (unset:
    1,000) about the true function. A dataset that is not on this machine is not fetched for it."""
    if name not in BUILT_IN and not name.startswith(PREFIX):
        raise NotFound(
            f"no dataset is called {name!r}; there are {', '.join(BUILT_IN)}", code="dataset_not_found"
        )
    return pictures.answer(
        context.studio,
        lambda: _samples(context, name, seed, count),
        file_format,
        name=f"{name}-samples",
        key=None,
        if_none_match=if_none_match,
    )


def _samples(context: Context, name: str, seed: int, count: int | None) -> Picture:
    if name not in BUILT_IN:
        chosen = context.shelf.uploaded(name, seed=seed, count=count or SHOWN)
        return drawings.grid(chosen, datasets.get(context.db, name).name)
    if CATALOG[name].task == "classification":
        spec = DatasetSpec.model_validate({"name": name})
        return drawings.sample_grid(context.shelf, spec, seed=seed, count=count or SHOWN)
    spec = DatasetSpec.model_validate({"name": name, "examples": count, "draw_seed": seed})
    x, y = simulated.simulate(spec.total_examples, spec.noise_deviation, seed=seed)
    return drawings.scatter(spec, x[:, 0], y[:, 0])
