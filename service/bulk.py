"""The process that reads batches: claim -> body -> the API's own reading -> answers, a chunk a transaction.

It is Celery's, with a queue to itself, since a worker that trains is busy for hours. It lies beside the API and not in
`worker`: it reads by the API's very code, so that a batch's answers are those of `/v1/predict`, and needs no torch."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from itertools import chain
from types import FrameType
from typing import Any

import cv2
from celery import Celery, signals
from starlette.types import Scope
from threadpoolctl import threadpool_limits

from service.api.predictions.archives import Archive
from service.api.predictions.batches import Batch as Images
from service.api.predictions.batches import Way
from service.api.predictions.predictions import predicted
from service.api.predictions.streams import CHUNK, Lines, Reader, written
from service.api.predictions.uploads import Upload
from service.data.digits import PIXELS
from service.errors import ServiceError, Unavailable
from service.observing import tracing
from service.observing.meter import Meter
from service.running import queue
from service.running.lease import Heartbeat, Lease
from service.serving.batcher import Batcher
from service.serving.classifier import Classifier, Loaded
from service.settings import Settings
from service.store import batches, blobs, workers
from service.store.batches import QUEUE, Batch, Hold, Kind
from service.store.blobs import Damaged
from service.store.database import Database
from service.store.leases import LeaseLost
from service.trail import Following

FILES_A_CHUNK = 64  # of an archive: a photograph takes many times as long as pixels
RETRY_SECONDS = 1.0

Answers = list[dict[str, Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Process:
    """What reads one batch after the other."""

    settings: Settings
    db: Database
    name: str
    classifier: Classifier
    batcher: Batcher
    heartbeat: Heartbeat
    leaving: threading.Event  # set when the process is told to stop
    ring: Callable[[Batch], None]

    def read(self, batch_id: str) -> None:
        """Read a batch to its end, unless the message came late or twice."""
        if self.leaving.is_set():
            return  # whoever comes next is rung for by the reconciler
        claimed_at = time.monotonic()
        lease_seconds = self.settings.lease_seconds
        batch = batches.claim(self.db, batch_id, worker=self.name, lease_seconds=lease_seconds)
        if batch is None:
            log.info("%s is not queued: nothing to do", batch_id)
            return
        with self.heartbeat.holding(Hold(batch.id, batch.attempt), claimed_at=claimed_at) as lease:
            about = Following(
                batch.traceparent, request_id=batch.request_id, batch_id=batch.id, attempt=batch.attempt
            )
            with about, tracing.span("read batch", batch_id=batch.id, attempt=batch.attempt):
                Attempt(self, batch, lease).run()


class Attempt:
    """One attempt at one batch, from where the one before has left it."""

    def __init__(self, process: Process, batch: Batch, lease: Lease[Hold]) -> None:
        self._process = process
        self._db = process.db
        self._batch = batch
        self._lease = lease
        self._hold = lease.attempt

    def run(self) -> None:
        """Leaves the batch in one of its states whatever happens; one that is no longer ours is left alone."""
        try:
            self._read()
        except LeaseLost as lost:
            log.warning("%s", lost.detail)
        except Unavailable as error:
            # not tried again where it happened: whether those answers are stored is only known to the row
            log.warning("%s goes back to the queue: %s", self._batch.id, error.detail)
            time.sleep(RETRY_SECONDS)
            self._seen_to(self._release)
        except ServiceError as error:
            self._fail(error.code, error.detail)
        except Damaged as damage:
            self._fail("body_damaged", str(damage))
        except Exception as error:
            log.exception("%s failed", self._batch.id)
            self._fail("internal_error", f"{type(error).__name__}: {error}")

    def _fail(self, code: str, detail: str) -> None:
        log.warning("%s failed: %s", self._batch.id, detail)
        self._seen_to(lambda: batches.fail(self._db, self._hold, code=code, detail=detail))

    def _seen_to(self, end: Callable[[], object]) -> None:
        try:
            self._lease.patiently(end)
        except LeaseLost as lost:
            log.warning("%s", lost.detail)
        except Exception:
            log.exception("%s cannot be let go of: its lease will run out", self._batch.id)

    def _read(self) -> None:
        loaded = self._process.classifier.loaded(self._batch.model_id)
        done, errors = self._batch.done, self._batch.errors
        for told in self._told(loaded):
            self._lease.require()
            done += len(told)
            errors += sum("error" in one for one in told)
            batches.append(self._db, self._hold, written(told), done=done, errors=errors)
            if self._process.leaving.is_set():
                self._release()
                return
        batches.succeed(self._db, self._hold)
        log.info("%s succeeded: %d images, %d of them unreadable", self._batch.id, done, errors)

    def _release(self) -> None:
        self._process.ring(batches.release(self._db, self._hold))

    def _told(self, loaded: Loaded) -> Iterator[Answers]:
        """The answers that are still to be given, some at a time."""
        kinds: dict[Kind, Callable[[Loaded], Iterator[Answers]]] = {
            "lines": self._of_lines,
            "pixels": self._of_pixels,
            "archive": self._of_archive,
        }
        return kinds[self._batch.kind](loaded)

    def _of_lines(self, loaded: Loaded) -> Iterator[Answers]:
        process, batch = self._process, self._batch
        reader = Reader(process.settings, process.batcher, loaded, self._scope, batch.preprocess, batch.scale)
        lines, answered = Lines(process.settings.max_json_bytes), batch.done
        for piece in chain(self._body(0, batch.body_size), (b"",)):
            found = lines.feed(piece) if piece else lines.end()
            new = found[answered:]
            answered -= len(found) - len(new)
            for start in range(0, len(new), CHUNK):
                yield reader.told(new[start : start + CHUNK])

    def _of_pixels(self, loaded: Loaded) -> Iterator[Answers]:
        way, size = self._way(loaded), min(CHUNK, self._process.settings.max_images)
        for start in range(self._batch.done, self._batch.total, size):
            stop = min(start + size, self._batch.total)
            raw = b"".join(self._body(start * PIXELS, stop * PIXELS))
            yield self._answers(loaded, way.read(Upload(raw, is_pixels=True)), start)

    def _of_archive(self, loaded: Loaded) -> Iterator[Answers]:
        way, limit = self._way(loaded), self._process.settings.max_body_bytes
        with Archive(BufferedReader(blobs.File(self._db, self._blob, self._batch.body_size))) as archive:
            for start in range(self._batch.done, len(archive), FILES_A_CHUNK):
                numbers = range(start, min(start + FILES_A_CHUNK, len(archive)))
                files = (archive.read(number, max_bytes=limit) for number in numbers)
                yield self._answers(loaded, way.archived(files, first=start), start)

    def _answers(self, loaded: Loaded, images: Images, before: int) -> Answers:
        told = predicted(self._process.batcher, loaded, images, self._scope)
        return [{"line": line} | one for line, one in enumerate(told, before + 1)]

    def _body(self, start: int, stop: int) -> Iterator[bytes]:
        return blobs.read(self._db, self._blob, start=start, stop=stop)

    @property
    def _blob(self) -> str:
        assert self._batch.body_blob is not None, "a batch that has not ended has its body"
        return self._batch.body_blob

    def _way(self, loaded: Loaded) -> Way:
        return Way(self._process.settings, loaded.model.preprocessing, self._batch.preprocess, "item")

    @property
    def _scope(self) -> Scope:
        """What a problem says of its request: the batch is all that there is of it."""
        return {"path": f"/v1/batches/{self._batch.id}", "state": {"request_id": self._batch.id}}


def run(settings: Settings) -> None:
    """Read batches until told to stop. SIGTERM and SIGINT let the one in hand go back to the queue."""
    signal.signal(signal.SIGTERM, _leave)  # until Celery listens
    # as in an API process, whose answers these are
    threadpool_limits(limits=1)
    cv2.setNumThreads(1)
    tracing.begin(settings, "batches")
    db = Database(settings.database)
    app = queue.celery(settings)
    name = f"{socket.gethostname()}:{os.getppid()}:{os.getpid()}"
    leaving = threading.Event()
    meter = Meter()
    heartbeat = Heartbeat(
        db,
        name=name,
        device="CPU",
        queues=(QUEUE,),
        lease_seconds=settings.lease_seconds,
        on_idle=partial(_watch, settings, db),
        figures=lambda: {"images": meter.read().batches.sum},
    )
    batcher = Batcher(settings.max_waiting_images, meter)
    process = Process(
        settings, db, name, Classifier(db, meter=meter), batcher, heartbeat, leaving, partial(queue.ring, app)
    )
    heartbeat.start()
    batcher.start()
    try:
        _work(process, app)
    finally:
        batcher.close()
        heartbeat.close()
        workers.gone(db, name)
        db.close()
        tracing.end()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _work(process: Process, app: Celery) -> None:
    def leave(**_: Any) -> None:
        process.leaving.set()

    app.task(name=queue.READ_TASK, ignore_result=True)(process.read)
    signals.worker_shutting_down.connect(leave, weak=False)
    # in this very process: it holds nothing that a crash could spoil, and whoever supervises starts another
    queue.work(
        app, (QUEUE,), name=f"batches-{os.getpid()}", log_level=process.settings.log_level, pool="solo"
    )


def _watch(settings: Settings, db: Database, idle_seconds: float) -> None:
    waited = partial(batches.oldest_wait, db)
    if queue.is_deaf(settings, (QUEUE,), idle=idle_seconds, oldest_wait=waited):
        os.kill(os.getpid(), signal.SIGTERM)
