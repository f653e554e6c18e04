"""A real server: uvicorn in a thread on a free port, a real database and a real broker behind it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from service.api.express.express import Express
from service.api.server import Server
from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from service.running import broker
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, jobs, models
from service.store.attempts import Attempt
from service.store.checkpoints import Checkpoint
from service.store.database import Database
from service.store.models import Model
from service.store.reports import Draft

LINEAR = TrainingSpec.model_validate({"network": {"hidden_widths": []}})

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], *, seconds: float = 60) -> T:
    """Wait until the condition holds, and return what it found.

    The time is no measure of speed: it is long, since tests that start whole services run beside this one.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.01)
    return found


@dataclass
class Live:
    """A running API."""

    settings: Settings
    server: Server
    http: httpx.Client
    db: Database  # the test's own door to the same data
    thread: threading.Thread = field(repr=False)

    @property
    def url(self) -> str:
        return self.server.address

    def submit(self, **options: Any) -> str:
        """The id of a job submitted past HTTP."""
        answer, _ = jobs.submit(self.db, LINEAR, answer=lambda job: {"id": job.id}, queue="cpu", **options)
        return str(answer["id"])

    def claim(self, job_id: str) -> Attempt:
        """Take a job as a worker does."""
        job = attempts.claim(self.db, job_id, worker="w", device="CPU (test)", lease_seconds=600)
        assert job is not None
        return Attempt(job_id, job.attempt)

    def checkpoint(self, attempt: Attempt, data: bytes, *, step: int = 1) -> Checkpoint:
        return checkpoints.save(
            self.db,
            attempt,
            step=step,
            epoch=float(step),
            reason="final",
            metrics={"test_accuracy": 0.5},
            spec=LINEAR.model_dump(mode="json"),
            weights=data,
            state=None,
        )

    def model(self, label: int) -> Model:
        """A registered model that reads every image as `label`."""
        return register(self, weights_for(label))

    def trace(self) -> tuple[int, ...]:
        """How much is stored: what a refused request must not change."""
        with self.db.read() as connection:
            return tuple(
                connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608
                for table in (
                    *("job", "event", "idempotency", "model", "alias", "alias_history"),
                    *("sweep", "sweep_member", "batch", "dataset", "job_dataset", "feedback"),
                )
            )

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()


def weights_for(label: int) -> bytes:
    """A weights file of a linear network that is sure of one label."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"] += 1
    arrays["layers.0.bias"][label] = 10
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)


def register(live: Live, data: bytes, report: Draft | None = None) -> Model:
    """A model version with these weights, and what a report says of it."""
    attempt = live.claim(live.submit())
    header = live.checkpoint(attempt, data)
    model = models.finish(
        live.db,
        attempt,
        header,
        preprocessing=PREPROCESSING_VERSION,
        dataset_sha256="0" * 64,
        provenance={"device": "CPU (test)"},
        runtime=1,
        report=report,
    )
    assert model is not None
    return model


@contextmanager
def serving(settings: Settings) -> Iterator[Live]:
    """An API for the length of the block."""
    server = Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive())
    assert server.started
    db = Database(settings.database)
    try:
        with httpx.Client(base_url=server.address, timeout=20) as http:
            live = Live(settings, server, http, db, thread)
            yield live
    finally:
        live.stop()
        db.close()


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Valkey."""
    settings = Settings(home=tmp_path_factory.mktemp("broker"))
    process = broker.start(settings)
    yield broker.url(settings)
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def settings_for(broker_url: str) -> Callable[..., Settings]:
    """Settings of a test's own API."""

    def make(home: Path, **options: Any) -> Settings:
        fields: dict[str, Any] = {"home": home, "port": 0, "broker_url": broker_url} | options
        return Settings(**fields)

    return make


@pytest.fixture
def live(tmp_path: Path, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """An API on an empty SQLite database."""
    with serving(settings_for(tmp_path)) as running:
        yield running


@pytest.fixture
def live_on_each(database_url: str, tmp_path: Path, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """An API on an empty database, SQLite and PostgreSQL in turn."""
    with serving(settings_for(tmp_path, database_url=database_url)) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """One API for the tests of a file that leave nothing behind."""
    with serving(settings_for(tmp_path_factory.mktemp("home"), max_json_bytes=65_536)) as running:
        yield running


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request that is looked at where it is parsed, whether it was answered there."""
    noted: list[bool] = []
    asked = Express.asked

    def watched(self: Express, *arguments: Any, **named: Any) -> bool:
        noted.append(asked(self, *arguments, **named))
        return noted[-1]

    monkeypatch.setattr(Express, "asked", watched)
    return noted
