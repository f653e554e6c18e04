"""Train a network: `fit`, one visible loop, is a generator of frozen reports.

Whoever consumes it records metrics, stores checkpoints and polls for a cancel; `fit` knows no database,
no queue and no wall clock of the service. Nothing random is carried from step to step: the order of pass p
is a pure function of (seed, p) and dropout's draws one of (seed, step), so that a snapshot is the weights,
their average, the optimiser's state and a little bookkeeping, and a resumed run ends with the very bytes of an
uninterrupted one (same device and thread count).
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.checkpoints import Arrays, Snapshot
from service.data.datasets import Dataset
from service.errors import ServiceError
from service.evaluation import evaluate, outputs
from service.network import Network, build
from service.normalization import normalize_hidden
from service.seeds import derived_seed
from service.spec import EarlyStopping, Plan, TrainingSpec
from worker import optimizers
from worker.batches import Batches
from worker.crew import ALONE, Crew
from worker.descent import Descent
from worker.device import Resident, deterministic, place
from worker.networks import Networks
from worker.step import make as make_step
from worker.step import shares as step_shares
from worker.teacher import Teacher

__all__ = ["Diverged", "Outcome", "Report", "Snapshot", "fit"]

Outcome = Literal["completed", "early_stopping"]

# The default cadence of evaluations: each epoch, but not many more than this in a run.
EVALUATIONS = 100


@dataclass(frozen=True)
class Report:
    """What one step did. Step 0 is the untrained network, with its `train_loss` as
    the loss, and no gradient."""

    step: int
    epoch: float
    loss: float
    """Of the step's batch, before the step, with label smoothing but without L1 and L2."""
    learning_rate: float
    gradient_norm: float
    """Euclidean norm of the gradient of that loss, before it is clipped."""
    metrics: Mapping[str, float]
    """train_, validation_ and test_ `loss` and `accuracy` (none for a regression), of the weights after the
    step; empty when no figures were taken."""
    checkpoint_due: bool
    outcome: Outcome | None
    """Why this report is the last, or None."""
    curve: NDArray[np.float32] | None
    """Of a regression, where figures were taken: its outputs over the test grid, (n,), whose weights are those
    that `metrics` are of."""
    restored_step: int | None
    """On the last report, the step whose weights early stopping put back; `metrics` are theirs."""
    snapshot: Callable[[], Snapshot]
    """Copy the run as it stands. Only until the generator is advanced; raises Diverged rather than copy
    weights that are not finite."""


class Diverged(ServiceError):
    """Loss, gradient or weights are no longer finite. The weights of the last report's step are untouched
    by it unless the step itself overflowed; no snapshot ever holds such weights."""

    code, title = "diverged", "Training diverged"

    def __init__(self, step: int, last_finite_loss: float | None, learning_rate: float) -> None:
        seen = "" if last_finite_loss is None else f" (the last finite loss was {last_finite_loss:.6g})"
        remedy = (
            f"lower optimizer.learning_rate ({learning_rate:g} at this step), perhaps by a factor of ten, "
            "or warm up for longer"
            if step
            else "the untrained network's figures are not finite: choose another network.initializer"
        )
        super().__init__(f"training diverged at step {step:,}{seen}: {remedy}")
        self.step = step
        self.last_finite_loss = last_finite_loss


@dataclass
class Run:
    """What changes while a run trains."""

    spec: TrainingSpec
    networks: Networks
    descent: Descent
    stopping: "_Stopping | None"
    plan: Plan
    step: int = 0
    learning_rate: float = 0.0  # of that step
    loss: float | None = None  # the newest that was finite
    gradient_norm: float = 0.0
    outcome: Outcome | None = None

    def snapshot(self, step: int) -> Snapshot:
        if step != self.step:
            raise RuntimeError(f"step {step} is over: take a snapshot before the generator is advanced")
        self.require_finite()
        state = {**self.descent.state_arrays(), **self.networks.state()}
        progress: dict[str, Any] = {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "outcome": self.outcome,
        }
        if self.stopping is not None:
            state |= {f"best.{name}": array for name, array in self.stopping.best_weights.items()}
            progress["early_stopping"] = self.stopping.progress()
        return Snapshot(step, self.plan.epoch_of(step), self.networks.arrays(), state, progress)

    def restore(self, snapshot: Snapshot) -> None:
        self.networks.restore(snapshot)
        self.descent.load_state_arrays(snapshot.state)
        self.step, progress = snapshot.step, snapshot.progress
        self.learning_rate = optimizers.learning_rate_at(self.spec, self.step) if self.step else 0.0
        self.loss, self.gradient_norm = progress["loss"], progress["gradient_norm"]
        self.outcome = progress["outcome"]
        if self.stopping is not None:
            best = {name[5:]: array for name, array in snapshot.state.items() if name.startswith("best.")}
            self.stopping.restore(progress["early_stopping"], best)

    def require_finite(self) -> None:
        if not self.networks.finite():
            raise self.diverged()

    def diverged(self) -> Diverged:
        return Diverged(self.step, self.loss, self.learning_rate)


