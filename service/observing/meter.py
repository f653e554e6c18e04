"""Counts of what happens often: requests, predictions, batches, rounds of the reconciler.

A process counts in a plain list, since a request may cost no more than some microseconds; names and labels are put to
the numbers when somebody asks. Twice a second the list is copied into memory that the API's processes share, a row
each, and a scrape adds the rows up, whichever process it meets. A process that takes a dead one's place takes its row
and counts on, so that no count falls while the server lives.

There is no lock: CPython changes threads at calls and jumps, not within `cells[place] += 1.0`."""

import mmap
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = 10
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONFIDENCES: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0)
GONE: Final = 499  # the client left before its answer began
STATUSES: Final = (
    *(101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307),
    *(400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 416, 421, 422, 426, 428, 429, GONE),
    *(500, 501, 502, 503, 504, 507),
)
OTHER: Final = 0  # what stands for a status that is not listed
UNMATCHED: Final = ("", "unmatched")  # of requests that reach no route: refused before, or none is there
ACTIONS: Final = ("taken_back", "rung_again", "collected")
SHARE_SECONDS: Final = 0.5  # between two copies
_BOUNDS = np.array(CONFIDENCES)
_FEW = 16  # predictions that are sooner counted one by one than as an array

Route = tuple[str, str]  # method, template


@dataclass(frozen=True)
class Distribution:
    """How many values lie up to each bound, the last being infinity; and their sum."""

    bounds: Sequence[float]
    counts: Sequence[float]  # not added up
    sum: float


@dataclass(frozen=True)
class Reading:
    """All counts of all processes at a moment."""

    requests: Mapping[tuple[Route, int], float]  # those that came at least once
    latencies: Mapping[Route, Distribution]
    labels: Sequence[float]
    confidences: Distribution
    batches: Distribution
    waiting_images: float
    rounds: float
    failed_rounds: float
    actions: Mapping[str, float]
    last_round: float  # seconds since 1970; 0 before the first


# where in a row what lies: of a distribution a cell for each bound, one beyond the last, and the sum
_LABELS: Final = 0
_CONFIDENCES: Final = _LABELS + CLASSES
_CONFIDENCE_SUM: Final = _CONFIDENCES + len(CONFIDENCES) + 1
_BATCHES: Final = _CONFIDENCE_SUM + 1
_BATCH_SUM: Final = _BATCHES + len(BATCHES) + 1
_WAITING: Final = _BATCH_SUM + 1
_ROUNDS, _FAILED, _LAST = range(_WAITING + 1, _WAITING + 4)
_ACTIONS: Final = _LAST + 1
_REQUESTS: Final = _ACTIONS + len(ACTIONS)
_STATUS_AT: Final = {status: index for index, status in enumerate((OTHER, *STATUSES))}
_SECONDS_SUM: Final = len(SECONDS) + 1  # and so on within a route
_STATUSES: Final = _SECONDS_SUM + 1
_ROUTE_WIDTH: Final = _STATUSES + len(_STATUS_AT)


def _distribution(row: NDArray[np.float64], start: int, bounds: Sequence[float]) -> Distribution:
    total = start + len(bounds) + 1
    return Distribution(bounds, row[start:total].tolist(), float(row[total]))


