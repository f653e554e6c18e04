"""How far one PostgreSQL goes: 1,000 simulated workers and 10,000 jobs against the store itself, in a database of its own.

    python -m bench.scale                    claims, heartbeats and the reconciler's round, by how many ask at once
    python -m bench.scale --workers 200 --jobs 2000
    python -m bench.scale --ratio            64 small jobs by one training process, and by two

A worker is simulated by what it asks of the database: a claim at the start of each job, every ten seconds its lease
renewed and a sign of life, some figures, and an end. What 1,000 of them ask for is set beside what the database bears,
so that it can be read off where it bends. Bound: it bears twice what they ask for, where they are given connections.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import insert, make_url, select

from service.running.lease import HEARTBEAT_SECONDS
from service.spec import TrainingSpec
from service.store import attempts, jobs, schema, workers
from service.store.attempts import Attempt, Point
from service.store.database import Database
from service.store.tables import job
from tests.acceptance.conftest import running, until

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
AT_ONCE = (1, 4, 16)  # who ask at the same time; a Database has 30 connections at most
JOB_SECONDS = 60.0  # of a job of the fleet that is reckoned with
BOUND = 2.0
SPEC = TrainingSpec(epochs=1)
SMALL = {
    "dataset": {"examples": 5_000},
    "network": {"hidden_widths": [16]},
    "batch_size": 100,
    "epochs": 10,
    "evaluation": {"every_epochs": 10},
}
SMALL_JOBS = 64
TURNS = (1, 2, 2, 1)
RATIO_BOUND = 1.8


@contextmanager
def empty() -> Iterator[Database]:
    """A migrated database of our own, dropped at the end."""
    url = make_url(POSTGRES_URL)
    name = f"numeral_bench_{uuid.uuid4().hex[:12]}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        db = Database(url.set(database=name).render_as_string(hide_password=False))
        try:
            schema.migrate(db)
            yield db
        finally:
            db.close()
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(frozen=True)
class Rate:
    """Of one kind of act: how many a second, and milliseconds of the median and of the slowest of a hundred."""

    a_second: float
    median: float
    p99: float


def measured(acts: Iterable[Callable[[], object]], at_once: int) -> Rate:
    """Do them all, so many at a time."""
    waiting = deque(acts)
    times: list[float] = []

    def work() -> None:
        while True:
            try:
                act = waiting.popleft()
            except IndexError:
                return
            began = time.perf_counter()
            act()
            times.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(work) for _ in range(at_once)]:
            done.result()
    seconds = time.perf_counter() - began
    return Rate(len(times) / seconds, statistics.median(times), statistics.quantiles(times, n=100)[98])


def told(name: str, at_once: int, rate: Rate) -> None:
    print(
        f"{name:28} {at_once:3} at once {rate.a_second:8.0f}/s   median {rate.median:7.2f} ms   p99 {rate.p99:8.2f} ms",
        flush=True,
    )


def filled(db: Database, count: int) -> list[str]:
    """Queued jobs: one as a client makes it, and its copies, in the order in which they are to be claimed."""
    answer, _ = jobs.submit(db, SPEC, answer=lambda made: {"id": made.id}, queue="cpu")
    with db.write() as connection:
        row = dict(connection.execute(select(job).where(job.c.id == answer["id"])).one()._mapping)
        rows = [row | {"id": f"job_{number:032x}"} for number in range(count - 1)]
        for start in range(0, len(rows), 1000):
            connection.execute(insert(job), rows[start : start + 1000])
    return [str(answer["id"]), *(one["id"] for one in rows)]


class Fleet:
    """Workers by name, each of which holds a job once it has claimed one."""

    def __init__(self, db: Database, waiting: list[str]) -> None:
        self._db = db
        self._waiting = waiting
        self.held: list[tuple[str, Attempt]] = []

    def claim(self) -> None:
        name = f"host-{len(self.held)}:1:{len(self.held)}"
        claimed = attempts.claim(self._db, self._waiting.pop(), worker=name, device="CPU", lease_seconds=3600)
        assert claimed is not None
        self.held.append((name, Attempt(claimed.id, claimed.attempt)))

    def beat(self, name: str, held: Attempt) -> None:
        """As the heartbeat of a worker that trains: a renewal and a sign of life."""
        queues = ("cpu",)
        workers.seen(
            self._db, name, queues=queues, device="CPU", job_id=held.job_id, renewing=held, lease_seconds=3600
        )

    def record(self, held: Attempt, step: int) -> None:
        points = [
            Point(name, step, 1.0, 0.5)
            for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        ]
        attempts.write_progress(self._db, held, progress={"step": step, "steps": 1000}, points=points)

    def end(self, held: Attempt) -> None:
        attempts.fail(self._db, held, code="bench", detail="made for a benchmark", runtime=1.0)


def simulate(workers_: int, count: int) -> int:
    with empty() as db:
        print(f"{db.describe()}; {count:,} jobs, {workers_:,} workers; {os.cpu_count()} cores for both sides")
        fleet = Fleet(db, filled(db, count))
        share = workers_ // len(AT_ONCE)
        claims = {size: measured([fleet.claim] * share, size) for size in AT_ONCE}
        for size, rate in claims.items():
            told("claim", size, rate)
        beats: dict[int, Rate] = {}
        for size in AT_ONCE:
            beats[size] = measured([partial(fleet.beat, *one) for one in fleet.held], size)
            told("heartbeat (two updates)", size, beats[size])
        for size in AT_ONCE:  # which is the step, too
            acts = [partial(fleet.record, held, size) for _, held in fleet.held]
            told("figures of an evaluation", size, measured(acts, size))
        looks: dict[str, Callable[[], object]] = {
            "reconciler: who holds": lambda: jobs.held(db),
            "reconciler: whom to ring for": lambda: jobs.unrung(db, older_than=3, limit=200),
            "reconciler: how many wait": lambda: jobs.count_by_queue(db),
            "API: a page of jobs": lambda: jobs.page(db, limit=20),
            "API: the workers alive": lambda: workers.alive(db),
        }
        for name, look in looks.items():
            told(name, 1, measured([look] * 30, 1))
        told("end", 4, measured([partial(fleet.end, held) for _, held in fleet.held], 4))
        return judged(len(fleet.held), claims, beats)


def judged(fleet: int, claims: dict[int, Rate], beats: dict[int, Rate]) -> int:
    best = max(rate.a_second for rate in beats.values())
    asked = fleet / HEARTBEAT_SECONDS
    started = fleet / JOB_SECONDS
    print(
        f"{fleet:,} workers ask for {asked:.0f} heartbeats/s and, with jobs of {JOB_SECONDS:.0f} s, {started:.0f} claims/s; "
        f"there were {best:.0f} and {max(rate.a_second for rate in claims.values()):.0f}. "
        f"It bends at about {best * HEARTBEAT_SECONDS:,.0f} workers"
    )
    print(f"heartbeats borne / asked for: {best / asked:.2f} x (bound {BOUND})")
    return 0 if best / asked >= BOUND else 1


def ratio() -> int:
    """Jobs a second by two training processes, to those by one: of 64 small jobs, from the first submit to the last end.
    Each takes its turn twice, so that what makes the machine slower for a while does so for both."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    for count in TURNS:
        taken[count].append(seconds_by(count))
    found = sum(taken[1]) / sum(taken[2])
    print(f"two against one: {found:.2f} x (bound {RATIO_BOUND} on two idle cores)")
    return 0 if found >= RATIO_BOUND else 1


