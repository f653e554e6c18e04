"""What each picture of a job is drawn from: its series, its report, its newest checkpoint, its dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service import checkpoints, plots
from service.api.context import Context
from service.api.examples import Examples, Shelf
from service.api.jobs.reports import NotAClassification, SpecNotAccepted, answers_of, no_report, task_of
from service.api.problems import bad_parameters
from service.catalog import Task
from service.checkpoints import CorruptCheckpoint
from service.data import datasets, simulated
from service.data.datasets import Dataset
from service.errors import Conflict, FieldError, NotFound, ServiceError
from service.plots import Axis, Bin, Curve, Mistakes, Picture, Point
from service.spec import Augmentation, DatasetSpec, TrainingSpec
from service.store import checkpoints as stored
from service.store import metrics, reports
from service.store.blobs import Damaged
from service.store.jobs import Job

PlotName = Literal[
    "loss",
    "accuracy",
    "samples",
    "augmented",
    "misclassified",
    "confusion",
    "calibration",
    "weights",
    "fitted",
]
PARTS = {"training": "train", "validation": "validation", "test": "test"}
MAX_POINTS = 2000  # of a series: more than a picture has pixels
NAMED_STEPS = 10  # of the curves that there are, where one is asked for that is not
SHOWN = 16  # images, as in the lecture
COLUMNS = 8  # originals of the augmented, as in the lecture
MAX_COLUMNS = 16
VARIANTS = 3


class NoPicture(NotFound):
    code = "no_picture"


class NeedsTorch(ServiceError):
    """501, since no later try will do: the machine has to be set up otherwise."""

    status, code, title = 501, "needs_torch", "PyTorch is not installed where this is served"


@dataclass(frozen=True)
class Options:
    """What may be said of a picture; each belongs to some pictures only, see `service.api.jobs.plots`."""

    axis: Axis = "step"
    log: bool = False
    true: int | None = None
    predicted: int | None = None
    limit: int | None = None
    steps: tuple[int, ...] = ()
    seed: int = 0
    count: int | None = None
    progress: float | None = None


@dataclass(frozen=True)
class Subject:
    """A job to be drawn. Each method raises a ServiceError that says why there is no such picture, and when
    there will be one."""

    context: Context
    job: Job

    @cached_property
    def spec(self) -> TrainingSpec:
        try:
            return TrainingSpec.model_validate(self.job.spec)
        except ValidationError as error:
            raise SpecNotAccepted(
                "the job's spec is of a version with other rules, and no longer says what is to be drawn"
            ) from error

    @cached_property
    def task(self) -> Task:
        return task_of(self.context.db, self.job)

    def loss(self, options: Options) -> Picture:
        usual = "cross_entropy" if self.task == "classification" else "mse"
        measure = self.job.spec.get("loss") or usual
        heading = "Cross-entropy loss" if measure == "cross_entropy" else "Mean squared error"
        series = self._series("loss")
        return plots.loss(series, heading=heading, axis=options.axis, logarithmic=options.log)

    def accuracy(self, options: Options) -> Picture:
        self._require_classification("accuracy")
        return plots.accuracy(self._series("accuracy"), axis=options.axis)

    def _series(self, figure: str) -> dict[str, list[Point]]:
        names = {f"{part}_{figure}": title for title, part in PARTS.items()}
        found, _ = metrics.page(
            self.context.db,
            self.job.id,
            names=list(names),
            max_points=MAX_POINTS,
            limit=len(names) * (MAX_POINTS + 1),
        )
        if not found:
            raise NoPicture(self._missing("figures", "when it first takes them"))
        series: dict[str, list[Point]] = {title: [] for title in PARTS}
        for value in found:
            series[names[value.name]].append(Point(value.step, value.epoch, value.value))
        return series

    def samples(self, options: Options) -> Picture:
        if self.task == "regression":
            data = self._drawn
            return scatter(self.spec.dataset, data.train_inputs[:, 0], data.train_targets[:, 0])
        shelf, count = self.context.shelf, options.count or SHOWN
        return sample_grid(shelf, self.spec.dataset, seed=options.seed, count=count)

    def augmented(self, options: Options) -> Picture:
        augmentation = self.spec.augmentation
        if augmentation is None:
            raise NoPicture("the job trains on the images as they are: its spec has no augmentation")
        if options.count is not None and options.count > MAX_COLUMNS:
            raise bad_parameters([FieldError("query/count", f"at most {MAX_COLUMNS} fit beside each other")])
        return variants(
            self.context.shelf,
            self.spec.dataset,
            augmentation,
            seed=options.seed,
            count=options.count or COLUMNS,
            progress=_peak(augmentation) if options.progress is None else options.progress,
        )

    def misclassified(self, options: Options) -> Picture:
        self._require_classification("misread images")
        told = answers_of(self.context.db, self.job)
        found = told.misclassified(true=options.true, predicted=options.predicted)
        shown = [int(index) for index in found if told.pixels_of(int(index)) is not None]
        shown = shown[: options.limit or SHOWN]
        images = [pixels for index in shown if (pixels := told.pixels_of(index)) is not None]
        mistakes = Mistakes(
            np.array(shown, np.int64),
            told.targets[shown],
            told.predicted[shown],
            told.loss[shown],
            np.array(images, np.uint8),
        )
        return plots.misclassified(mistakes, len(found), true=options.true, predicted=options.predicted)

    def confusion(self, _options: Options) -> Picture:
        self._require_classification("confusion matrix")
        return plots.confusion(np.array(self._report["confusion_matrix"]))

    def calibration(self, _options: Options) -> Picture:
        self._require_classification("calibration")
        calibrated = self._report.get("calibrated")
        return plots.calibration(
            [Bin(**item) for item in self._report["calibration"]["bins"]],
            [] if calibrated is None else [Bin(**item) for item in calibrated["bins"]],
        )

    def weights(self, options: Options) -> Picture:
        self._require_classification("first-layer weights over pixels")
        committee = self.spec.committee  # a checkpoint is only read with a spec that is accepted
        return plots.weights(
            self._first_layer(),
            limit=options.limit or plots.MAX_TILES,
            members=None if committee is None else committee.members,
        )

    def _first_layer(self) -> NDArray[np.float32]:
        """Of the newest checkpoint that is whole; of a committee's first member."""
        for header in stored.of_job(self.context.db, self.job.id):
            if header.bad:
                continue
            try:
                with self.context.decoding:
                    data = stored.weights(self.context.db, header)
                    return checkpoints.decode_weights(data).first_layer
            except (Damaged, CorruptCheckpoint):
                continue
        raise NoPicture(self._missing("checkpoint", "with the first, at the latest when it ends"))

    def fitted(self, options: Options) -> Picture:
        if self.task != "regression":
            raise Conflict("the job is a classification: it has no curve", code="not_a_regression")
        data = self._drawn
        grid = simulated.grid()
        return plots.fitted(
            self._curves(options.steps),
            data.train_inputs[:, 0],
            data.train_targets[:, 0],
            grid[:, 0],
            simulated.true_function(grid)[:, 0],
            heading="Fitted curves by iteration",
        )

    def _curves(self, steps: tuple[int, ...]) -> list[Curve]:
        db, job_id = self.context.db, self.job.id
        there = reports.curve_steps(db, job_id, at_most=NAMED_STEPS + 1)
        if not there:
            raise NoPicture(self._missing("curve", "when it first takes figures"))
        if steps:
            found = reports.curves_at(db, job_id, steps)
            _require_each(steps, [one.step for one in found], there)
        else:
            found = reports.curves(db, job_id, at_most=plots.CURVES)
            if len(found) > 1 and found[0].step == 0:
                found = found[1:]  # without the untrained network, which the lecture does not draw
        return [Curve(one.step, one.epoch, one.outputs) for one in found]

    @cached_property
    def _report(self) -> dict[str, Any]:
        found = reports.find(self.context.db, self.job.id)
        if found is None:
            raise NotFound(no_report(self.job), code="no_report")
        return found.data

    @cached_property
    def _drawn(self) -> Dataset:
        """The points of a regression, which no file holds."""
        return datasets.load(self.spec.dataset, cache_dir=self.context.settings.cache_dir, data_dir=None)

    def _require_classification(self, what: str) -> None:
        if self.task != "classification":
            raise NotAClassification(f"the job is a regression: it has no {what}")

    def _missing(self, what: str, when: str) -> str:
        if self.job.is_terminal:
            return f"the job ended without any {what}: there is nothing to draw"
        return f"the job is {self.job.state} and has no {what} yet: it can be drawn {when}"


