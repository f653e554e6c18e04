"""The service as its users run it, on each pair of database and broker, with what disturbs it at hand."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from filelock import FileLock

from service import settings as settings_module
from service.client import Job
from service.running import broker
from service.settings import Settings
from service.store import events, jobs, metrics
from service.store.database import Database
from tests.acceptance.conftest import Service, running, until
from tests.acceptance.test_main_job import SMALL
from tests.faults.servers import Cluster, Redis, postgres, redis_server

LEASE_SECONDS = 4.0
QUICK = {
    "NUMERAL_WORKERS": "2",
    "NUMERAL_LEASE_SECONDS": str(LEASE_SECONDS),
    "NUMERAL_RECONCILE_SECONDS": "0.5",
}
STACKS = ("SQLite + Valkey", "PostgreSQL + Redis")


@dataclass
class Stack:
    """A running service, and a door of the test's own to its database and its broker."""

    name: str
    service: Service
    settings: Settings
    db: Database
    log: Path
    cluster: Cluster | None = None
    redis: Redis | None = None
    _undisturbed: dict[str, Job] = field(default_factory=dict)

    def trainer(self, job_id: str) -> psutil.Process:
        """The process that trains a job."""

        def holder() -> str | None:
            return jobs.get(self.db, job_id).worker

        return psutil.Process(int(str(until(holder, f"a worker holds {job_id}")).rsplit(":", 1)[1]))

    @contextmanager
    def locked(self, *, patience: float = 5.0) -> Iterator[None]:
        """The database, or of PostgreSQL the table of jobs, held against every writer while the block runs. Raises a
        driver's OperationalError if another has it."""
        if self.cluster is not None:
            with self.cluster.connect() as connection, connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {round(patience * 1000)}")
                connection.execute("LOCK TABLE job IN EXCLUSIVE MODE")
                yield
            return
        file = str(self.db.url.database)
        with closing(sqlite3.connect(file, timeout=patience, isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            yield
            held.execute("ROLLBACK")

    def freeze(self, process: psutil.Process) -> None:
        """Stop a process, but not amid a write, in which everybody else would stand still with it."""
        while True:
            process.suspend()
            try:
                with self.locked(patience=0.5):
                    return
            except (sqlite3.OperationalError, psycopg.OperationalError):
                process.resume()
                time.sleep(0.05)

    def broker(self) -> psutil.Process:
        if self.redis is None:
            return self.service.child("valkey-server")
        assert self.redis.process is not None
        return psutil.Process(self.redis.process.pid)

    def undisturbed(self, spec: dict[str, Any]) -> Job:
        """A job that nothing disturbed; each spec is done so once."""
        key = repr(spec)
        if key not in self._undisturbed:
            job = self.service.client.jobs.wait(self.service.client.jobs.create(spec).id)
            assert (job.state, job.attempt) == ("succeeded", 1)
            self._undisturbed[key] = job
        return self._undisturbed[key]

    def as_promised(self, job_id: str, spec: dict[str, Any] = SMALL, **expected: Any) -> Job:
        """Wait for the job, and hold it against what is promised of every accepted job: one end, each step's figures
        once, events without a gap, the weights of a run that nothing disturbed."""
        undisturbed = self.undisturbed(spec)
        job = self.service.client.jobs.wait(job_id)
        told = self.service.events(job_id)
        assert (job.state, job.error) == ("succeeded", None)
        assert job.weights_sha256 == undisturbed.weights_sha256
        assert [event.seq for event in told] == list(range(1, len(told) + 1))
        assert [event.type for event in told].count("end") == 1
        figures = [event.data["step"] for event in told if event.type == "metric"]
        assert figures == sorted(set(figures)), "each step's figures once"
        assert self.steps(job_id) == self.steps(undisturbed.id), "no step is missing, none is there twice"
        row = jobs.get(self.db, job_id)
        assert {name: getattr(row, name) for name in expected} == expected
        return job

    def steps(self, job_id: str) -> list[int]:
        """Those of a series that has a value at every step, thinned."""
        values, _ = metrics.page(self.db, job_id, names=["batch_loss"], limit=10_000)
        return [value.step for value in values]

    def state(self, job_id: str) -> str:
        return self.service.client.jobs.get(job_id).state

    def requeued(self, job_id: str, reason: str) -> list[float]:
        """When the job went back to the queue for that reason, in seconds since 1970."""
        told = events.page(self.db, job_id, after=0, limit=10_000)
        return [event.time for event in told if event.data.get("reason") == reason]

    def said(self, words: str) -> int:
        """How often the service has logged this."""
        return self.log.read_text(errors="replace").count(words)

    def post(self, spec: dict[str, Any], **headers: str) -> httpx.Response:
        """Submit once, without the client's patience."""
        return httpx.post(f"{self.service.url}/v1/jobs", json={"spec": spec}, headers=headers, timeout=60)


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def settings_of(service: Service) -> Settings:
    """As the service reads them from its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment.items():
            if name.startswith(settings_module.PREFIX):
                patch.setenv(name, value)
        return settings_module.load()


@contextmanager
def started(name: str, folder: Path, **variables: str) -> Iterator[Stack]:
    """The service of that name, with everything it keeps and says in the folder."""
    home, log = folder / "home", folder / "numeral.log"
    cluster = redis = None
    with ExitStack() as opened:
        variables = QUICK | variables
        if name != STACKS[0]:
            cluster = opened.enter_context(postgres())
            redis = opened.enter_context(redis_server(folder))
            variables |= {"NUMERAL_DATABASE_URL": cluster.url, "NUMERAL_BROKER_URL": redis.url}
        service = opened.enter_context(running(home, log=log, **variables))
        settings = settings_of(service)
        db = Database(settings.database)
        opened.callback(db.close)
        yield Stack(name, service, settings, db, log, cluster, redis)
    assert not broker.socket_path(home).exists(), "the embedded broker's socket is gone with it"
    FileLock(home / "up.lock").acquire(timeout=0).lock.release()  # nobody has it any more
