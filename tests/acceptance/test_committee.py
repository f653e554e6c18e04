"""A committee and its student from end to end: trained by a worker, served, and answering as torch does."""

import io
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from service.client import Job
from service.data import datasets
from service.network import Committee, rebuild
from service.spec import DatasetSpec
from tests.acceptance.conftest import Service
from tests.conftest import mnist_folder

SMALL: dict[str, Any] = {  # of the presets, in seconds
    "dataset": {"examples": 3000},
    "network": {"hidden_widths": [32]},
    "batch_size": 100,
    "epochs": 6,
}


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(28, 28)).save(buffer, "PNG")
    return buffer.getvalue()


def answers_as_torch_does(service: Service, job: Job, images: Any) -> torch.nn.Module:
    """Assert it of the job's model, and return the network of its file."""
    assert job.state == "succeeded"
    assert job.model_id is not None
    file = httpx.get(f"{service.url}/v1/models/{job.model_id}/download", follow_redirects=True).content
    network = rebuild(file)
    calibration = httpx.get(f"{service.url}/v1/models/{job.model_id}").json()["calibration"]
    with torch.no_grad():
        wanted = torch.softmax(network(torch.tensor(images)) / calibration["temperature"], 1).numpy()
    answer = service.client.predict([png(image) for image in images], model=job.model_id)
    found = np.array([digit.model_dump()["probabilities"] for digit in answer.predictions])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    return network


def test_a_committee_is_served_and_teaches(service: Service) -> None:
    client = service.client
    images = datasets.load(DatasetSpec(), cache_dir=service.home, data_dir=mnist_folder()).test_inputs[:50]
    committee = client.jobs.wait(
        client.jobs.create(SMALL | {"committee": {"members": 3}}, preset="committee").id
    )
    assert committee.parameter_count == 3 * 25_450
    assert isinstance(answers_as_torch_does(service, committee, images), Committee)
    assert committee.metrics["test_accuracy"] > 0.7

    client.models.promote("wise", str(committee.model_id))
    student = client.jobs.create(SMALL | {"distillation": {"teacher": "wise"}}, preset="distilled")
    assert student.model_dump()["spec"]["distillation"]["teacher"] == committee.model_id
    student = client.jobs.wait(student.id)
    assert student.parameter_count == 25_450
    answers_as_torch_does(service, student, images)
    assert student.metrics["test_accuracy"] > 0.7
    drawn = httpx.get(f"{service.url}/v1/jobs/{committee.id}/plots/weights.svg")
    assert "of the first of 3 members" in drawn.text
