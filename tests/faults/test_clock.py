"""A machine's clock that is an hour wrong, one way and then the other."""

import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.running import broker
from tests.acceptance.conftest import running, until
from tests.acceptance.test_main_job import SMALL, hash_of, settings_of
from tests.conftest import missing
from tests.faults.ledger import Fault
from tests.faults.stack import QUICK

HOUR = 3600


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """What sets the clock of the processes that load it."""
    compiler = shutil.which("cc")
    if compiler is None:
        missing("a C compiler")
    made = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made, source], check=True)
    return made


def test_a_clock_an_hour_ahead_and_stepped_back(
    tmp_path: Path, library: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """the clock an hour ahead, then an hour behind, in mid-run"""
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("=q", 0))
    variables = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock), **QUICK, "NUMERAL_WORKERS": "1"}
    with running(tmp_path / "home", **variables) as service:  # type: ignore[arg-type]
        undisturbed = hash_of(service, SMALL)
        job = service.start(SMALL, at_step=300)
        step_to(clock, HOUR)
        ahead = service.client.jobs.create(SMALL)
        until(lambda: service.step(job.id) >= 1000 or service.client.jobs.get(job.id).ended, "it goes on")
        step_to(clock, -HOUR)
        connection = broker.client(settings_of(service, monkeypatch))
        connection.flushall()  # the message of the job that waits, an hour from now as it seems
        connection.close()
        behind = service.client.jobs.create(SMALL)
        fault.fired(
            f"a job seems made {off(ahead.created_at):+.0f} s, the next {off(behind.created_at):+.0f} s from now"
        )
        assert off(ahead.created_at) > HOUR - 60
        assert off(behind.created_at) < 60 - HOUR
        for one in (job, ahead, behind):
            done = service.client.jobs.wait(one.id)
            assert (done.state, done.attempt, done.weights_sha256) == ("succeeded", 1, undisturbed)
        until(lambda: service.client.models.get("latest").version == 4, "the last to end is served", 5)
    fault.came("no lease was taken for lost, what waited was rung for, 3 jobs done in attempt 1")


def step_to(clock: Path, seconds: int) -> None:
    """Set the clock so far off, in one step."""
    with clock.open("r+b") as file:
        file.write(struct.pack("=q", seconds))


def off(told: str) -> float:
    return datetime.fromisoformat(told).timestamp() - datetime.now(UTC).timestamp()
