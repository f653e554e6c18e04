"""Puts right what no one else saw going wrong: rings for queued jobs whose message was lost, and takes
jobs back from workers that fell silent. Safe to run in several processes at once.
"""

import logging
import threading
import time
from collections.abc import Callable

import redis
from celery import Celery

from service import queue
from service.errors import Unavailable
from service.settings import Settings
from service.store import attempts, garbage, jobs, workers
from service.store.attempts import Attempt
from service.store.database import Database

RING_AGAIN_SECONDS = 3.0
RING_AT_MOST = 200  # a round
GARBAGE_EVERY_SECONDS = 300.0

log = logging.getLogger(__name__)


class Reconciler(threading.Thread):
    """Runs `round` every `reconcile_seconds` until closed."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        app: Celery,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._settings = settings
        self._db = db
        self._app = app
        self._clock = clock
        self._closing = threading.Event()
        self._watched: dict[tuple[str, int, float], float] = {}  # a lease as read -> since when, our clock
        self._garbage_at = clock() + GARBAGE_EVERY_SECONDS

    def run(self) -> None:
        while not self._closing.wait(self._settings.reconcile_seconds):
            try:
                self.round()
            except Unavailable as error:
                log.warning("reconciling later: %s", error.detail)
            except Exception:
                log.exception("a round of the reconciler failed")

    def close(self) -> None:
        self._closing.set()
        self.join(timeout=10)

    def round(self) -> None:
        """Look once."""
        self._take_back()
        self._ring_again()
        if self._clock() >= self._garbage_at:
            self._garbage_at = self._clock() + GARBAGE_EVERY_SECONDS
            garbage.collect(self._db)
            workers.forget_old(self._db)

    def _take_back(self) -> None:
        """A lease counts as run out when it has stood still for its length on our own clock, which no
        one sets: a database's or a worker's clock that jumps takes no job from a living worker."""
        moment = self._clock()
        held = {
            (job.id, job.attempt, job.lease_until): job
            for job in jobs.held(self._db)
            if job.lease_until is not None
        }
        self._watched = {lease: self._watched.get(lease, moment) for lease in held}
        for (job_id, number, until), since in self._watched.items():
            if moment - since < self._settings.lease_seconds:
                continue
            lost = attempts.worker_lost(
                self._db, Attempt(job_id, number), reason="lease_expired", lease_until=until
            )
            if lost is not None:
                log.warning("%s: its worker fell silent; it is %s now", job_id, lost.state)

    def _ring_again(self) -> None:
        """Ring for what has waited a while, but only as far as the broker holds fewer messages than
        there are queued jobs: those merely waiting their turn need no second message."""
        waiting = jobs.count_by_queue(self._db)
        if not waiting:
            return
        try:
            depths = queue.depths(self._settings)
        except (redis.RedisError, OSError) as error:
            log.warning("the broker does not answer: %s", error)
            return
        missing = {name: count - depths.get(name, 0) for name, count in waiting.items()}
        stale = jobs.unrung(self._db, older_than=RING_AGAIN_SECONDS, limit=RING_AT_MOST)
        chosen = []
        for job in stale:
            if missing.get(job.queue, 0) > 0:
                missing[job.queue] -= 1
                chosen.append(job)
        if chosen and queue.ring_all(self._app, self._db, chosen):
            log.info("rang again for %d queued jobs", len(chosen))
