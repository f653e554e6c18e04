"""The main job from end to end, on the real MNIST: a spec goes in by HTTP, a trained network answers."""

import hashlib
import io
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service import settings as settings_module
from service.client import Client
from service.data import datasets
from service.settings import Settings
from service.spec import DatasetSpec
from tests.acceptance.conftest import Service, until

SMALL: dict[str, Any] = {  # some seconds, with checkpoints in the middle of an epoch
    "network": {"hidden_widths": [64]},
    "epochs": 4,
    "evaluation": {"every_steps": 500},
    "checkpoints": {"every_epochs": None, "every_steps": 250, "min_seconds": 0},
}
SOME_TIME: dict[str, Any] = {**SMALL, "epochs": 20}  # seconds on a fast machine as well
LONG: dict[str, Any] = {**SMALL, "epochs": 500}


def settings_of(service: Service, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in service.environment.items():
        if name.startswith("NUMERAL_"):
            monkeypatch.setenv(name, value)
    return settings_module.load()


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(28, 28)).save(buffer, "PNG")
    return buffer.getvalue()


def hash_of(service: Service, spec: dict[str, Any]) -> str:
    """Of the weights of an undisturbed run."""
    job = service.client.jobs.wait(service.client.jobs.create(spec).id)
    assert job.state == "succeeded"
    assert job.weights_sha256 is not None
    return job.weights_sha256


def test_the_lectures_first_classifier(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained by a worker, followed live, its series and weights fetched, and test digits read by it."""
    client = service.client
    job = client.jobs.create(preset="slp-200")
    events = service.events(job.id)
    job = client.jobs.get(job.id)
    assert job.state == "succeeded"
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data["state"] for event in events if event.type == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert job.parameter_count == 25_450
    assert job.metrics["test_accuracy"] >= 0.92
    series = httpx.get(f"{service.url}/v1/jobs/{job.id}/metrics", params={"name": "test_accuracy"}).json()
    assert series["data"][0]["step"] == 0
    assert (series["data"][-1]["step"], series["data"][-1]["value"]) == (200, job.metrics["test_accuracy"])

    weights = httpx.get(f"{service.url}/v1/models/{job.model_id}/download", follow_redirects=True)
    assert hashlib.sha256(weights.content).hexdigest() == job.weights_sha256

    settings = settings_of(service, monkeypatch)
    data = datasets.load(DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    count = 200
    answer = client.predict([png(image) for image in data.test_inputs[:count]])
    assert answer.model == job.model_id
    right = np.mean([digit.label for digit in answer.predictions] == data.test_targets[:count])
    assert right >= 0.88
    for digit in answer.predictions:
        assert len(digit.probabilities) == 10
        assert abs(sum(digit.probabilities) - 1) < 1e-5
        assert digit.confidence == max(digit.probabilities)


def test_pause_and_resume_change_nothing(service: Service) -> None:
    undisturbed = hash_of(service, SOME_TIME)
    job = service.start(SOME_TIME, at_step=100)
    service.client.jobs.pause(job.id)
    until(lambda: service.client.jobs.get(job.id).state == "paused", "the job is paused", 10)
    service.client.jobs.resume(job.id)
    job = service.client.jobs.wait(job.id)
    assert (job.state, job.weights_sha256) == ("succeeded", undisturbed)


def test_who_trains_yields_to_who_answers(service: Service) -> None:
    assert service.worker().nice() > service.child("serve").nice()


def test_cancel_ends_a_running_job_soon(service: Service) -> None:
    job = service.start(LONG, at_step=1)
    began = time.monotonic()
    assert service.client.jobs.cancel(job.id).state == "cancelling"
    assert service.client.jobs.wait(job.id).state == "cancelled"
    assert time.monotonic() - began < 10


def test_a_job_that_diverges_says_so_and_leaves_no_checkpoint(service: Service) -> None:
    spec = {**SMALL, "optimizer": {"name": "sgd", "learning_rate": 1000.0}, "loss": "mse"}
    job = service.client.jobs.wait(service.client.jobs.create(spec).id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "diverged"
    assert "learning_rate" in job.error.detail
    assert httpx.get(f"{service.url}/v1/jobs/{job.id}/checkpoints").json()["data"] == []


def test_a_stream_cut_and_taken_up_again_has_no_gap_and_no_repeat(service: Service) -> None:
    job = service.client.jobs.create(SMALL)
    seen: list[int] = []
    path = f"/v1/jobs/{job.id}/events"
    while not service.client.jobs.get(job.id).ended or len(seen) < 5:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen[-1] if seen else 0)}
        with httpx.stream("GET", service.url + path, headers=headers, timeout=30) as response:
            for line in response.iter_lines():
                if line.startswith("id:"):
                    seen.append(int(line[3:]))
                    if len(seen) % 4 == 0:
                        break  # cut
    rest = service.client.jobs.events(job.id, after=seen[-1])
    numbers = seen + [event.seq for event in rest]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_new_model_takes_over_without_a_dropped_request(service: Service) -> None:
    first = service.client.jobs.wait(service.client.jobs.create({**SMALL, "epochs": 1}).id)
    image = png(np.zeros((28, 28), np.uint8))
    answered: list[str] = []
    failures: list[object] = []
    done = threading.Event()

    def ask() -> None:
        with Client(service.url) as client:
            while not done.is_set():
                try:
                    answered.append(client.predict([image]).model)
                except Exception as error:  # noqa: BLE001 - whatever went wrong is what the test looks for
                    failures.append(error)

    until(lambda: service.client.predict([image]).model == first.model_id, "the first model serves", 5)
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    second = service.client.jobs.wait(service.client.jobs.create({**SMALL, "epochs": 1, "seed": 1}).id)
    ended = time.monotonic()
    until(lambda: service.client.predict([image]).model == second.model_id, "the second model serves", 5)
    assert time.monotonic() - ended < 1.5
    done.set()
    for thread in asking:
        thread.join()
    assert failures == []
    assert {first.model_id, second.model_id} == set(answered)
