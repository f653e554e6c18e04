from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from service import checkpoints
from service.data.datasets import Dataset
from service.spec import TrainingSpec
from worker import budget, training
from worker.budget import BudgetTooSmall, Speed, Trial, seconds_of, steps_within
from worker.device import place

CPU = torch.device("cpu")
SPEED = Speed(start=3.0, step=0.125, opening=0.25, evaluation=2.0, checkpoint=0.5)


pytestmark = pytest.mark.usefixtures("one_thread")


def images() -> Dataset:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (130, 784)).astype(np.uint8)
    y = generator.integers(0, 10, 130)
    return Dataset("mnist", x[:90], y[:90], x[90:90], y[90:90], x[90:], y[90:], sha256="")


def spec_of(**fields: Any) -> TrainingSpec:
    """Five steps a pass."""
    return TrainingSpec.model_validate(
        {
            "dataset": {"examples": 90},
            "network": {"hidden_widths": [8]},
            "batch_size": 20,
            "budget_seconds": 100.0,
            **fields,
        }
    )


class Scripted:
    """A run whose parts take the seconds of SPEED, and its clock."""

    def __init__(self, once: float = 0.0) -> None:
        """`once` is what the first step of all takes beyond that."""
        self.now, self._once = 0.0, once

    def fit(self, spec: TrainingSpec, *_: object, clock: Callable[[], float], **__: object) -> Iterator[Any]:
        since, self.now = clock(), self.now + SPEED.start
        if spec.evaluation.initial:
            self.now += SPEED.evaluation
            yield SimpleNamespace(step=0)
        for step in count(1):
            opens = (step - 1) % spec.batching.steps_per_pass == 0
            self.now += SPEED.step + opens * SPEED.opening + (step == 1) * self._once
            if clock() - since >= 1:
                self.now, since = self.now + SPEED.evaluation, clock()
            yield SimpleNamespace(step=step)


def test_a_trial_tells_the_parts_of_a_run_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    run, untouched = Scripted(), spec_of()
    monkeypatch.setattr(budget, "fit", run.fit)
    data: Any = None
    trial = Trial(untouched, data, device=CPU, clock=lambda: run.now)
    for _ in trial:
        run.now += 1000.0  # what the consumer does in between is not the run's
    assert trial.speed(report=0.0, checkpoint=0.5) == SPEED
    assert trial.speed(report=0.5, checkpoint=0.5) == replace(SPEED, step=SPEED.step + 0.5)
    single = Trial(spec_of(batch_size="full"), data, device=CPU, clock=lambda: run.now)
    list(single)
    assert single.speed(report=0.0, checkpoint=0.5) == replace(
        SPEED, step=SPEED.step + SPEED.opening, opening=0.0
    )