class Meter:
    """The counts of one process, and those of its siblings to read."""

    def __init__(self, routes: Sequence[Route] = (), *, rows: int = 1) -> None:
        """Make it before the processes are forked; each then takes its row."""
        self._routes = {route: number for number, route in enumerate((UNMATCHED, *routes))}
        self._width, self._rows = _REQUESTS + _ROUTE_WIDTH * len(self._routes), rows
        self._memory = mmap.mmap(-1, 8 * self._width * rows)  # anonymous, and shared with what is forked
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._share_often, name="meter", daemon=True)
        self._row = 0
        self._cells: list[float] = [0.0] * self._width

    def take(self, row: int) -> None:
        """Count in this row from now on, from where its last owner stopped; what that had in hand is gone with it."""
        self._row = row
        start = 8 * row * self._width
        self._cells = np.frombuffer(self._memory, np.float64, self._width, start).tolist()
        self._cells[_WAITING] = 0.0

    def start(self) -> None:
        """Let the siblings see the counts, where there are any."""
        if self._rows > 1:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._share()

    def _share_often(self) -> None:
        while not self._closing.wait(SHARE_SECONDS):
            self._share()

    def _share(self) -> None:
        start = 8 * self._row * self._width
        self._memory[start : start + 8 * self._width] = array("d", self._cells).tobytes()

    def route(self, method: str, template: str) -> int:
        """The number under which its requests are counted; 0 is of those that reach no route."""
        return self._routes.get((method, template), 0)

    def answered(self, route: int, status: int, seconds: float) -> None:
        """A request, when its answer begins. For the thread of the event loop."""
        cells, start = self._cells, _REQUESTS + route * _ROUTE_WIDTH
        cells[start + bisect_left(SECONDS, seconds)] += 1.0
        cells[start + _SECONDS_SUM] += seconds
        cells[start + _STATUSES + _STATUS_AT.get(status, 0)] += 1.0

    def predicted(self, labels: Sequence[int], confidences: NDArray[Any]) -> None:
        """What a model has said of n images, and its (n,) confidences. Any thread may tell."""
        if len(labels) > _FEW:
            self._predicted_many(labels, confidences)
            return
        for label, confidence in zip(labels, confidences.tolist(), strict=True):
            self.predicted_one(label, confidence)

    def predicted_one(self, label: int, confidence: float) -> None:
        """As `predicted`, of one image."""
        cells = self._cells
        cells[_LABELS + label] += 1.0
        cells[_CONFIDENCES + bisect_left(CONFIDENCES, confidence)] += 1.0
        cells[_CONFIDENCE_SUM] += confidence

    def _predicted_many(self, labels: Sequence[int], confidences: NDArray[Any]) -> None:
        by_label = np.bincount(labels, minlength=CLASSES).tolist()
        by_place = np.bincount(_BOUNDS.searchsorted(confidences), minlength=len(CONFIDENCES) + 1).tolist()
        total, cells = float(np.add.reduce(confidences)), self._cells
        for start, counts in ((_LABELS, by_label), (_CONFIDENCES, by_place)):
            for place, count in enumerate(counts, start):
                cells[place] += count
        cells[_CONFIDENCE_SUM] += total

    def ran(self, images: int) -> None:
        """A network, on so many images at once. Any thread may tell."""
        cells = self._cells
        cells[_BATCHES + bisect_left(BATCHES, images)] += 1.0
        cells[_BATCH_SUM] += images

    def waiting(self, images: int) -> None:
        """How many images wait for a network now."""
        self._cells[_WAITING] = images

    def reconciled(self, *, failed: bool) -> None:
        """A round of the reconciler is over. For its thread."""
        self._cells[_FAILED if failed else _ROUNDS] += 1.0
        if not failed:
            self._cells[_LAST] = time.time()

    def acted(self, action: str, count: int = 1) -> None:
        """The reconciler did one of ACTIONS. For its thread."""
        self._cells[_ACTIONS + ACTIONS.index(action)] += count

    def read(self) -> Reading:
        """What this process has counted until now, and its siblings until half a second ago."""
        self._share()
        table = np.frombuffer(self._memory, np.float64).reshape(self._rows, self._width)
        row = table.sum(axis=0)
        latencies: dict[Route, Distribution] = {}
        requests: dict[tuple[Route, int], float] = {}
        for route, number in self._routes.items():
            start = _REQUESTS + number * _ROUTE_WIDTH
            latencies[route] = _distribution(row, start, SECONDS)
            counts = row[start + _STATUSES : start + _ROUTE_WIDTH].tolist()
            requests |= {
                (route, status): count for status, count in zip(_STATUS_AT, counts, strict=True) if count
            }
        return Reading(
            requests=requests,
            latencies=latencies,
            labels=row[_LABELS : _LABELS + CLASSES].tolist(),
            confidences=_distribution(row, _CONFIDENCES, CONFIDENCES),
            batches=_distribution(row, _BATCHES, BATCHES),
            waiting_images=float(row[_WAITING]),
            rounds=float(row[_ROUNDS]),
            failed_rounds=float(row[_FAILED]),
            actions=dict(zip(ACTIONS, row[_ACTIONS:_REQUESTS].tolist(), strict=True)),
            last_round=float(table[:, _LAST].max()),
        )
