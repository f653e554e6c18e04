"""The queue: a message is a doorbell that carries the id of a job or a batch. It may come twice or never, and neither
matters: the row in the database is the truth, and a worker that finds it taken goes away again.
"""

import logging
import queue as stdlib_queue
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import redis
from celery import Celery, signals
from celery.platforms import SecurityWarning
from kombu.exceptions import OperationalError

from service.running import broker
from service.settings import Settings
from service.store import batches

TRAIN_TASK, READ_TASK = "numeral.train", "numeral.read"
TASKS = {
    "cpu": TRAIN_TASK,
    "gpu": TRAIN_TASK,
    batches.QUEUE: READ_TASK,
}  # what the messages of a queue ask for
QUEUES = tuple(TASKS)
PRIORITIES = tuple(range(10))  # 0 goes first
STUCK_SECONDS = 120.0  # of waiting work and an idle process beside it
_SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and a priority

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """What a message rings for: a row that waits in a queue."""

    @property
    def id(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def priority(self) -> int: ...


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


def work(app: Celery, queues: Sequence[str], *, name: str, log_level: str, pool: str, size: int = 1) -> None:
    """Take messages of these queues until told to stop; logging stays as it is."""
    # it warns root of pickled messages; ours are JSON, and nothing else is accepted
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_logging, weak=False)
    app.worker_main(
        [
            *("--quiet", "worker", "--pool", pool, "--concurrency", str(size)),
            *("--queues", ",".join(queues), "--hostname", f"{name}@%h"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("--loglevel", log_level),
        ]
    )


def _keep_logging(**_: Any) -> None:
    """With a receiver of this signal, Celery leaves logging as it is."""


def send(app: Celery, waiting: Waiting) -> None:
    """Ring for what is queued. Raises OperationalError when the broker cannot be reached."""
    app.send_task(
        TASKS[waiting.queue],
        args=[waiting.id],
        queue=waiting.queue,
        priority=waiting.priority,
        ignore_result=True,
        retry=False,
    )


def ring(app: Celery, waiting: Waiting) -> None:
    """As `send`; what cannot be sent is left to the reconciler."""
    try:
        send(app, waiting)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning("could not ring for %s, the reconciler will: %s", waiting.id, error)


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


def is_deaf(
    settings: Settings, queues: Sequence[str], *, idle: float, oldest_wait: Callable[[], float | None]
) -> bool:
    """Whether a process that has been idle for so many seconds no longer gets its messages: work has grown old beside
    it, with the broker alive. It had better end, so that whoever supervises starts a sound one."""
    if idle < STUCK_SECONDS:
        return False
    waited = oldest_wait()
    if waited is None or waited < STUCK_SECONDS:
        return False
    try:
        if sum(depths(settings)[name] for name in queues) == 0:
            return False  # nothing to get: it is the sender that is missing
    except (redis.RedisError, OSError):
        return False
    log.error("work has waited %.0f seconds beside an idle process: ending it to start afresh", waited)
    return True


class Doorbell(threading.Thread):
    """Sends messages off the request's path, so that a slow or frozen broker delays no answer. What it
    cannot send is left to the reconciler."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="doorbell", daemon=True)
        self._app = app
        self._waiting: stdlib_queue.Queue[Waiting | None] = stdlib_queue.Queue(maxsize=1000)

    def ring(self, *queued: Waiting) -> None:
        """Send soon, in this order. Returns at once; over a full queue the reconciler will ring."""
        for sent, one in enumerate(queued):
            try:
                self._waiting.put_nowait(one)
            except stdlib_queue.Full:
                left = len(queued) - sent
                log.warning("too many messages wait to be sent: leaving %d of them to the reconciler", left)
                return

    def run(self) -> None:
        while (one := self._waiting.get()) is not None:
            try:
                ring(self._app, one)
            except Exception:
                log.exception("could not ring for %s, the reconciler will", one.id)

    def close(self) -> None:
        """Send what waits, then stop; given up after a few seconds."""
        self._waiting.put(None)
        self.join(timeout=5)


def ring_all(app: Celery, waiting: Iterable[Waiting], *, mark: Callable[[str], None]) -> int:
    """Ring again for each, and `mark` its id; returns how many were rung for before the broker failed, if it did."""
    count = 0
    for one in waiting:
        try:
            send(app, one)
        except (OperationalError, redis.RedisError, OSError) as error:
            log.warning("the broker takes no messages: %s", error)
            break
        mark(one.id)
        count += 1
    return count
