"""The heartbeat of a process that works, in a thread of its own: renews the leases of what is in hand, and says that
the process lives."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import ServiceError, Unavailable
from service.store import workers
from service.store.database import Database
from service.store.leases import Held, LeaseLost

HEARTBEAT_SECONDS = 10.0
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)
H = TypeVar("H", bound=Held)
H_co = TypeVar("H_co", bound=Held, covariant=True)
T = TypeVar("T")


@dataclass
class Lease(Generic[H_co]):
    """A hold on a job or a batch for a while. Lost when the database says so, or when our own clock says that
    it can no longer have been renewed in time."""

    attempt: H_co
    seconds: float
    deadline: float
    refused: threading.Event = field(default_factory=threading.Event)

    @property
    def lost(self) -> bool:
        return self.refused.is_set() or time.monotonic() >= self.deadline

    def require(self) -> None:
        """Raises LeaseLost if it is."""
        if self.lost:
            raise LeaseLost(f"the lease of {self.attempt.held_id} ran out")

    def patiently(self, write: Callable[[], T]) -> T:
        """Write, trying again while the database is busy or away, as long as the lease can last."""
        while True:
            try:
                return write()
            except Unavailable as error:
                self.require()
                log.warning("%s: %s; trying again", self.attempt.held_id, error.detail)
                time.sleep(RETRY_SECONDS)


class Heartbeat(threading.Thread):
    """Beats at least every ten seconds, and six times a lease. `on_idle` is called at each beat without
    anything in hand, with the seconds since the last time; `figures` are what the process has counted."""

    def __init__(
        self,
        db: Database,
        *,
        name: str,
        device: str,
        queues: Sequence[str],
        lease_seconds: float,
        on_idle: Callable[[float], None],
        figures: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._db = db
        self._worker = name
        self.device = device
        self._queues = tuple(queues)
        self._lease_seconds = lease_seconds
        self._on_idle = on_idle
        self._figures = figures
        self._interval = min(HEARTBEAT_SECONDS, lease_seconds / 6)
        self._leases: tuple[Lease[Held], ...] = ()  # changed by the working thread alone, and as a whole
        self._idle_since = time.monotonic()
        self._wake = threading.Event()
        self._closing = False

    @contextmanager
    def holding(self, attempt: H, *, claimed_at: float) -> Iterator[Lease[H]]:
        """Keep the lease of what was claimed at `claimed_at` (monotonic) renewed while the block runs."""
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
        # of jobs together some may have ended
        held = [lease for lease in leases if not lease.refused.is_set()]
        for lease in held[1:]:
            self._try_to_renew(lease)
        began = time.monotonic()  # before the database takes its time, so that our lease runs out first
        is_held = workers.seen(
            self._db,
            self._worker,
            queues=self._queues,
            device=self.device,
            job_id=leases[0].attempt.held_id if leases else None,
            figures=self._told(),
            renewing=held[0].attempt if held else None,
            lease_seconds=self._lease_seconds,
        )
        if held:
            _note(held[0], began, is_held=is_held)
        if not leases:
            self._on_idle(time.monotonic() - self._idle_since)

    def _told(self) -> Mapping[str, float] | None:
        """What the process has counted; a device that cannot be asked must not cost it its lease."""
        try:
            return None if self._figures is None else self._figures()
        except Exception:
            log.exception("what the process has counted is not told")
            return None

    def _try_to_renew(self, lease: Lease[Held]) -> None:
        """In a transaction of its own: one that cannot be written now must not cost those after it theirs."""
        began = time.monotonic()
        try:
            with self._db.write(durable=False) as connection:
                lease.attempt.renew(connection, lease_seconds=lease.seconds)
        except LeaseLost:
            _note(lease, began, is_held=False)
        except ServiceError as error:
            log.warning("the lease of %s was not renewed: %s", lease.attempt.held_id, error.detail)
        else:
            _note(lease, began, is_held=True)


def _note(lease: Lease[Held], began: float, *, is_held: bool) -> None:
    if is_held:
        lease.deadline = began + lease.seconds
    else:
        lease.refused.set()