DRAWERS: dict[PlotName, Callable[[Subject, Options], Picture]] = {
    "loss": Subject.loss,
    "accuracy": Subject.accuracy,
    "samples": Subject.samples,
    "augmented": Subject.augmented,
    "misclassified": Subject.misclassified,
    "confusion": Subject.confusion,
    "calibration": Subject.calibration,
    "weights": Subject.weights,
    "fitted": Subject.fitted,
}


def _require_each(asked: Sequence[int], found: Sequence[int], there: Sequence[int]) -> None:
    unknown = [step for step in asked if step not in found]
    if unknown:
        named = ", ".join(map(str, there[:NAMED_STEPS])) + (", ..." if len(there) > NAMED_STEPS else "")
        raise bad_parameters([FieldError("query/steps", f"no curve of {unknown[0]}; there are {named}")])


def _peak(augmentation: Augmentation) -> float:
    """The share of the run at which images are first deformed most."""
    return max(augmentation.amplitude, key=lambda point: point[1])[0]


def sample_grid(shelf: Shelf, spec: DatasetSpec, *, seed: int, count: int) -> Picture:
    """Training images of a dataset. Raises examples.NotFetched."""
    return grid(shelf.chosen(spec, seed=seed, count=count), spec.name)


def grid(chosen: Examples, name: str) -> Picture:
    """Images of a dataset of that name, under their labels."""
    return plots.samples(
        chosen.pixels,
        chosen.labels.tolist(),
        chosen.index.tolist(),
        heading=f"{name}: {len(chosen.index)} of {chosen.total:,} training images",
    )


