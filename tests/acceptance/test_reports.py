"""A report of a job that the real worker trained: what it says, said again, and borne out by the predictions."""

import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from service import presets
from service.data import datasets
from service.data.datasets import Dataset
from service.figures import report
from service.spec import DatasetSpec
from tests.acceptance.conftest import Service, running
from tests.conftest import mnist_folder

IMAGES_A_REQUEST = 2500


def fetched(service: Service, path: str) -> Any:
    return service.client.call("GET", path)  # patiently: the server may be starting again


def labels_read(service: Service, model_id: str, images: np.ndarray[Any, Any]) -> list[int]:
    """What the predict endpoint says of each image."""
    found: list[int] = []
    for start in range(0, len(images), IMAGES_A_REQUEST):
        body = {"images": images[start : start + IMAGES_A_REQUEST].tolist()}
        answer = httpx.post(f"{service.url}/v1/models/{model_id}/predict", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found += [one["label"] for one in answer.json()["predictions"]]
    return found


def made_again(service: Service, job_id: str, data: Dataset) -> dict[str, Any]:
    """The report's data, from the weights as they are downloaded."""
    checkpoint = fetched(service, f"/v1/jobs/{job_id}/checkpoints")["data"][0]
    weights = httpx.get(f"{service.url}{checkpoint['download']}").content
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker under test has
    try:
        made = report.make(weights, data, device=torch.device("cpu"), preset="slp-200")
    finally:
        torch.set_num_threads(threads)
    return dict(made.data)


def test_a_report_is_what_the_predictions_bear_out(tmp_path: Path) -> None:
    data = datasets.load(DatasetSpec(), cache_dir=tmp_path, data_dir=mnist_folder())
    with running(tmp_path / "home", NUMERAL_WORKERS="1") as service:
        job = service.client.jobs.create(preset="slp-200", spec={"steps": 30})
        job = service.client.jobs.wait(job.id)
        assert job.state == "succeeded"
        assert job.model_id is not None
        told = fetched(service, f"/v1/jobs/{job.id}/report")
        test = told["parts"]["test"]
        assert test["accuracy"] == job.metrics["test_accuracy"]
        assert test["loss"] == job.metrics["test_loss"]
        assert told["weights_sha256"] == job.weights_sha256
        assert told["overrides"] == ["#/steps"]
        assert [one["name"] for one in told["published"]] == list(presets.find("slp-200").published)

        read = np.array(labels_read(service, job.model_id, data.test_inputs))
        assert np.mean(read == data.test_targets) == test["accuracy"]
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (data.test_targets, read), 1)
        assert told["confusion_matrix"] == confusion.tolist()
        mistakes = fetched(service, f"/v1/jobs/{job.id}/misclassified?true=4&predicted=9&limit=100")
        assert mistakes["total"] == confusion[4, 9]
        assert all(read[one["index"]] == 9 for one in mistakes["data"])

        again = made_again(service, job.id, data)
        assert again == {name: told[name] for name in again}

        server = service.child("serve")
        server.send_signal(signal.SIGKILL)
        server.wait(timeout=30)
        assert fetched(service, f"/v1/jobs/{job.id}/report") == told
