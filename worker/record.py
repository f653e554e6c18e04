"""What there is to write about a run, kept until it is time to."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.spec import MAX_STEPS, TrainingSpec
from service.store.attempts import Curve, Point
from worker.training import Report

POLL_SECONDS = 0.5  # between two looks at whether the job is to stop
WRITE_SECONDS = 1.0  # between two writes of progress without figures
FIGURES_SECONDS = 0.2  # and with figures
POINTS_OF_A_RUN = 1000  # of the series that have a value at every step
CURVES_OF_A_RUN = 1000  # of a regression: 1.3 kB each


class Record:
    """The points, figures and curves of one attempt."""

    def __init__(self, spec: TrainingSpec, *, together: int = 1) -> None:
        """`together`: the attempts that share a process."""
        self._plan = spec.plan
        self._figures_seconds = FIGURES_SECONDS if together == 1 else WRITE_SECONDS  # all write as often
        self._stride = -(-self._plan.steps // POINTS_OF_A_RUN)
        self._curve_stride = -(-self._plan.steps // CURVES_OF_A_RUN)
        self._curve_part: int | None = None  # of the strides, that of the last curve kept
        self._points: list[Point] = []
        self._figures: list[Mapping[str, Any]] = []
        self._curves: list[Curve] = []
        self._written_at = time.monotonic()
        self._polled_at = time.monotonic()
        self._first: tuple[int, float] | None = None  # step and time at the start of this attempt
        self._opened = False

    @property
    def pending(self) -> bool:
        """Whether points, figures or curves wait to be written."""
        return bool(self._points or self._figures or self._curves)

    def take(self, report: Report) -> None:
        """Keep the report's points: figures always, what has a value at every step thinned evenly, and curves
        likewise."""
        if self._first is None:
            self._first = (report.step, time.monotonic())
        if report.step and (report.step % self._stride == 0 or report.step == self._plan.steps):
            self._points.append(Point("batch_loss", report.step, report.epoch, report.loss))
            self._points.append(Point("learning_rate", report.step, report.epoch, report.learning_rate))
        # an earlier step that was restored has its own points already
        if report.metrics and report.restored_step in (None, report.step):
            for name, value in report.metrics.items():
                self._points.append(Point(name, report.step, report.epoch, value))
            self._figures.append(
                {"step": report.step, "epoch": report.epoch, "metrics": dict(report.metrics)}
            )
        if report.curve is not None:
            self._take_curve(report, report.curve)

    def _take_curve(self, report: Report, outputs: NDArray[np.float32]) -> None:
        """The first of each stride, that after the first step, and the last. An attempt that goes on amid a
        stride may add one to it."""
        part = report.step // self._curve_stride
        if part == self._curve_part and report.step > 1 and report.outcome is None:
            return
        self._curve_part = part
        # of an earlier step that was restored, it may have been passed over
        step = report.step if report.restored_step is None else report.restored_step
        self._curves.append(Curve(step, self._plan.epoch_of(step), outputs))

    def write_due(self, report: Report) -> bool:
        elapsed = time.monotonic() - self._written_at
        return (
            report.step == 1
            or report.outcome is not None
            or elapsed >= (self._figures_seconds if self._figures else WRITE_SECONDS)
        )

    def poll_due(self) -> bool:
        """Whatever was written meanwhile: what a checkpoint has written is not asked whether the job is to stop."""
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return False
        self._polled_at = time.monotonic()
        return True

    def hand_over(
        self, report: Report
    ) -> tuple[dict[str, Any], list[Point], list[Mapping[str, Any]], list[Curve]]:
        """Progress, points, figures and curves to write now."""
        points, figures, curves = self._points, self._figures, self._curves
        if report.step == 1 and not figures and report.outcome is None and not self._opened:
            self._opened = True
            points = []  # the first word, that it trains, is the shortest: they come with the next
        else:
            self._points, self._figures, self._curves = [], [], []
        self._written_at = time.monotonic()
        return self._progress(report), points, figures, curves

    def _progress(self, report: Report) -> dict[str, Any]:
        assert self._first is not None
        first_step, first_time = self._first
        seconds = time.monotonic() - first_time
        steps_a_second = (report.step - first_step) / seconds if seconds > 0 else 0.0
        left = self._plan.steps - report.step if report.outcome is None else 0
        return {
            "step": report.step,
            "steps": self._plan.steps,
            "epoch": report.epoch,
            "epochs": self._plan.epochs,
            "loss": report.loss,
            "images_per_second": steps_a_second * self._plan.examples / self._plan.steps_per_pass,
            "eta_seconds": left / steps_a_second if steps_a_second else None,
        }


def seconds_to_note(report: Report) -> float:
    """What a report without figures takes beyond its step, most of which a small network on a GPU would notice."""
    record, ordinary = Record(TrainingSpec(steps=MAX_STEPS)), replace(report, metrics={}, curve=None)
    began = time.monotonic()
    for _ in range(1000):
        record.take(ordinary)
        if not record.write_due(ordinary):
            record.poll_due()
    return (time.monotonic() - began) / 1000
