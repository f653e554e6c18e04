"""The queue: a message is a doorbell that carries a job's id. It may come twice or never, and neither
matters: the row in the database is the truth, and a worker that finds it taken goes away again.
"""

import logging
import queue as stdlib_queue
import threading
from collections.abc import Sequence

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from service import broker
from service.settings import Settings
from service.store import jobs
from service.store.database import Database
from service.store.jobs import Job

TRAIN_TASK = "numeral.train"
QUEUES = ("cpu", "gpu")
PRIORITIES = tuple(range(10))  # 0 goes first
_SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and a priority

log = logging.getLogger(__name__)


def celery(settings: Settings) -> Celery:
    """The Celery application, the same for who sends and who works."""
    app = Celery("numeral", broker=broker.url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_acks_late=False,  # late ack started long tasks again at the visibility timeout
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=120.0,  # of a child to warm up its device; at the default's 4 it is killed
        task_ignore_result=True,
        task_publish_retry=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_timeout=3,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_create_missing_queues=True,
        task_default_queue="cpu",
        broker_transport_options={
            "max_retries": 0,  # of a sender; the reconciler is who tries again
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
            "priority_steps": list(PRIORITIES),
            "queue_order_strategy": "priority",
        },
    )
    return app


def send(app: Celery, job: Job) -> None:
    """Ring for a queued job. Raises OperationalError when the broker cannot be reached."""
    app.send_task(
        TRAIN_TASK, args=[job.id], queue=job.queue, priority=job.priority, ignore_result=True, retry=False
    )


def depths(settings: Settings) -> dict[str, int]:
    """Messages that wait at the broker, by queue. Raises redis.RedisError."""
    connection = broker.client(settings)
    try:
        pipeline = connection.pipeline(transaction=False)
        for name in QUEUES:
            for priority in PRIORITIES:
                pipeline.llen(f"{name}{_SEPARATOR}{priority}" if priority else name)
        lengths = pipeline.execute()
    finally:
        connection.close()
    size = len(PRIORITIES)
    return {name: sum(lengths[index * size : (index + 1) * size]) for index, name in enumerate(QUEUES)}


class Doorbell(threading.Thread):
    """Sends messages off the request's path, so that a slow or frozen broker delays no answer. What it
    cannot send is left to the reconciler."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="doorbell", daemon=True)
        self._app = app
        self._waiting: stdlib_queue.Queue[Job | None] = stdlib_queue.Queue(maxsize=1000)

    def ring(self, *queued: Job) -> None:
        """Send soon, in this order. Returns at once; over a full queue the reconciler will ring."""
        for sent, job in enumerate(queued):
            try:
                self._waiting.put_nowait(job)
            except stdlib_queue.Full:
                left = len(queued) - sent
                log.warning("too many messages wait to be sent: leaving %d jobs to the reconciler", left)
                return

    def run(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                send(self._app, job)
            except (OperationalError, redis.RedisError, OSError) as error:
                log.warning("could not ring for %s, the reconciler will: %s", job.id, error)
            except Exception:
                log.exception("could not ring for %s, the reconciler will", job.id)

    def close(self) -> None:
        """Send what waits, then stop; given up after a few seconds."""
        self._waiting.put(None)
        self.join(timeout=5)


def ring_all(app: Celery, db: Database, waiting: Sequence[Job]) -> int:
    """Ring again for each; returns how many were rung for before the broker failed, if it did."""
    for count, job in enumerate(waiting):
        try:
            send(app, job)
            jobs.mark_rung(db, job.id)
        except (OperationalError, redis.RedisError, OSError) as error:
            log.warning("the broker takes no messages: %s", error)
            return count
    return len(waiting)
