"""Processes that are stopped or killed as a whole: what was accepted is done, and nothing is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service import queue
from service.client import Client
from tests.acceptance.conftest import left_behind, running, until
from tests.acceptance.test_main_job import LONG, SMALL, hash_of, settings_of


def test_a_worker_group_killed_whole_changes_nothing(tmp_path: Path) -> None:
    variables = {"NUMERAL_LEASE_SECONDS": "3", "NUMERAL_RECONCILE_SECONDS": "0.5"}
    with running(tmp_path, **variables) as service:
        undisturbed = hash_of(service, SMALL)
        job = service.start(SMALL, at_step=300)
        worker = service.worker()
        children = worker.children()
        worker.send_signal(signal.SIGKILL)
        until(lambda: not any(child.is_running() for child in children), "its children died with it", 5)
        job = service.client.jobs.wait(job.id)
        assert (job.state, job.attempt, job.weights_sha256) == ("succeeded", 2, undisturbed)


def test_two_workers_and_a_hundred_messages_each_train_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, NUMERAL_WORKERS="2") as service:
        app = queue.celery(settings_of(service, monkeypatch))
        jobs = [service.client.jobs.create({**SMALL, "seed": seed}) for seed in (1, 2)]
        for _ in range(100):
            for job in jobs:
                app.send_task(queue.TRAIN_TASK, args=[job.id], queue="cpu", priority=5, ignore_result=True)
        done = [service.client.jobs.wait(job.id) for job in jobs]
        app.close()
        assert [(job.state, job.attempt) for job in done] == [("succeeded", 1)] * 2


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


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        service.start(LONG, at_step=1)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        until(lambda: not left_behind(tmp_path), "all children ended", 30)
    with running(tmp_path) as service:  # and it starts again on what was left
        assert service.client.jobs.list()[0].state in ("queued", "running")


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
            assert client.jobs.list() == []
