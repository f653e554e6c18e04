"""Counts: where each goes, that none is lost between threads, and what counting costs."""

import math
import os
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.observing.meter import BATCHES, CONFIDENCES, GONE, UNMATCHED, Meter

ROUTE = ("POST", "/v1/predict")


def test_each_count_goes_where_it_belongs() -> None:
    meter = Meter([ROUTE, ("GET", "/v1/jobs")])
    number = meter.route(*ROUTE)
    meter.answered(number, 200, 0.003)
    meter.answered(number, 200, 99.0)
    meter.answered(number, 418, 0.001)
    meter.answered(meter.route("GET", "/elsewhere"), GONE, 0.0)
    meter.predicted([3], np.array([0.95]))
    meter.ran(4)
    meter.waiting(5)
    meter.acted("rung_again", 3)
    meter.reconciled(failed=True)
    found = meter.read()
    assert found.requests == {(ROUTE, 200): 2, (ROUTE, 0): 1, (UNMATCHED, GONE): 1}
    latencies = found.latencies[ROUTE]
    assert latencies.sum == pytest.approx(99.004)
    by_bound = dict(zip([*latencies.bounds, math.inf], latencies.counts, strict=True))
    assert {bound: count for bound, count in by_bound.items() if count} == {0.001: 1, 0.005: 1, math.inf: 1}
    assert list(found.labels) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert found.confidences.counts[CONFIDENCES.index(0.95)] == 1, "a bound belongs to what lies up to it"
    assert found.batches.counts[BATCHES.index(4)] == 1
    assert (found.waiting_images, found.actions["rung_again"], found.failed_rounds, found.rounds) == (
        5,
        3,
        1,
        0,
    )
    assert found.last_round == 0


def test_many_predictions_are_counted_as_one_by_one_they_would_be() -> None:
    labels = [number % 10 for number in range(100)]
    confidences = [0.01 * number + 0.005 for number in range(99)] + [1.0]
    one_by_one, at_once = Meter(), Meter()
    for label, confidence in zip(labels, confidences, strict=True):
        one_by_one.predicted([label], np.array([confidence]))
    at_once.predicted(labels, np.array(confidences))
    assert at_once.read().labels == one_by_one.read().labels
    assert at_once.read().confidences.counts == one_by_one.read().confidences.counts
    assert at_once.read().confidences.sum == pytest.approx(one_by_one.read().confidences.sum)


def test_threads_lose_no_count() -> None:
    meter, before = Meter(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def count(_: int) -> None:
        for _ in range(5_000):
            meter.predicted_one(1, 0.5)
            meter.ran(1)

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(4)))
    finally:
        sys.setswitchinterval(before)
    found = meter.read()
    assert (found.labels[1], found.confidences.sum, found.batches.sum) == (20_000, 10_000, 20_000)


def test_processes_share_and_a_successor_counts_on() -> None:
    meter = Meter(rows=2)
    for row, count in ((1, 3), (1, 4), (0, 5)):  # the second takes the place of the first
        if os.fork() == 0:
            try:
                meter.take(row)
                meter.start()
                for _ in range(count):
                    meter.ran(1)
                meter.waiting(9)
                meter.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.wait()[1] == 0
    meter.take(0)
    found = meter.read()
    assert found.batches.sum == 12
    assert found.waiting_images == 9, "of the other row: in its own nothing waits any more"


def test_counting_a_prediction_costs_a_few_microseconds_at_most() -> None:
    meter = Meter([ROUTE])

    def prediction() -> None:
        meter.ran(1)
        meter.predicted_one(3, 0.998)
        meter.answered(1, 200, 0.0003)

    seconds = min(timeit.repeat(prediction, number=1000, repeat=30)) / 1000
    assert seconds < 5e-6, f"{seconds * 1e6:.2f} us, of which a quiet machine takes one"
