"""The heartbeat of a training process, in a thread of its own: renews the leases of the jobs in hand, and
says that the process lives."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.errors import ServiceError
from service.store import attempts, workers
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.jobs import JobLost

HEARTBEAT_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass
class Lease:
    """A hold on a job for a while. Lost when the database says so, or when our own clock says that it
    can no longer have been renewed in time."""

    attempt: Attempt
    seconds: float
    deadline: float
    refused: threading.Event = field(default_factory=threading.Event)

    @property
    def lost(self) -> bool:
        return self.refused.is_set() or time.monotonic() >= self.deadline


class Heartbeat(threading.Thread):
    """Beats at least every ten seconds, and six times a lease. `on_idle` is called at each beat without a
    job, with the seconds since the last one."""

    def __init__(
        self,
        db: Database,
        *,
        name: str,
        device: str,
        queues: Sequence[str],
        lease_seconds: float,
        on_idle: Callable[[float], None],
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._db = db
        self._worker = name
        self.device = device
        self._queues = tuple(queues)
        self._lease_seconds = lease_seconds
        self._on_idle = on_idle
        self._interval = min(HEARTBEAT_SECONDS, lease_seconds / 6)
        self._leases: tuple[Lease, ...] = ()  # changed by the training thread alone, and as a whole
        self._idle_since = time.monotonic()
        self._wake = threading.Event()
        self._closing = False

    @contextmanager
    def holding(self, attempt: Attempt, *, claimed_at: float) -> Iterator[Lease]:
        """Keep the lease of a job claimed at `claimed_at` (monotonic) renewed while the block runs."""
        lease = Lease(attempt, self._lease_seconds, claimed_at + self._lease_seconds)
        self._leases = (*self._leases, lease)
        try:
            yield lease
        finally:
            self._leases = tuple(one for one in self._leases if one is not lease)
            self._idle_since = time.monotonic()

    def run(self) -> None:
        while not self._closing:
            try:
                self._beat()
            except ServiceError as error:
                log.warning("no heartbeat reached the database: %s", error.detail)
            except Exception:
                log.exception("a heartbeat failed")
            self._wake.wait(self._interval)

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self.join(timeout=5)

    def _beat(self) -> None:
        leases = self._leases
        for lease in leases:
            if not lease.refused.is_set():  # of jobs together, that of one that has ended
                self._try_to_renew(lease)
        job_id = leases[0].attempt.job_id if leases else None
        workers.seen(self._db, self._worker, queues=self._queues, device=self.device, job_id=job_id)
        if not leases:
            self._on_idle(time.monotonic() - self._idle_since)

    def _try_to_renew(self, lease: Lease) -> None:
        """One that cannot be written now must not cost those after it theirs."""
        try:
            self._renew(lease)
        except ServiceError as error:
            log.warning("the lease of %s was not renewed: %s", lease.attempt.job_id, error.detail)

    def _renew(self, lease: Lease) -> None:
        began = time.monotonic()  # before the database takes its time, so that ours runs out first
        try:
            attempts.heartbeat(self._db, lease.attempt, lease_seconds=lease.seconds)
        except JobLost:
            lease.refused.set()
        else:
            lease.deadline = began + lease.seconds
