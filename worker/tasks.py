"""A message's work in one process: claim -> train, alone or with others of its sweep."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from pydantic import ValidationError

from service.errors import ServiceError
from service.spec import TrainingSpec
from service.store import attempts, sweeps, workers
from service.store.attempts import Attempt
from service.store.jobs import Job
from service.versions import code_version
from worker.attempt import Training
from worker.device import set_threads, threads_for
from worker.packed import Pack, kind
from worker.process import Process, out_of_memory
from worker.training import Diverged

log = logging.getLogger(__name__)


def train(process: Process, job_id: str) -> None:
    """Train a job to its end, unless the message came late or twice; and with it others that wait, if they are of
    its sweep and their networks can be trained with its own."""
    if process.leaving.is_set():
        return  # whoever comes next is rung for by the reconciler
    with ExitStack() as held:
        first = _claimed(process, job_id, held)
        if first is None:
            return
        together = [first]
        try:
            _gather(process, first.job, held, together)
        except ServiceError as error:
            # what has been claimed is in hand, and must not wait for its lease to run out
            log.warning("%s is trained with %d others: %s", job_id, len(together) - 1, error.detail)
        if len(together) == 1:
            first.run()
        else:
            Together(process, together).run()


def _claimed(process: Process, job_id: str, held: ExitStack) -> Training | None:
    """An attempt at the job, whose lease is renewed while `held` is open. None if there is nothing to do."""
    claimed_at = time.monotonic()
    job = attempts.claim(
        process.db,
        job_id,
        worker=process.name,
        device=process.heartbeat.device,
        lease_seconds=process.settings.lease_seconds,
        code_version=code_version(),
    )
    if job is None:
        log.info("%s is not queued: nothing to do", job_id)
        return None
    attempt = Attempt(job.id, job.attempt)
    lease = held.enter_context(process.heartbeat.holding(attempt, claimed_at=claimed_at))
    try:
        return Training(process, job, lease)
    except ValidationError as error:  # stored by a version with other rules
        attempts.fail(process.db, attempt, code="spec_not_accepted", detail=str(error), runtime=0.0)
        return None


def _gather(process: Process, job: Job, held: ExitStack, together: list[Training]) -> None:
    """Add to `together` attempts at jobs of the job's sweep that are trained with it."""
    share = _share(process, job)
    for other in _companions(process, job) if share > 1 else ():
        claimed = _claimed(process, other, held)
        if claimed is None:
            continue
        if claimed.job.attempt > 1:
            # somebody began it since it was listed: it goes on from its checkpoint, alone
            claimed.in_hand(claimed.release)
            continue
        together.append(claimed)
        if len(together) == share:
            return


def _share(process: Process, job: Job) -> int:
    """How many of its sweep's jobs are taken with it, itself among them: of those that have not ended, as many as every
    live worker may. Only a job that has never begun has company, since a pack begins at the first step."""
    if job.sweep_id is None or job.attempt > 1:
        return 1
    unended = sweeps.unended(process.db, job.sweep_id)
    share = -(-unended // max(1, workers.serving(process.db, job.queue)))
    return min(process.settings.max_together, share)


def _companions(process: Process, job: Job) -> Iterator[str]:
    """Jobs of its sweep that wait, and can be trained with it."""
    wanted = _kind_of(process, job)
    if job.sweep_id is None or wanted is None:
        return
    for other in sweeps.waiting(process.db, job.sweep_id, queue=job.queue, priority=job.priority):
        if _kind_of(process, other) == wanted:
            yield other.id


def _kind_of(process: Process, job: Job) -> Hashable | None:
    try:
        spec = TrainingSpec.model_validate(job.spec)
        return kind(spec, process.device_for(spec))
    except (ValidationError, ServiceError):
        return None


class Together:
    """Attempts at jobs of one sweep whose networks are trained together. Each is what it would be alone: a job that
    ends, fails, is stopped or lost leaves, and the others go on."""

    def __init__(self, process: Process, trainings: Sequence[Training]) -> None:
        self._process = process
        self._held = dict(enumerate(trainings))
        # seconds of training: what they did together counts for each by its share, the rest for whose it was
        self._shared, self._own = 0.0, [0.0] * len(trainings)
        self._since = time.monotonic()

    def run(self) -> None:
        try:
            self._train()
        except Exception as error:
            if out_of_memory(error):
                log.warning("%d jobs ran out of memory together: each will be trained alone", len(self._held))
            else:
                log.exception("%d jobs failed together", len(self._held))
            for number, training in self._held.items():
                training.count(self._seconds(number))
                training.in_hand(training.release if out_of_memory(error) else _raising(error))

    def _train(self) -> None:
        specs = [training.spec for training in self._held.values()]
        set_threads(threads_for(specs[0], self._process.threads, together=len(specs)))
        data = self._process.data(specs[0])
        pack = Pack(specs, data, device=data.device)
        for number, training in list(self._held.items()):
            self._keep(number, pack, partial(training.begin, training.spec, data, together=len(specs)))
        for number, report in pack:
            training = self._held[number]
            self._keep(
                number,
                pack,
                _raising(report) if isinstance(report, Diverged) else partial(training.take, report),
            )

    def _keep(self, number: int, pack: Pack, work: Callable[[], bool]) -> None:
        """Do a job's work, after which it may leave."""
        began = time.monotonic()
        self._shared += (began - self._since) / len(self._held)
        training = self._held[number]
        training.count(self._seconds(number))
        if not training.in_hand(work):
            del self._held[number]
            pack.leave(number)
        self._since = time.monotonic()
        self._own[number] += self._since - began

    def _seconds(self, number: int) -> float:
        return self._shared + self._own[number]


def _raising(error: Exception) -> Callable[[], bool]:
    def fail() -> bool:
        raise error

    return fail
