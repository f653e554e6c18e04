"""Puts right what no one else saw going wrong: rings for queued jobs and batches whose message was lost, and takes
them back from workers that fell silent. Safe to run in several processes at once.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import redis
from celery import Celery

from service.errors import Unavailable
from service.observing.meter import Meter
from service.running import queue
from service.settings import Settings
from service.store import attempts, batches, garbage, jobs, retention, workers
from service.store.attempts import Attempt
from service.store.batches import Batch, Hold
from service.store.database import Database
from service.store.jobs import Job
from service.store.retention import Policy

RING_AGAIN_SECONDS = 3.0
RING_AT_MOST = 200  # a round
GARBAGE_EVERY_SECONDS = 300.0
RETENTION_SECONDS = 2.0  # at most, each time

log = logging.getLogger(__name__)


class Leased(queue.Waiting, Protocol):
    """A row that workers hold by leases, and that waits in a queue before."""

    @property
    def state(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def lease_until(self) -> float | None: ...


R = TypeVar("R", bound=Leased)


@dataclass(frozen=True)
class Kind(Generic[R]):
    """How rows of one kind are found, and what becomes of one whose lease ran out."""

    held: Callable[[Database], Sequence[R]]
    lost: Callable[[Database, R, float], R | None]
    count_by_queue: Callable[[Database], dict[str, int]]
    unrung: Callable[..., Sequence[R]]
    mark_rung: Callable[[Database, str], None]


def _lost_job(db: Database, job: Job, until: float) -> Job | None:
    held = Attempt(job.id, job.attempt)
    return attempts.worker_lost(db, held, reason="lease_expired", lease_until=until)


def _lost_batch(db: Database, batch: Batch, until: float) -> Batch | None:
    return batches.worker_lost(db, Hold(batch.id, batch.attempt), reason="lease_expired", lease_until=until)


KINDS: tuple[Kind[Any], ...] = (
    Kind(jobs.held, _lost_job, jobs.count_by_queue, jobs.unrung, jobs.mark_rung),
    Kind(batches.held, _lost_batch, batches.count_by_queue, batches.unrung, batches.mark_rung),
)


class Reconciler(threading.Thread):
    """Runs `round` every `reconcile_seconds` until closed."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        app: Celery,
        meter: Meter | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._settings = settings
        self._db = db
        self._app = app
        self._meter = meter or Meter()
        self._clock = clock
        self._policy = Policy(settings.keep_checkpoints_days, settings.keep_batches_days)
        self._closing = threading.Event()
        self._watched: dict[tuple[str, int, float], float] = {}  # a lease as read -> since when, our clock
        self._garbage_at = clock() + GARBAGE_EVERY_SECONDS

    def run(self) -> None:
        while not self._closing.wait(self._settings.reconcile_seconds):
            failed = True
            try:
                self.round()
                failed = False
            except Unavailable as error:
                log.warning("reconciling later: %s", error.detail)
            except Exception:
                log.exception("a round of the reconciler failed")
            self._meter.reconciled(failed=failed)

    def close(self) -> None:
        self._closing.set()
        self.join(timeout=10)

    def round(self) -> None:
        """Look once."""
        self._take_back()
        self._ring_again()
        if self._clock() >= self._garbage_at:
            self._garbage_at = self._clock() + GARBAGE_EVERY_SECONDS
            retention.apply(self._db, self._policy, seconds=RETENTION_SECONDS)
            garbage.collect(self._db)
            self._meter.acted("collected")
            workers.forget_old(self._db)

    def _take_back(self) -> None:
        """A lease counts as run out when it has stood still for its length on our own clock, which no
        one sets: a database's or a worker's clock that jumps takes no job from a living worker."""
        moment = self._clock()
        held: dict[tuple[str, int, float], Callable[[], Leased | None]] = {}
        for kind in KINDS:
            held |= self._held(kind)
        self._watched = {lease: self._watched.get(lease, moment) for lease in held}
        for lease, since in self._watched.items():
            if moment - since < self._settings.lease_seconds:
                continue
            lost = held[lease]()
            if lost is not None:
                self._meter.acted("taken_back")
                log.warning("%s: its worker fell silent; it is %s now", lost.id, lost.state)

    def _held(self, kind: Kind[R]) -> dict[tuple[str, int, float], Callable[[], R | None]]:
        """By each lease, as it reads, how to take the row back."""
        return {
            (row.id, row.attempt, row.lease_until): partial(kind.lost, self._db, row, row.lease_until)
            for row in kind.held(self._db)
            if row.lease_until is not None
        }

    def _ring_again(self) -> None:
        """Ring for what has waited a while, but only as far as the broker holds fewer messages than
        there are queued rows: those merely waiting their turn need no second message."""
        missing: Counter[str] = Counter()
        for kind in KINDS:
            missing.update(kind.count_by_queue(self._db))
        if not missing:
            return
        try:
            missing.subtract(queue.depths(self._settings))
        except (redis.RedisError, OSError) as error:
            log.warning("the broker does not answer: %s", error)
            return
        for kind in KINDS:
            self._ring_for(kind, missing)

    def _ring_for(self, kind: Kind[R], missing: Counter[str]) -> None:
        chosen = []
        for row in kind.unrung(self._db, older_than=RING_AGAIN_SECONDS, limit=RING_AT_MOST):
            if missing[row.queue] > 0:
                missing[row.queue] -= 1
                chosen.append(row)
        rung = queue.ring_all(self._app, chosen, mark=partial(kind.mark_rung, self._db))
        if rung:
            self._meter.acted("rung_again", rung)
            log.info("rang again for %d of what is queued", rung)
