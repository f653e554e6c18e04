"""When a run's figures are written, and when it is looked at whether the job is to stop."""

import pytest

from service.checkpoints import Snapshot
from service.spec import TrainingSpec
from worker.record import POLL_SECONDS, Record
from worker.training import Report


def nothing() -> Snapshot:
    raise AssertionError("nobody asks for it")


def test_writes_put_off_no_look_at_whether_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint writes what is pending; with one every tenth of a second a job could not be paused or cancelled."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = Record(TrainingSpec(steps=1000))
    looks = 0
    for step in range(1, 101):
        now += POLL_SECONDS / 4
        report = Report(step, step / 100, 1.0, 0.1, 1.0, {}, True, None, None, None, nothing)
        kept.take(report)
        kept.hand_over(report)
        looks += kept.poll_due()
    assert looks == 25
