"""The evaluation of a finished job: its report, what it misread, and a regression's curves."""

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api.context import Wired
from service.api.jobs.jobs import JobId
from service.api.problems import bad_parameters, documented
from service.api.schemas import Limit, Time, rfc3339
from service.catalog import CATALOG, Task
from service.checkpoints import CorruptCheckpoint
from service.data import simulated
from service.errors import Conflict, FieldError, NotFound
from service.serving import answers
from service.serving.answers import Answers
from service.store import jobs, metrics, reports
from service.store.blobs import Damaged
from service.store.database import Database
from service.store.jobs import Job
from service.store.reports import Report

BEST = "best_"  # of a published figure: the best of the series rather than its end

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["reports"])

Share = Annotated[float | None, Field(description="From 0 to 1; null: it does not exist.")]


class DatasetIdentity(BaseModel):
    """Which data it was."""

    name: str
    sha256: str


class Published(BaseModel):
    """A figure that the lecture, or the paper, publishes of the preset, beside ours."""

    name: str
    published: float | None
    ours: Annotated[float | None, Field(description="Null: this job took no such figure.")]
    range: Annotated[list[float] | None, Field(description="In which a faithful run ends: [low, high].")]
    within: Annotated[bool | None, Field(description="Whether ours is in that range.")]


class ReportCommon(BaseModel):
    """What every report has."""

    job_id: str
    format: Annotated[int, Field(description="Version of what a report holds.")]
    step: Annotated[int, Field(description="Of the final checkpoint.")]
    epoch: float
    weights_sha256: str
    dataset: DatasetIdentity
    loss_name: Literal["cross_entropy", "mse"]
    published: Annotated[list[Published], Field(description="Of a job made by a preset; else empty.")]
    overrides: Annotated[
        list[str], Field(description="Fields in which the job's spec is not the preset's, as JSON pointers.")
    ]
    created_at: Time


class Accuracy(BaseModel):
    """Of one part of the data."""

    examples: int
    errors: int
    loss: float
    accuracy: float
    accuracy_standard_error: Annotated[float, Field(description="Binomial: sqrt(p (1 - p) / n).")]


class ClassFigures(BaseModel):
    """One class against the rest, on the test set."""

    label: int
    support: Annotated[int, Field(description="Test examples of the class.")]
    precision: Annotated[float | None, Field(description="Null: it was never predicted.")]
    recall: Annotated[float | None, Field(description="Null: it has no examples.")]
    f1: Annotated[float | None, Field(description="Null: it has no examples and was never predicted.")]
    roc_auc: Annotated[float | None, Field(description="Null: no examples on one side.")]


class Macro(BaseModel):
    """Mean over the classes that have the figure."""

    precision: Share
    recall: Share
    f1: Share
    roc_auc: Share


class CalibrationBin(BaseModel):
    """Test examples read with a confidence from `low` up to `high`."""

    low: float
    high: float
    count: int
    accuracy: Annotated[float | None, Field(description="Null: the bin is empty.")]
    confidence: Annotated[float | None, Field(description="Mean; null: the bin is empty.")]


class CalibrationFigures(BaseModel):
    """Whether a confidence of 90 % is right nine times in ten, on the test set."""

    expected_calibration_error: Annotated[
        float, Field(description="Mean distance of accuracy and confidence over the bins, by their examples.")
    ]
    brier_score: Annotated[
        float, Field(description="Mean of the summed squares of probabilities minus one-hot labels: 0 to 2.")
    ]
    negative_log_likelihood: Annotated[
        float | None, Field(description="Mean of -log p(true class); null in older reports.")
    ] = None
    bins: list[CalibrationBin]


class CoverageFigures(BaseModel):
    """How the sets of one coverage fared on the test set."""

    coverage: Annotated[float, Field(description="That was asked for.")]
    covered: Annotated[float, Field(description="Share of the sets that held the true label.")]
    mean_size: float
    empty: Annotated[float, Field(description="Share of the sets without any label.")]


class CalibratedFigures(CalibrationFigures):
    """The same once the logits are divided by the temperature, on test examples that it was not fitted on."""

    temperature: Annotated[float, Field(description="That the model is served with.")]
    source: Annotated[
        Literal["validation", "test_folds"],
        Field(
            description="Of what it is fitted: the validation split; or both halves of the test set, and then each "
            "half's figures here are by what the other half gave."
        ),
    ]
    examples: Annotated[int, Field(description="On which it is fitted.")]
    coverage: list[CoverageFigures]
    digits_kept: Annotated[
        float | None, Field(description="Share that is taken for digits; null: the data are no digits.")
    ]