@dataclass
class _Stopping:
    """Early stopping's bookkeeping. Step 0 does not take part: an untrained network is no result."""

    spec: EarlyStopping
    best: float | None = None
    best_step: int = 0
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    stale: int = 0
    best_weights: Arrays = field(default_factory=dict)

    def update(self, step: int, metrics: Mapping[str, float], networks: Networks) -> bool:
        """Take an evaluation in; true when training should stop."""
        value = metrics[self.spec.monitor]
        if not self._improves(value):
            self.stale += 1
            return self.stale >= self.spec.patience
        self.best, self.best_step, self.best_metrics, self.stale = value, step, metrics, 0
        if self.spec.restore_best:
            self.best_weights = networks.arrays()
        return False

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = self.best - value if self.spec.monitor == "validation_loss" else value - self.best
        return gain > self.spec.min_delta

    def progress(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_step": self.best_step,
            "best_metrics": dict(self.best_metrics),
            "stale": self.stale,
        }

    def restore(self, progress: Mapping[str, Any], best_weights: Arrays) -> None:
        self.best, self.best_step = progress["best"], progress["best_step"]
        self.best_metrics, self.stale = progress["best_metrics"], progress["stale"]
        self.best_weights = best_weights


def fit(
    spec: TrainingSpec,
    dataset: Dataset | Resident,
    *,
    device: torch.device,
    resume: Snapshot | None = None,
    teacher: Network | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Report, None, None]:
    """Train the spec's network, which is no committee, and report each step, step 0 too where
    `evaluation.initial` asks for it.

    `dataset` is the spec's, or what `device.place` made of it. `teacher` is the network that the spec's
    `distillation` names, which goes to the device. `clock` gives seconds, for
    `evaluation.every_seconds`. A run that resumes after its last step reports that step once more, so that
    a consumer that was lost while it finished can finish. Raises Diverged, and ValueError for data or a
    snapshot of another size than the spec's, or a teacher that is missing."""
    data = dataset if isinstance(dataset, Resident) else place(dataset, device)
    plan = spec.plan
    assert data.device == device
    if len(data.train) != plan.examples:
        raise ValueError(f"the spec trains on {plan.examples} examples; the dataset has {len(data.train)}")
    crew = Crew.largest() if step_shares(spec, device) else ALONE
    with deterministic(enabled=spec.deterministic), crew:
        run, gradients = begin(spec, data, resume, crew)
        network, regularization = run.networks.trained, spec.regularization
        largest_norm = regularization.max_gradient_norm or math.inf
        batches = Batches(spec, data.train, network, crew, _teacher(spec, teacher, device))
        evaluation_due = evaluation_cadence(spec, clock)
        if resume is not None and run.outcome is not None:
            yield report_of(run, data, _figures(run, data))
            return
        if spec.evaluation.initial and resume is None:
            metrics: Mapping[str, float] = _figures(run, data)
            run.loss = metrics["train_loss"]
            yield report_of(run, data, metrics)
        for step in range(run.step + 1, plan.steps + 1):
            run.step, run.learning_rate = step, optimizers.learning_rate_at(spec, step)
            inputs, targets = batches.at(step)
            if network.dropout:
                network.seed_dropout(derived_seed(spec.seed, "dropout", step))
            loss = gradients(inputs, targets)
            run.loss, run.gradient_norm = _finite(run, loss, run.descent.gradient_norm())
            run.descent.clip(run.gradient_norm, largest_norm)
            run.descent.step(step, run.learning_rate, regularization)
            run.networks.follow(step)

            last = step == plan.steps
            metrics = _figures(run, data) if evaluation_due(step) or last else {}
            stop = (
                run.stopping is not None
                and metrics != {}
                and run.stopping.update(step, metrics, run.networks)
            )
            if last or stop:
                metrics = end(run, metrics, "early_stopping" if stop else "completed")
            yield report_of(run, data, metrics)
            if run.outcome is not None:
                return


def begin(
    spec: TrainingSpec, data: Resident, resume: Snapshot | None, crew: Crew
) -> tuple[Run, Callable[[Tensor, Tensor], Tensor]]:
    """The run before its first step, or where it goes on, and what takes a batch's gradients."""
    network = build(spec, data.dataset.train_inputs if resume is None else None)
    if spec.network.normalization == "batch":
        normalize_hidden(network)
    network.to(data.device).train()
    gradients = make_step(spec, network, crew).gradients
    descent = Descent(spec, network, crew)
    stopping = _Stopping(spec.early_stopping) if spec.early_stopping else None
    run = Run(spec, Networks(spec, network, crew), descent, stopping, spec.plan)
    if resume is not None:
        if resume.step > spec.plan.steps:
            raise ValueError(f"the snapshot is of step {resume.step}, past the run's {spec.plan.steps}")
        run.restore(resume)
    return run, gradients


