"""How many steps fit into a budget of seconds, from a trial: the first steps of the run itself, on a throw-away
copy of the network, timed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch

from service.errors import ServiceError
from service.network import Network
from service.spec import MAX_STEPS, Evaluation, TrainingSpec
from worker.committee import fit
from worker.device import Resident
from worker.training import Report, evaluations_of

WARM_STEPS = 3  # that find nothing in its place yet: not timed
LEAST_STEPS = 5
SHARE, LONGEST_SECONDS = 0.04, 8.0  # of the budget that a trial takes, more or less


class BudgetTooSmall(ServiceError):
    status, code, title = 409, "budget_too_small", "The budget is too small"


@dataclass(frozen=True)
class Speed:
    """Seconds that the parts of a run take, each once."""

    start: float
    """Before the first step, and what this takes beyond the first of any pass."""
    step: float
    """An ordinary one, its report included."""
    opening: float
    """What the first step of a pass takes beyond the others."""
    evaluation: float
    checkpoint: float


class Trial:
    """Iterate to run it: a report after each step, so that the consumer can stop between two of them. The last
    one's snapshot can still be taken, and `speed` be asked for, when the iteration has ended."""

    def __init__(
        self,
        spec: TrainingSpec,
        data: Resident,
        *,
        device: torch.device,
        teacher: Network | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spec` has a `budget_seconds`; `teacher` as `fit` takes it. `clock` gives seconds."""
        assert spec.budget_seconds is not None
        self._seconds = min(LONGEST_SECONDS, SHARE * spec.budget_seconds)
        # figures are taken when we say so: at the step after `_asked` was raised
        self._cadence = Evaluation(every_seconds=1.0, train_examples=spec.evaluation.train_examples)
        self._asked = 0.0
        self._spec = spec.model_copy(update={"early_stopping": None}).with_steps(MAX_STEPS)
        self._data, self._device, self._clock = data, device, clock
        self._teacher = teacher
        self._start = self._first_step = self._figures = 0.0
        self._figures_open = False
        self._steps: list[float] = []
        self._openings: list[float] = []

    def __iter__(self) -> Iterator[Report]:
        yield from islice(self._fit(initial=False), WARM_STEPS)
        timed = self._timed(self._fit(initial=True))
        self._start, report = next(timed)
        yield report
        self._first_step, report = next(timed)
        yield report
        yield from self._ordinary(timed)
        self._asked += 1
        self._figures, report = next(timed)
        self._figures_open = self._opens(report)
        yield report

    def _ordinary(self, timed: Iterator[tuple[float, Report]]) -> Iterator[Report]:
        """Steps without figures, of the trial's length. Where a pass has but one step, all are ordinary."""
        while sum(self._steps) + sum(self._openings) < self._seconds or len(self._steps) < LEAST_STEPS:
            seconds, report = next(timed)
            (self._openings if self._opens(report) else self._steps).append(seconds)
            yield report

    def _opens(self, report: Report) -> bool:
        steps_per_pass = self._spec.batching.steps_per_pass
        return steps_per_pass > 1 and (report.step - 1) % steps_per_pass == 0

    def _fit(self, *, initial: bool) -> Iterator[Report]:
        cadence = self._cadence.model_copy(update={"initial": initial})
        spec = self._spec.model_copy(update={"evaluation": cadence})
        return fit(spec, self._data, device=self._device, teacher=self._teacher, clock=lambda: self._asked)

    def _timed(self, reports: Iterator[Report]) -> Iterator[tuple[float, Report]]:
        """Each report with the seconds that it took to come."""
        while True:
            before = self._clock()
            report = next(reports)
            yield self._clock() - before, report

    def speed(self, *, report: float, checkpoint: float) -> Speed:
        """What was measured; and what only the consumer can know, the seconds that it takes for a report and for
        a checkpoint."""
        step = fmean(self._steps)
        opening = self._opening(step)
        evaluation = max(0.0, self._figures - step - (opening if self._figures_open else 0.0))
        once = self._first_step - step - opening
        return Speed(
            start=max(0.0, self._start - evaluation) + max(0.0, once),
            step=step + report,
            opening=opening,
            evaluation=evaluation,
            checkpoint=checkpoint,
        )

    def _opening(self, step: float) -> float:
        """Of the passes after the first, whose own also has what is done once; where the trial saw no other, of
        that one."""
        if self._spec.batching.steps_per_pass == 1:
            return 0.0
        return max(0.0, fmean(self._openings or [self._first_step]) - step)


def seconds_of(spec: TrainingSpec, speed: Speed) -> float:
    """How long a run of known steps takes at that speed."""
    plan = spec.plan
    training = speed.start + plan.steps * speed.step + -(-plan.steps // plan.steps_per_pass) * speed.opening
    return training + _figures_and_checkpoints(spec, speed, training)


def _figures_and_checkpoints(spec: TrainingSpec, speed: Speed, training: float) -> float:
    evaluations = evaluations_of(spec)
    if spec.evaluation.every_seconds is not None:
        evaluations += int(training // spec.evaluation.every_seconds)
    seconds = evaluations * speed.evaluation
    cadence, plan = spec.checkpoints, spec.plan
    checkpoints = 0
    if cadence.every_epochs is not None:
        checkpoints += plan.steps // (cadence.every_epochs * plan.steps_per_epoch)
    if cadence.every_steps is not None:
        checkpoints += plan.steps // cadence.every_steps
    if cadence.keep == "newest" and cadence.min_seconds:
        checkpoints = min(checkpoints, int((training + seconds) // cadence.min_seconds))
    return seconds + (checkpoints + 1) * speed.checkpoint


def steps_within(spec: TrainingSpec, speed: Speed, seconds: float) -> int:
    """The largest number of steps that ends within `seconds`. Raises BudgetTooSmall when not one does, or fewer
    than the schedule's warm-up has."""
    low, high = max(1, spec.warmup_steps), MAX_STEPS
    least = seconds_of(spec.with_steps(low), speed)
    if least > seconds:
        raise BudgetTooSmall(
            f"{low:,} steps, the fewest that this run can have, take {least:.3g} seconds here, and "
            f"{max(0.0, seconds):.3g} of budget_seconds are left for them: raise it, or make the network smaller"
        )
    while low < high:
        middle = (low + high + 1) // 2
        if seconds_of(spec.with_steps(middle), speed) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low
