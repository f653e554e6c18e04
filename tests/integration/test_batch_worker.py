"""The batch worker as a process of its own, killed and stopped in the middle; and the command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.client import Batch, Client
from service.running import queue
from service.settings import Settings
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_api_batches import BATCHES, OCTETS, digits, png, with_model

SECONDS = 120  # for a process to start on a busy machine


@pytest.fixture
def live(database_url: str, tmp_path: Path, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """An API with a model, on SQLite and PostgreSQL in turn, that takes back soon what a worker held."""
    settings = settings_for(tmp_path, database_url=database_url, lease_seconds=3, reconcile_seconds=0.2)
    with serving(settings) as running:
        yield with_model(running)


def environment(live: Live) -> dict[str, str]:
    assert live.settings.broker_url is not None
    return os.environ | {
        "NUMERAL_HOME": str(live.settings.home),
        "NUMERAL_DATABASE_URL": live.settings.database,
        "NUMERAL_BROKER_URL": live.settings.broker_url.get_secret_value(),
        "NUMERAL_LEASE_SECONDS": "3",
        "NUMERAL_URL": live.url,
    }


@contextmanager
def batch_worker(live: Live) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "batch-worker"], env=environment(live), start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begun(client: Client, batch_id: str) -> bool:
    found = client.batches.get(batch_id)
    assert not found.ended, "it was over before it could be disturbed"
    return found.counts["done"] > 0


def lines(client: Client, found: Batch) -> list[int]:
    return [json.loads(line)["line"] for line in client.batches.lines(found.id)]


def test_killed_and_stopped_in_the_middle_it_answers_each_image_once(live: Live) -> None:
    count = 5_000
    body = digits(count).tobytes()
    with Client(live.url) as client:
        made = client.batches.create(body, preprocess="mnist", media_type=OCTETS["Content-Type"])
        with batch_worker(live) as first:
            eventually(lambda: begun(client, made.id), seconds=SECONDS)
            assert [worker.job_id for worker in client.workers()] in ([made.id], [None])
            first.send_signal(signal.SIGKILL)
            first.wait()
        eventually(lambda: client.batches.get(made.id).state == "queued", seconds=SECONDS)
        before = client.batches.get(made.id).counts["done"]
        with batch_worker(live) as second:
            eventually(lambda: client.batches.get(made.id).counts["done"] > before, seconds=SECONDS)
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=30) == 0
        found = live.http.get(f"{BATCHES}/{made.id}").json()
        assert (found["state"], found["attempt"]) == ("queued", 2), "it is handed back at once"
        app = queue.celery(live.settings)
        for _ in range(3):
            app.send_task(queue.READ_TASK, args=[made.id], queue="batch", priority=5, ignore_result=True)
        app.close()
        with batch_worker(live):
            eventually(lambda: client.batches.get(made.id).ended, seconds=SECONDS)
        done = client.batches.get(made.id)
        assert (done.state, done.counts["done"]) == ("succeeded", count)
        assert lines(client, done) == list(range(1, count + 1))


@pytest.fixture
def numeral(live: Live) -> Any:
    """Run the command; returns the finished process."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            env=environment(live) | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    return run


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_sends_pictures_and_files_and_writes_answers(
    live: Live, numeral: Any, tmp_path: Path
) -> None:
    pictures = [tmp_path / f"{number}.png" for number in range(3)]
    for path, grey in zip(pictures, digits(3), strict=True):
        path.write_bytes(png(grey))
    pixels, out = tmp_path / "digits.bin", tmp_path / "answers.jsonl"
    pixels.write_bytes(digits(5).tobytes())
    with batch_worker(live):
        ran = numeral("batch", *map(str, pictures))
        assert ran.returncode == 0, ran.stderr
        assert [json.loads(line)["id"] for line in ran.stdout.splitlines()] == list(map(str, pictures))
        assert "3/3 images, 0 errors" in ran.stderr
        ran = numeral("batch", str(pixels), "--out", str(out), "--json")
        assert (ran.returncode, json.loads(ran.stdout)["state"]) == (0, "succeeded")
        assert [json.loads(line)["line"] for line in out.read_text().splitlines()] == [1, 2, 3, 4, 5]
        assert not list(tmp_path.glob("*.part"))
    assert "succeeded" in numeral("batches", "list").stdout
    mixed = numeral("batch", str(pixels), str(pictures[0]))
    assert (mixed.returncode, mixed.stdout) == (1, "")
    assert "mixed_files" in mixed.stderr
    refused = numeral("batch", str(pictures[0]), "--model", "nobody")
    assert refused.returncode == 1
    assert "model_not_found" in refused.stderr