class ClassificationReport(ReportCommon):
    """How good a classifier is."""

    task: Literal["classification"]
    parts: Annotated[
        dict[Literal["train", "validation", "test"], Accuracy],
        Field(description="`train` is the first `evaluation.train_examples` of the training set."),
    ]
    confusion_matrix: Annotated[
        list[list[int]], Field(description="Test examples; rows true classes, columns predicted ones.")
    ]
    classes: list[ClassFigures]
    macro: Macro
    calibration: Annotated[CalibrationFigures, Field(description="Of the network as it was trained.")]
    calibrated: Annotated[
        CalibratedFigures | None,
        Field(description="Of the network as it is served; null: too few examples, or an older report."),
    ] = None


class Errors(BaseModel):
    """Of one part of the data; of `test` against the true function without noise."""

    examples: int
    mse: float
    rmse: float
    r2: Annotated[float | None, Field(description="Null: the targets do not vary.")]


class Noise(BaseModel):
    """What no network can explain."""

    variance: Annotated[float, Field(description="That the noise was drawn with.")]
    realised_variance: Annotated[
        float, Field(description="Mean square of the noise of the points that `train` is of.")
    ]
    mse_to_variance: Annotated[float | None, Field(description="In-sample MSE over it; null: no noise.")]
    mse_to_realised_variance: Annotated[
        float | None, Field(description="In-sample MSE over it; null: no noise.")
    ]


class RegressionReport(ReportCommon):
    """How good a regression is."""

    task: Literal["regression"]
    parts: Annotated[
        dict[Literal["train", "validation", "test"], Errors],
        Field(description="`train` is the first `evaluation.train_examples` of the training set."),
    ]
    curve_rmse: Annotated[
        float, Field(description="Root mean square distance from the true function on the grid.")
    ]
    noise: Noise


AnyReport = Annotated[ClassificationReport | RegressionReport, Field(discriminator="task")]


@router.get("/report", summary="How good a finished job's network is", responses=documented(404))
def shown(context: Wired, job_id: JobId) -> AnyReport:
    """Taken once, on the weights that the job ended with; there is one of each job that succeeds. 404
    `no_report` says when one comes."""
    job = jobs.get(context.db, job_id)
    found = _report_of(context.db, job)
    view = ClassificationReport if found.data["task"] == "classification" else RegressionReport
    report: ClassificationReport | RegressionReport = view(
        job_id=job_id, created_at=rfc3339(found.created_at), **found.data
    )
    for figure in report.published:
        if figure.ours is None and figure.name.startswith(BEST):
            figure.ours = _best(context.db, job_id, figure.name.removeprefix(BEST))
    return report


def _report_of(db: Database, job: Job) -> Report:
    found = reports.find(db, job.id)
    if found is None:
        raise NotFound(no_report(job), code="no_report")
    return found


def no_report(job: Job) -> str:
    """Why a job has no report, and when one comes."""
    if not job.is_terminal:
        return f"the job is {job.state}: its report comes when it succeeds"
    if job.state == "succeeded":
        return (
            "the job has no report: it is older than reports are, or making its report failed; see its events"
        )
    return f"the job {_ended(job)}: only a job that succeeds has a report"


def _ended(job: Job) -> str:
    return "was cancelled" if job.state == "cancelled" else job.state


def _best(db: Database, job_id: str, name: str) -> float | None:
    return metrics.best(db, job_id, name, highest=name.endswith("accuracy"))


class NotAClassification(Conflict):
    code = "not_a_classification"


class SpecNotAccepted(Conflict):
    """What needs a spec whose version had other rules."""

    code = "spec_not_accepted"


def task_of(db: Database, job: Job) -> Task:
    """Of any job, also one whose spec is not accepted any more. Raises SpecNotAccepted if nothing tells."""
    card = CATALOG.get(job.spec.get("dataset", {}).get("name"))
    if card is not None:
        return card.task
    found = reports.find(db, job.id)
    if found is None:
        raise SpecNotAccepted(
            "the job's spec is of a version with other rules, and names no dataset there is"
        )
    task: Task = found.data["task"]
    return task


class ReportDamaged(Conflict):
    code = "report_damaged"


