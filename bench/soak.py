"""Random faults over many jobs, one after another for as long as asked: nothing lost, nothing twice, every hash as of
a run that nothing disturbed. Each fault, with what it was seen by, is a line; the table at the end counts them.
Needs the tools that the tests need. Bound: no job differs from what is promised.

    python -m bench.soak [--minutes 2] [--jobs 20] [--seed 0] [--postgresql]
"""

import argparse
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from service import broker, queue
from service.client import ApiError, Job
from service.errors import Unavailable
from service.store import jobs
from tests.acceptance.conftest import until
from tests.acceptance.test_main_job import SMALL
from tests.faults.stack import LEASE_SECONDS, STACKS, Stack, started

SPECS: list[dict[str, Any]] = [{**SMALL, "seed": seed} for seed in range(3)]
OUTSTANDING = 6  # jobs that are queued or held at a time
END_SECONDS = 300.0  # for what is left when the faults are over
PAUSE_SECONDS = (1.0, 5.0)  # between two faults

Inject = Callable[[Stack, random.Random], str]  # returns by what the fault was seen


class NotNow(Exception):
    """What the fault would hit is not there at the moment."""


def _holder(stack: Stack, chance: random.Random) -> psutil.Process:
    """A process that trains."""
    held = [job.worker for job in jobs.held(stack.db) if job.worker is not None]
    if not held:
        raise NotNow
    return psutil.Process(int(chance.choice(held).rsplit(":", 1)[1]))


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


def submitted(stack: Stack, spec: dict[str, Any]) -> Job:
    """A job, asked for with one key until it is accepted."""
    key = str(uuid.uuid4())
    while True:
        try:
            return stack.service.client.jobs.create(spec, idempotency_key=key)
        except ApiError as error:
            if error.status != 503:
                raise
            time.sleep(1)


def waiting(stack: Stack) -> int:
    """Jobs that have not ended."""
    while True:
        try:
            return sum(jobs.count_by_queue(stack.db).values()) + len(jobs.held(stack.db))
        except Unavailable:
            time.sleep(0.5)


def disturb(
    stack: Stack, chance: random.Random, *, seconds: float, count: int
) -> tuple[list[str], Counter[str]]:
    """Submit and inject until both the time is over and there are so many jobs. Returns the jobs, by their specs in
    turn, and how often each fault has fired."""
    faults = EVERYWHERE if stack.cluster is None else ON_POSTGRESQL
    made: list[str] = []
    fired = Counter[str]()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(made) < count:
        for _ in range(OUTSTANDING - waiting(stack)):
            made.append(submitted(stack, SPECS[len(made) % len(SPECS)]).id)
        name = chance.choice(list(faults))
        try:
            seen = faults[name](stack, chance)
        except (NotNow, AssertionError, psutil.Error, OSError, Unavailable) as absent:
            print(f"{time.monotonic() - began:6.0f} s  {name}: not now ({type(absent).__name__})", flush=True)
        else:
            fired[name] += 1
            print(f"{time.monotonic() - began:6.0f} s  {name}: {seen}", flush=True)
        time.sleep(chance.uniform(*PAUSE_SECONDS))
    return made, fired


def differing(stack: Stack, made: list[str]) -> list[str]:
    """What is wrong, a line a job."""
    wrong = []
    for number, job_id in enumerate(made):
        try:
            stack.as_promised(job_id, SPECS[number % len(SPECS)])
        except AssertionError as error:
            wrong.append(f"{job_id}: {str(error).splitlines()[0] if str(error) else 'differs'}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=20, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true", help="with Redis, instead of SQLite with Valkey")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)  # noqa: S311 - moments, not secrets
    with (
        tempfile.TemporaryDirectory(prefix="numeral-soak-") as folder,
        started(STACKS[asked.postgresql], Path(folder), NUMERAL_MAX_ATTEMPTS="100") as stack,
    ):
        for spec in SPECS:
            stack.undisturbed(spec)
        made, fired = disturb(stack, chance, seconds=asked.minutes * 60, count=asked.jobs)
        until(lambda: not waiting(stack), "every job has ended", END_SECONDS)
        wrong = differing(stack, made)
        rows = [jobs.get(stack.db, job_id) for job_id in made]
    print(f"\n{stack.name}, seed {asked.seed}\n\n| fault | fired |\n| --- | ---: |")
    for name, count in sorted(fired.items()):
        print(f"| {name} | {count} |")
    attempts, crashes = sum(row.attempt for row in rows), sum(row.crashes for row in rows)
    print(
        f"\n{len(made)} jobs in {attempts} attempts, of which {crashes} lost their worker; {len(wrong)} differ"
    )
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