def scatter(spec: DatasetSpec, x: NDArray[Any], y: NDArray[Any]) -> Picture:
    """Points of `simulated` about its true function."""
    grid = simulated.grid()
    heading = f"simulated: {len(x):,} training points, noise {spec.noise_deviation:g}"
    return plots.scattered(x, y, grid[:, 0], simulated.true_function(grid)[:, 0], heading=heading)


def variants(
    shelf: Shelf,
    spec: DatasetSpec,
    augmentation: Augmentation,
    *,
    seed: int,
    count: int,
    number: int = VARIANTS,
    progress: float = 0.0,
) -> Picture:
    """Images above and their variants below; the same seed, the same picture. Raises examples.NotFetched and
    NeedsTorch."""
    try:
        from service.data import augment  # torch, which an API process does without until here
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise NeedsTorch(
            "images are deformed by PyTorch, which is not installed here: install numeral[train] beside the "
            "API, or ask one that has it"
        ) from error
    chosen = shelf.chosen(spec, seed=seed, count=count)
    amplitude = augmentation.factor(progress)
    made = [
        augment.variants(
            chosen.pixels, chosen.labels, augmentation, seed=seed, variant=variant, amplitude=amplitude
        )
        for variant in range(number)
    ]
    return plots.augmented(
        chosen.pixels,
        made,
        chosen.labels.tolist(),
        chosen.index.tolist(),
        heading=f"{spec.name}: originals above, variants below",
    )