def answers_of(db: Database, job: Job) -> Answers:
    """What the network of a finished job said of each test example. Raises NotAClassification, NotFound
    (`no_report`), ReportDamaged and SpecNotAccepted."""
    if task_of(db, job) != "classification":
        raise NotAClassification("the job is a regression: it has no classes to mistake")
    found = _report_of(db, job)
    try:
        return answers.decode(reports.answers(db, found))
    except (Damaged, CorruptCheckpoint) as damage:
        raise ReportDamaged(f"{damage}: train the job again to have them again") from damage


class Misclassified(BaseModel):
    """A test example that was read wrong."""

    index: Annotated[int, Field(description="In the test set, from 0.")]
    true: int
    predicted: int
    confidence: Annotated[float, Field(description="Probability of the predicted class.")]
    loss: Annotated[float, Field(description="Cross-entropy: -log of the true class's probability.")]
    probabilities: Annotated[list[float], Field(description="One a class.")]
    pixels: Annotated[
        list[int] | None,
        Field(description="784 from 0 to 255, row by row; null: not asked for, or not kept."),
    ] = None


class MisclassifiedPage(BaseModel):
    """A page of mistakes; `next` goes into `after` to get the following one."""

    data: list[Misclassified]
    total: Annotated[int, Field(description="Mistakes that fit the filter.")]
    kept: Annotated[int, Field(description="How many of them have their image kept, those of highest loss.")]
    has_more: bool
    next: str | None


@router.get("/misclassified", summary="What a classifier misread", responses=documented(404, 409))
def misclassified(
    context: Wired,
    job_id: JobId,
    true: Annotated[int | None, Query(ge=0, le=9, description="Only of this true class.")] = None,
    predicted: Annotated[int | None, Query(ge=0, le=9, description="Only read as this class.")] = None,
    limit: Limit = 20,
    after: Annotated[
        str | None, Query(pattern=r"^\d{1,9}$", description="`next` of the page before.")
    ] = None,
    pixels: Annotated[bool, Query(description="With the images.")] = False,
) -> MisclassifiedPage:
    """Test examples by loss, largest first: what the network was most wrong about."""
    told = answers_of(context.db, jobs.get(context.db, job_id))
    found = told.misclassified(true=true, predicted=predicted).tolist()
    start = 0 if after is None else _place_after(found, int(after))
    page = found[start : start + limit]
    has_more = start + limit < len(found)
    return MisclassifiedPage(
        data=[_mistake(told, index, with_pixels=pixels) for index in page],
        total=len(found),
        kept=int(np.isin(told.kept, found).sum()),
        has_more=has_more,
        next=str(page[-1]) if has_more else None,
    )


def _place_after(found: list[int], index: int) -> int:
    if index not in found:
        raise bad_parameters([FieldError("query/after", "is no `next` of this list")])
    return found.index(index) + 1


def _mistake(told: Answers, index: int, *, with_pixels: bool) -> Misclassified:
    image = told.pixels_of(index) if with_pixels else None
    return Misclassified(
        index=index,
        true=int(told.targets[index]),
        predicted=int(told.predicted[index]),
        confidence=float(told.confidence[index]),
        loss=float(told.loss[index]),
        probabilities=told.probabilities[index].tolist(),
        pixels=None if image is None else image.tolist(),
    )


class CurveView(BaseModel):
    """What the network predicted over the grid after a step."""

    step: int
    epoch: float
    y: list[float]


class Curves(BaseModel):
    """A regression's curves as it trained, over one grid; all of one length but the list of curves."""

    x: list[float]
    truth: Annotated[list[float], Field(description="The true function.")]
    curves: Annotated[list[CurveView], Field(description="By step.")]


@router.get("/curves", summary="A regression's curves", responses=documented(404, 409))
def curves_of(
    context: Wired,
    job_id: JobId,
    max_curves: Annotated[
        int, Query(ge=2, le=1000, description="Thin them evenly to at most so many.")
    ] = 100,
) -> Curves:
    """One each time figures were taken, also while the job trains."""
    job = jobs.get(context.db, job_id)
    if task_of(context.db, job) != "regression":
        raise Conflict("the job is a classification: it has no curve", code="not_a_regression")
    grid = simulated.grid()
    found = reports.curves(context.db, job_id, at_most=max_curves)
    return Curves(
        x=grid[:, 0].tolist(),
        truth=simulated.true_function(grid)[:, 0].tolist(),
        curves=[CurveView(step=one.step, epoch=one.epoch, y=one.outputs.tolist()) for one in found],
    )
