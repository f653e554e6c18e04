"""Start-up of a worker: a Celery parent that never trains, and one forked child a device that does.

The parent opens no database connection that a fork could carry over, and touches no GPU; each child
builds its own engine, heartbeat and device after the fork, and dies with its parent.
"""

import importlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from billiard import current_process, set_start_method
from billiard.exceptions import WorkerLostError
from celery import Celery, signals

from service.errors import ServiceError
from service.observing import tracing
from service.running import lifeline, queue
from service.running.lease import Heartbeat
from service.settings import Settings
from service.store import attempts, jobs, workers
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.jobs import Job
from service.versions import code_version
from worker import device, tasks
from worker.figures import Figures, gpu
from worker.leaving import Leaving
from worker.process import Process

LOOK_SECONDS = 0.5  # between two looks at whether a child has died

log = logging.getLogger(__name__)


class WorkerError(ServiceError):
    status, code, title = 500, "worker_error", "The worker cannot start"


def run(settings: Settings) -> None:
    """Work until told to stop. SIGTERM and SIGINT let the jobs in hand save and go back to the queue."""
    Worker(settings).run()


class Worker:
    """The parent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        code_version()  # of the sources as they have just been loaded: what every child then runs
        self._gpus = _gpus(settings)
        self._queues = ("gpu", "cpu") if self._gpus else ("cpu",)
        self._size = self._gpus or settings.workers
        self._pid = os.getpid()
        self._leaving = Leaving()
        self._app: Celery = queue.celery(settings)
        self._process: Process | None = None  # of a child, after the fork
        self._looking = False

    def run(self) -> None:
        # what torch imports at its first step, some seconds' worth: once here, then every child, also one that takes
        # a dead one's place, has it from the fork
        importlib.import_module("torch._dynamo")
        set_start_method("fork", force=True)  # a fresh interpreter, macOS's default, would know none of this
        # registered under a name that the sender spells too: service never imports worker
        self._app.task(name=queue.TRAIN_TASK, ignore_result=True)(self._train)
        connections: Sequence[tuple[Any, Any]] = (
            (signals.worker_process_init, self._begin_child),
            (signals.worker_process_shutdown, self._end_child),
            (signals.worker_shutting_down, self._leave),
            (signals.worker_ready, self._look_often),
            (signals.task_failure, self._child_died),
        )
        for celery_signal, receiver in connections:
            celery_signal.connect(receiver, weak=False)
        queue.work(
            self._app,
            self._queues,
            name=f"numeral-{os.getpid()}",
            log_level=self._settings.log_level,
            pool="prefork",
            size=self._size,
        )

    def _train(self, job_id: str) -> None:
        assert self._process is not None, "tasks run in children only"
        tasks.train(self._process, job_id)

    def _begin_child(self, **_: Any) -> None:
        lifeline.die_with_parent(signal.SIGKILL, parent=self._pid)
        try:
            self._process = self._make_process()
        except Exception:
            # Celery would keep the child, which could only take messages and fail
            log.exception("a training process cannot start: ending the worker")
            os.kill(self._pid, signal.SIGTERM)
            return
        self._process.heartbeat.start()

    def _make_process(self) -> Process:
        settings = self._settings
        index = int(getattr(current_process(), "index", 0))
        chosen = torch.device("cuda", index % self._gpus) if self._gpus else torch.device("cpu")
        if self._gpus:
            torch.cuda.set_device(chosen)
        threads = settings.threads or max(1, (os.cpu_count() or 1) // self._size)
        device.set_threads(threads)
        device.warm_up(chosen)
        tracing.begin(settings, "worker")
        db = Database(settings.database)
        name = f"{socket.gethostname()}:{os.getppid()}:{os.getpid()}"
        figures = Figures(gpu(chosen))
        heartbeat = Heartbeat(
            db,
            name=name,
            device=device.describe(chosen),
            queues=self._queues,
            lease_seconds=settings.lease_seconds,
            on_idle=lambda seconds: self._watch(db, seconds),
            figures=figures.read,
        )
        return Process(settings, db, name, chosen, threads, heartbeat, self._leaving, self._ring, figures)

    def _end_child(self, **_: Any) -> None:
        if self._process is not None:
            self._process.heartbeat.close()
            workers.gone(self._process.db, self._process.name)
            self._process.db.close()
            tracing.end()

    def _leave(self, **_: Any) -> None:
        self._leaving.set()

    def _look_often(self, sender: Any, **_: Any) -> None:
        """Celery's event loop is woken by the end of a child, but not with a broker over TCP: there it looks every
        five seconds. Ready is a worker again after each loss of the broker; the timer outlasts that."""
        if not self._looking:
            self._looking = True
            sender.hub.call_repeatedly(LOOK_SECONDS, sender.pool._pool.maintain_pool)  # noqa: SLF001

    def _child_died(self, exception: BaseException | None = None, args: Any = (), **_: Any) -> None:
        """In the parent, a fifth of a second after a child died: give its jobs to another at once. The
        connection is closed before the next fork, which this same thread does."""
        if not isinstance(exception, WorkerLostError):
            return
        db = Database(self._settings.database, pooled=False)
        try:
            # not by the message's own job: it may have ended before those that were trained with it
            for held in jobs.held(db):
                if held.worker is None or not _is_dead_child(held.worker):
                    continue
                workers.gone(db, held.worker)  # it takes no share of a sweep any more
                lost = attempts.worker_lost(db, Attempt(held.id, held.attempt), reason="worker_died")
                if lost is not None and lost.state == "queued":
                    self._ring(lost)
        except ServiceError as error:
            log.warning("the reconciler will take %s back: %s", args[0], error.detail)
        finally:
            db.close()

    def _ring(self, job: Job) -> None:
        queue.ring(self._app, job)

    def _watch(self, db: Database, idle_seconds: float) -> None:
        if self._leaving.is_set():
            return
        waited = partial(workers.oldest_wait, db, self._queues)
        if queue.is_deaf(self._settings, self._queues, idle=idle_seconds, oldest_wait=waited):
            os.kill(os.getppid(), signal.SIGTERM)


def _gpus(settings: Settings) -> int:
    """GPUs to train on. Counted through NVML, which leaves CUDA untouched before the fork."""
    count = 0 if settings.device == "cpu" else torch.cuda.device_count()
    if settings.device == "cuda" and count == 0:
        raise WorkerError("NUMERAL_DEVICE is cuda, but there is no GPU here: set it to auto or cpu")
    return count


def _is_dead_child(name: str) -> bool:
    host, parent, child = name.rsplit(":", 2)
    if (host, int(parent)) != (socket.gethostname(), os.getpid()):
        return False
    try:
        os.kill(int(child), 0)
    except ProcessLookupError:
        return True
    return False