def seconds_by(count: int) -> float:
    """Those of the jobs by so many training processes, each of which has its data already."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "home", log=Path(folder) / "log", NUMERAL_WORKERS=str(count)) as service,
    ):
        client = service.client
        until(lambda: len(list(client.workers())) == count + 1, "all are alive", 120)
        for one in [client.jobs.create(SMALL).id for _ in range(2 * count)]:
            client.jobs.wait(one)
        before, began = used(service.process.pid), time.perf_counter()
        made = [client.jobs.create({**SMALL, "seed": seed + 1}).id for seed in range(SMALL_JOBS)]
        assert {client.jobs.wait(one).state for one in made} == {"succeeded"}
        seconds = time.perf_counter() - began
        after = used(service.process.pid)
    shares = ", ".join(f"{kind} {(after[kind] - before[kind]) / seconds:.2f}" for kind in sorted(after))
    print(
        f"{count} training processes: {SMALL_JOBS / seconds:.2f} jobs/s; of {os.cpu_count()} cores: {shares}",
        flush=True,
    )
    return seconds


def used(supervisor: int) -> dict[str, float]:
    """Seconds of the processor until now: of those who train, of the rest of the service, and of this process, which
    is the client."""
    seconds = {"workers": 0.0, "service": 0.0, "client": _seconds_of(psutil.Process())}
    for process in psutil.Process(supervisor).children(recursive=True):
        kind = "workers" if process.cmdline()[-2:] == ["-m", "worker"] else "service"
        seconds[kind] += _seconds_of(process)
    return seconds


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--ratio", action="store_true")
    given = parser.parse_args()
    return ratio() if given.ratio else simulate(given.workers, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
