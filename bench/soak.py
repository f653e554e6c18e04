"""Random faults over many jobs, one after another for as long as asked: nothing lost, nothing twice, every hash as of
a run that nothing disturbed. Each fault, with what it was seen by, is a line; the table at the end counts them.
Needs the tools that the tests need. Bound: no job differs from what is promised.

    python -m bench.soak [--minutes 2] [--jobs 20] [--seed 0] [--postgresql]
"""

import argparse
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from service.client import ApiError, Job, Unreachable
from service.errors import Unavailable
from service.store import jobs
from tests.acceptance.conftest import until
from tests.acceptance.test_main_job import SMALL
from tests.faults.injections import NotNow, faults_of, inject
from tests.faults.stack import STACKS, Stack, started

SPECS: list[dict[str, Any]] = [{**SMALL, "epochs": 16, "seed": seed} for seed in range(3)]
OUTSTANDING = 6  # jobs that are queued or held at a time
END_SECONDS = 300.0  # for what is left when the faults are over
PAUSE_SECONDS = (1.0, 5.0)  # between two faults
PATIENCE_SECONDS = 60.0  # for what a fault would hit: a worker that was killed comes back after up to 30


def submitted(stack: Stack, spec: dict[str, Any]) -> Job:
    """A job, asked for with one key until it is accepted: an API that was killed again and again is started again after
    up to half a minute each time."""
    key = str(uuid.uuid4())
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            return stack.service.client.jobs.create(spec, idempotency_key=key)
        except (ApiError, Unreachable) as error:
            refused = isinstance(error, ApiError) and error.status != 503
            if refused or time.monotonic() > deadline:
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
    made: list[str] = []
    fired = Counter[str]()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(made) < count:
        for _ in range(OUTSTANDING - waiting(stack)):
            made.append(submitted(stack, SPECS[len(made) % len(SPECS)]).id)
        name = chance.choice(faults_of(stack))
        seen = _patiently(name, stack, chance)
        fired[name] += seen is not None
        seen = seen or f"nothing was there to be hit within {PATIENCE_SECONDS:.0f} s"
        print(f"{time.monotonic() - began:6.0f} s  {name}: {seen}", flush=True)
        time.sleep(chance.uniform(*PAUSE_SECONDS))
    return made, fired


def _patiently(name: str, stack: Stack, chance: random.Random) -> str | None:
    """By what a fault was seen, which waits for what it hits; None if that was not there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return inject(name, stack, chance)
        except NotNow:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)


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