def _teacher(spec: TrainingSpec, network: Network | None, device: torch.device) -> Teacher | None:
    if (spec.distillation is None) != (network is None):
        raise ValueError("a spec with a distillation, and no other, needs its teacher")
    return None if network is None else Teacher(spec, network, device)


def _finite(run: Run, loss: Tensor, norm: Tensor) -> tuple[float, float]:
    """Loss and norm in one wait for the device. Raises Diverged, before the optimiser has touched the
    weights."""
    values = torch.stack((loss, norm)).tolist()
    if not all(map(math.isfinite, values)):
        raise run.diverged()
    return values[0], values[1]


def _figures(run: Run, data: Resident) -> dict[str, float]:
    """The metrics of the present weights. Raises Diverged when one is not finite."""
    metrics = figures_of(run.networks.evaluated(), data)
    if not all(map(math.isfinite, metrics.values())):
        raise run.diverged()
    return metrics


def figures_of(network: Network, data: Resident) -> dict[str, float]:
    """A network's metrics, as a report has them."""
    spec = network.spec
    return {
        f"{part}_{name}": value
        for part, examples in data.evaluated_by(network, spec.evaluation.train_examples).items()
        for name, value in evaluate(network, examples.inputs, examples.targets, spec.loss_name).items()
    }


def end(run: Run, metrics: Mapping[str, float], outcome: Outcome) -> Mapping[str, float]:
    """Close the run: the best weights put back where early stopping asks for it, and their metrics."""
    run.outcome = outcome
    if run.stopping is not None and run.stopping.best_weights:
        run.networks.end_with(run.stopping.best_weights)
        metrics = run.stopping.best_metrics
    run.require_finite()
    return metrics


def report_of(run: Run, data: Resident, metrics: Mapping[str, float]) -> Report:
    """What the step did that the run stands at; `metrics` are empty where no figures were taken."""
    spec, step, stopping = run.spec, run.step, run.stopping
    assert run.loss is not None
    restored = run.outcome is not None and stopping is not None and stopping.spec.restore_best
    return Report(
        step=step,
        epoch=run.plan.epoch_of(step),
        loss=run.loss,
        learning_rate=run.learning_rate,
        gradient_norm=run.gradient_norm,
        metrics=metrics,
        checkpoint_due=_checkpoint_due(run),
        outcome=run.outcome,
        curve=_curve(run, data) if metrics and spec.task_name == "regression" else None,
        restored_step=stopping.best_step if stopping is not None and restored else None,
        snapshot=partial(run.snapshot, step),
    )


def _curve(run: Run, data: Resident) -> NDArray[np.float32]:
    network = run.networks.evaluated()
    inputs = data.evaluated_by(network, run.spec.evaluation.train_examples)["test"].inputs
    return outputs(network, inputs)[:, 0].cpu().numpy()


def _checkpoint_due(run: Run) -> bool:
    """By epochs or by steps, and at the end. How many are kept, and how soon after each other, is the
    consumer's business."""
    if run.step == 0:
        return False
    cadence = run.spec.checkpoints
    by_epochs = cadence.every_epochs and run.step % (cadence.every_epochs * run.plan.steps_per_epoch) == 0
    by_steps = cadence.every_steps and run.step % cadence.every_steps == 0
    return bool(by_epochs or by_steps or run.outcome)


def evaluation_cadence(spec: TrainingSpec, clock: Callable[[], float]) -> Callable[[int], bool]:
    """Whether figures are due after a step; the first and last are the loop's own."""
    asked, every = spec.evaluation, _steps_between_evaluations(spec)
    if asked.every_seconds is not None:
        return _Timer(asked.every_seconds, clock, first_step=asked.first_step)
    return lambda step: step % every == 0 or (asked.first_step and step == 1)


def _steps_between_evaluations(spec: TrainingSpec) -> int:
    """By steps or epochs; of a cadence by the clock, those of the run."""
    asked, plan = spec.evaluation, spec.plan
    if asked.every_seconds is not None:
        return plan.steps
    if asked.every_steps is not None:
        return asked.every_steps
    if asked.every_epochs is not None or plan.epochs <= EVALUATIONS:
        return (asked.every_epochs or 1) * plan.steps_per_epoch
    return math.ceil(plan.steps / EVALUATIONS)


def evaluations_of(spec: TrainingSpec) -> int:
    """How often a whole run takes figures; those by the clock are not counted."""
    asked, steps, every = spec.evaluation, spec.plan.steps, _steps_between_evaluations(spec)
    first = asked.first_step and 1 not in (every, steps)
    return asked.initial + first + math.ceil(steps / every)


class _Timer:
    """True at the first call after each interval, and at the first step where that is asked for."""

    def __init__(self, seconds: float, clock: Callable[[], float], *, first_step: bool) -> None:
        self._seconds, self._clock, self._since = seconds, clock, clock()
        self._first_step = first_step

    def __call__(self, step: int) -> bool:
        now = self._clock()
        if now - self._since < self._seconds and not (self._first_step and step == 1):
            return False
        self._since = now
        return True