@pytest.mark.parametrize("batch", [20, "full"])
def test_what_only_the_first_step_takes_is_counted_once(
    batch: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scripted(once=7.0)
    monkeypatch.setattr(budget, "fit", run.fit)
    data: Any = None
    trial = Trial(spec_of(batch_size=batch), data, device=CPU, clock=lambda: run.now)
    list(trial)
    speed = trial.speed(report=0.0, checkpoint=0.5)
    assert (speed.start, speed.step + speed.opening) == (SPEED.start + 7, SPEED.step + SPEED.opening)


def test_of_a_pass_longer_than_the_trial_the_first_opening_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Scripted()
    monkeypatch.setattr(budget, "fit", run.fit)
    data: Any = None
    trial = Trial(spec_of(batch_size=1), data, device=CPU, clock=lambda: run.now)
    list(trial)
    assert trial.speed(report=0.0, checkpoint=0.5) == SPEED


def test_a_trial_is_a_small_part_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Scripted()
    monkeypatch.setattr(budget, "fit", run.fit)
    data: Any = None
    list(Trial(spec_of(budget_seconds=10_000.0), data, device=CPU, clock=lambda: run.now))
    assert run.now < 2 * budget.LONGEST_SECONDS + 2 * SPEED.start + 2 * SPEED.evaluation


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"evaluation": {"every_steps": 7, "initial": True, "first_step": True}},
        {"evaluation": {"every_steps": 1, "first_step": True}},
        {"evaluation": {"every_epochs": 2}},
        {"batch_size": "full", "checkpoints": {"every_steps": 3, "every_epochs": None, "min_seconds": 0}},
    ],
)
@pytest.mark.parametrize("steps", [1, 5, 36, 120])
def test_the_seconds_of_a_run_are_those_of_its_parts(fields: dict[str, Any], steps: int) -> None:
    """Counted on a real run."""
    spec = (
        spec_of(checkpoints={"keep": "all"}, **fields) if "checkpoints" not in fields else spec_of(**fields)
    )
    planned = spec.with_steps(steps)
    reports = list(training.fit(planned, images(), device=CPU))
    taken = [report for report in reports if report.step]
    openings = {(report.step - 1) // planned.plan.steps_per_pass for report in taken}
    stored = sum(report.checkpoint_due for report in taken)
    if steps % (spec.checkpoints.every_steps or 5) == 0:
        stored += 1  # that of the last step counts twice: as one that is due, and as the last
    wanted = (
        SPEED.start
        + SPEED.step * len(taken)
        + SPEED.opening * len(openings)
        + SPEED.evaluation * sum(bool(report.metrics) for report in reports)
        + SPEED.checkpoint * stored
    )
    assert seconds_of(planned, SPEED) == pytest.approx(wanted)


def test_checkpoints_and_figures_by_the_clock() -> None:
    quiet = spec_of(evaluation={"every_steps": 10**8}, checkpoints={"every_epochs": None}).with_steps(800)
    assert seconds_of(quiet, SPEED) == 3 + 100 + 40 + 2 + 0.5
    timed = spec_of(evaluation={"every_seconds": 50.0}, checkpoints={"every_epochs": None}).with_steps(800)
    assert seconds_of(timed, SPEED) == 3 + 100 + 40 + 2 + 0.5 + 2 * 2
    sparing = {"every_steps": 1, "min_seconds": 5.0}  # in 145 seconds
    often = spec_of(evaluation={"every_steps": 10**8}, checkpoints=sparing).with_steps(800)
    assert seconds_of(often, SPEED) == 3 + 100 + 40 + 2 + 0.5 + 29 * 0.5


@pytest.mark.parametrize("seconds", [7.0, 8.5, 100.0, 12_345.0])
def test_as_many_steps_as_end_in_time(seconds: float) -> None:
    spec = spec_of(evaluation={"every_epochs": 3})
    steps = steps_within(spec, SPEED, seconds)
    assert (
        seconds_of(spec.with_steps(steps), SPEED) <= seconds < seconds_of(spec.with_steps(steps + 1), SPEED)
    )


def test_a_budget_that_holds_no_run_says_so() -> None:
    with pytest.raises(BudgetTooSmall, match="1 steps, the fewest"):
        steps_within(spec_of(), SPEED, 5.8)
    warm = spec_of(schedule={"name": "cosine", "warmup_steps": 400})
    with pytest.raises(BudgetTooSmall, match="400 steps, the fewest"):
        steps_within(warm, SPEED, 60.0)


def test_a_trial_leaves_no_trace_in_the_run() -> None:
    spec = spec_of(
        budget_seconds=1.0,
        averaging={},
        regularization={"dropout": 0.2},
        augmentation={"rotation": 10.0},
        network={"hidden_widths": [8], "normalization": "batch"},
    )
    planned = spec.with_steps(12)
    *_, alone = training.fit(planned, images(), device=CPU)
    data = place(images(), CPU)
    *_, probe = Trial(spec, data, device=CPU)
    assert probe.metrics
    assert checkpoints.encode(probe.snapshot().weights, {})
    *_, after = training.fit(planned, data, device=CPU)
    assert checkpoints.encode(after.snapshot().weights, {}) == checkpoints.encode(
        alone.snapshot().weights, {}
    )
