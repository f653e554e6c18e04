"""The service stopped and started as a whole. What becomes of it when its processes are killed: tests/faults."""

import subprocess
import sys
from pathlib import Path

from service.client import Client
from tests.acceptance.conftest import running
from tests.acceptance.test_main_job import SMALL, hash_of


def test_stopping_hands_the_job_back_and_starting_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        undisturbed = hash_of(service, SMALL)
        job = service.start(SMALL, at_step=300)
    with running(tmp_path) as service:
        job = service.client.jobs.wait(job.id)
        assert (job.state, job.weights_sha256) == ("succeeded", undisturbed)
        assert job.model_extra is not None
        reasons = [event.data.get("reason") for event in service.events(job.id)]
        assert "worker_left" in reasons
        assert "worker_died" not in reasons


def test_a_second_supervisor_on_one_home_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        again = subprocess.run(
            [sys.executable, "-m", "service.cli", "up"],
            env={**service.environment, "NUMERAL_PORT": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert again.returncode == 1
        assert "NUMERAL_HOME" in again.stderr
        with Client(service.url) as client:
            assert list(client.jobs.list()) == []
