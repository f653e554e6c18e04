"""Faults that may come at any moment, one after another."""

import random
import signal
import sqlite3
import time
from collections.abc import Callable

import psutil
import psycopg
import redis

from service.errors import Unavailable
from service.running import broker, queue
from service.store import jobs
from tests.faults.stack import LEASE_SECONDS, Stack

Inject = Callable[[Stack, random.Random], str]  # returns by what the fault was seen

ABSENT = (  # what is met where the fault before has left nothing to hit
    AssertionError,
    OSError,
    Unavailable,
    psutil.Error,
    redis.RedisError,
    sqlite3.OperationalError,
    psycopg.OperationalError,
)


class NotNow(Exception):
    """What the fault would hit is not there at the moment."""


def _holder(stack: Stack, chance: random.Random) -> psutil.Process:
    """A process that trains."""
    held = {int(job.worker.rsplit(":", 1)[1]) for job in jobs.held(stack.db) if job.worker is not None}
    found = [child for child in stack.service.worker().children() if child.pid in held]
    if not found:
        raise NotNow
    return chance.choice(found)


def kill_child(stack: Stack, chance: random.Random) -> str:
    child = _holder(stack, chance)
    child.kill()
    return f"process {child.pid} killed"


def freeze_child(stack: Stack, chance: random.Random) -> str:
    child = _holder(stack, chance)
    return _frozen(child, LEASE_SECONDS + chance.uniform(0, 3))


def kill_worker(stack: Stack, _: random.Random) -> str:
    worker = stack.service.worker()
    worker.kill()
    return f"worker {worker.pid} killed"


def stop_worker(stack: Stack, _: random.Random) -> str:
    worker = stack.service.worker()
    worker.terminate()
    return f"worker {worker.pid} told to leave"


def kill_api(stack: Stack, _: random.Random) -> str:
    api = stack.service.child("serve")
    api.kill()
    return f"API {api.pid} killed"


def freeze_broker(stack: Stack, chance: random.Random) -> str:
    return _frozen(stack.broker(), chance.uniform(1, 8))


def kill_broker(stack: Stack, _: random.Random) -> str:
    process = stack.broker()
    if stack.redis is None:
        process.kill()
    else:
        stack.redis.kill()
        stack.redis.start()
    return f"broker {process.pid} killed"


def wipe_broker(stack: Stack, _: random.Random) -> str:
    count = sum(queue.depths(stack.settings).values())
    connection = broker.client(stack.settings)
    connection.flushall()
    connection.close()
    return f"{count} messages forgotten"


def repeat_messages(stack: Stack, _: random.Random) -> str:
    app, count = queue.celery(stack.settings), 0
    for job in jobs.held(stack.db):
        for _again in range(20):
            queue.ring(app, job)
            count += 1
    app.close()
    if not count:
        raise NotNow
    return f"{count} messages for jobs that are held"


def lock_database(stack: Stack, chance: random.Random) -> str:
    seconds = chance.uniform(1, 6)
    with stack.locked():
        time.sleep(seconds)
    return f"locked for {seconds:.1f} s"


def restart_postgresql(stack: Stack, chance: random.Random) -> str:
    assert stack.cluster is not None
    number = chance.choice([signal.SIGINT, signal.SIGQUIT])
    stack.cluster.stop(number)
    stack.cluster.start()
    return f"stopped by {number.name}, started again"


def _frozen(process: psutil.Process, seconds: float) -> str:
    process.suspend()
    try:
        time.sleep(seconds)
        return f"process {process.pid} {process.status()} for {seconds:.1f} s"
    finally:
        process.resume()


EVERYWHERE: dict[str, Inject] = {
    "training child killed": kill_child,
    "training child frozen": freeze_child,
    "worker killed": kill_worker,
    "worker told to leave": stop_worker,
    "API killed": kill_api,
    "broker frozen": freeze_broker,
    "broker killed": kill_broker,
    "broker wiped": wipe_broker,
    "messages repeated": repeat_messages,
    "database locked": lock_database,
}
ON_POSTGRESQL: dict[str, Inject] = {**EVERYWHERE, "PostgreSQL restarted": restart_postgresql}


def faults_of(stack: Stack) -> list[str]:
    return list(EVERYWHERE if stack.cluster is None else ON_POSTGRESQL)


def inject(name: str, stack: Stack, chance: random.Random) -> str:
    """Let the fault happen; returns by what it was seen. Raises NotNow."""
    try:
        return ON_POSTGRESQL[name](stack, chance)
    except ABSENT as absent:
        raise NotNow(type(absent).__name__) from absent
