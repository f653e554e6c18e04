"""Uploaded datasets: stored, looked at, learnt from, and kept while something needs them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.running.lease import Lease
from service.settings import Settings
from service.store import datasets, garbage, tables
from service.store.attempts import Attempt
from tests.archives import examples, of_arrays, of_idx
from tests.conftest import mnist_folder
from tests.integration.conftest import Live, serving
from worker import tasks
from worker.leaving import Leaving
from worker.process import Process

TRAIN, TEST = examples(40), examples(20, seed=1)
ZIP = of_idx(TRAIN, TEST)
LEASE = 3600.0  # seconds: nobody renews it
SPEC: dict[str, Any] = {"network": {"hidden_widths": [8]}, "batch_size": "full", "steps": 3}


@pytest.fixture
def live(tmp_path: Path, settings_for: Callable[..., Settings]) -> Iterator[Live]:
    """An API that takes no job from a worker which is slow."""
    with serving(settings_for(tmp_path, lease_seconds=LEASE)) as running:
        yield running


def upload(live: Live, data: bytes = ZIP, name: str = "mine") -> dict[str, Any]:
    answer = live.http.post("/v1/datasets", params={"name": name}, content=data)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


class StillHeart:
    """Holds leases and renews none."""

    device = "CPU (test)"

    @contextmanager
    def holding(self, attempt: Attempt, *, claimed_at: float) -> Iterator[Lease[Attempt]]:
        yield Lease(attempt, LEASE, claimed_at + LEASE)


def train(live: Live, job_id: str) -> dict[str, Any]:
    """Let a worker train a job here and now. Returns the job."""
    settings = Settings(home=live.settings.home, data_dir=mnist_folder(), lease_seconds=LEASE)
    heart: Any = StillHeart()
    tasks.train(
        Process(settings, live.db, "w", torch.device("cpu"), 1, heart, Leaving(), lambda _: None), job_id
    )
    job: dict[str, Any] = live.http.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "succeeded", job["error"]
    return job


def test_an_upload_is_stored_once_and_looked_at(live_on_each: Live) -> None:
    live = live_on_each
    first = live.http.post("/v1/datasets", params={"name": "mine"}, content=ZIP)
    found = first.json()
    assert first.status_code == 201
    assert first.headers["Location"] == f"/v1/datasets/{found['id']}"
    assert (found["name"], found["version"], found["source"]) == ("mine", 1, "idx")
    assert (found["train_examples"], found["test_examples"], found["task"]) == (40, 20, "classification")
    assert sum(found["classes"]["train"]) == 40
    again = live.http.post(
        "/v1/datasets",
        params={"name": "mine"},
        content=of_arrays(x_train=TRAIN[0], y_train=TRAIN[1], x_test=TEST[0], y_test=TEST[1]),
    )
    assert (again.status_code, again.json()) == (200, found)
    other = upload(live, of_idx(TEST))
    assert other["version"] > found["version"]
    assert live.http.get(f"/v1/datasets/{found['id']}").json() == found
    listed = live.http.get("/v1/datasets", params={"limit": 1}).json()
    assert [one["name"] for one in listed["data"]] == [
        *("mnist", "fashion-mnist", "kmnist", "emnist-digits", "simulated"),
        "mine",
    ]
    assert listed["data"][-1]["id"] == listed["next"] == other["id"]
    rest = live.http.get("/v1/datasets", params={"after": other["id"]}).json()
    assert rest == {"data": [found], "has_more": False, "next": None}
    assert live.http.get("/v1/datasets/mnist").json()["train_examples"] == 60_000
    picture = live.http.get(f"/v1/datasets/{found['id']}/samples.png")
    assert picture.content.startswith(b"\x89PNG")
    csv = live.http.get(f"/v1/datasets/{found['id']}/samples.csv", params={"count": 100}).text
    assert len(csv.splitlines()) >= 40


@pytest.mark.parametrize("name", ["", "Mine", "a b", "x" * 64])
def test_a_name_is_plain(shared: Live, name: str) -> None:
    answer = shared.http.post("/v1/datasets", params={"name": name}, content=ZIP)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_what_is_wrong_is_told_and_nothing_is_stored(shared: Live) -> None:
    before = shared.trace()
    for data, status, code in (
        (b"", 400, "no_dataset"),
        (b"PK\3\4", 422, "corrupt_archive"),
        (b"\x89PNG", 415, "unsupported_dataset"),
        (of_arrays(x_train=TRAIN[0].astype(np.float32), y_train=TRAIN[1]), 422, "bad_dataset"),
    ):
        answer = shared.http.post("/v1/datasets", params={"name": "mine"}, content=data)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    for path in ("/v1/datasets/ds_0", f"/v1/datasets/ds_{0:032}/samples.png"):
        answer = shared.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "dataset_not_found")
    assert shared.trace() == before


def test_a_job_learns_from_it_alone(live: Live) -> None:
    found = upload(live)
    asked = SPEC | {"dataset": {"name": found["id"]}}
    job = live.http.post("/v1/jobs", json=asked).json()
    told = {name: found[name] for name in ("id", "sha256", "train_examples", "test_examples")}
    assert (job["spec"]["dataset"]["name"], job["spec"]["dataset"]["uploads"]) == ("uploaded", [told])
    done = train(live, job["id"])
    report = live.http.get(f"/v1/jobs/{job['id']}/report").json()
    assert report["parts"]["test"]["examples"] == 20
    assert done["dataset_sha256"] == report["dataset"]["sha256"]
    picture = live.http.get(f"/v1/jobs/{job['id']}/plots/samples.csv")
    assert picture.status_code == 200
    live.http.put("/v1/aliases/mine", json={"model": done["model_id"]})
    other = train(live, live.http.post("/v1/jobs", json=asked | {"seed": 1}).json()["id"])
    promoted = live.http.post(
        "/v1/aliases/mine/promote", json={"model": other["model_id"], "level": 1e-9}
    ).json()
    assert (promoted["gate"]["dataset"], promoted["gate"]["examples"]) == ("uploaded", 20)


def test_a_job_learns_from_mnist_and_it(live: Live) -> None:
    found = upload(live)
    spec = SPEC | {"dataset": {"uploads": [found["id"]], "validation": 1000}}
    told = live.http.post("/v1/jobs", params={"dry_run": True}, json=spec).json()
    assert told["spec"]["dataset"]["name"] == "mnist"
    job = live.http.post("/v1/jobs", json={"preset": "slp-200", "spec": spec}).json()
    done = train(live, job["id"])
    report = live.http.get(f"/v1/jobs/{job['id']}/report").json()
    assert (report["parts"]["test"]["examples"], report["parts"]["validation"]["examples"]) == (10_000, 1000)
    alone = live.http.post("/v1/jobs", json=SPEC).json()
    assert train(live, alone["id"])["dataset_sha256"] != done["dataset_sha256"]
    reused = live.http.post("/v1/jobs", params={"reuse": True}, json={"preset": "slp-200", "spec": spec})
    assert (reused.status_code, reused.json()["id"]) == (200, job["id"])


def test_a_dataset_stays_while_it_is_used(live_on_each: Live) -> None:
    live = live_on_each
    found = upload(live)
    path = f"/v1/datasets/{found['id']}"
    job = live.http.post("/v1/jobs", json=SPEC | {"dataset": {"name": found["id"]}}).json()
    refused = live.http.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert job["id"] in refused.json()["detail"]
    assert live.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert live.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert live.http.delete(path).status_code == 204
    assert live.http.get(path).status_code == live.http.delete(path).status_code == 404
    gone = live.http.post("/v1/jobs", json=SPEC | {"dataset": {"name": found["id"]}})
    assert (gone.status_code, gone.json()["code"]) == (422, "unknown_dataset")
    assert gone.json()["errors"][0]["pointer"] == "#/dataset/name"
    garbage.collect(live.db, grace_seconds=-60)
    with live.db.read() as connection:
        assert connection.execute(tables.chunk.select()).all() == []


def test_a_model_keeps_what_it_learnt_from(live: Live) -> None:
    found = upload(live)
    job = live.http.post("/v1/jobs", json=SPEC | {"dataset": {"name": found["id"]}}).json()
    train(live, job["id"])
    assert live.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    while garbage.collect(live.db):
        pass
    assert live.http.delete(f"/v1/datasets/{found['id']}").json()["code"] == "dataset_in_use"


def test_members_of_a_sweep_use_it_too(live: Live) -> None:
    found = upload(live)
    sweep = {"spec": SPEC | {"dataset": {"name": found["id"]}}, "grid": {"seed": [0, 1]}}
    assert live.http.post("/v1/sweeps", json=sweep).status_code == 202
    assert live.http.delete(f"/v1/datasets/{found['id']}").json()["code"] == "dataset_in_use"


def test_damage_fails_the_job_and_says_so(live: Live) -> None:
    found = upload(live)
    job = live.http.post("/v1/jobs", json=SPEC | {"dataset": {"name": found["id"]}}).json()
    with live.db.write() as connection:
        connection.exec_driver_sql("UPDATE chunk SET data = x'00'")
    with pytest.raises(AssertionError, match="dataset_damaged"):
        train(live, job["id"])
    answer = live.http.get(f"/v1/datasets/{found['id']}/samples.png")
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_damaged")


def test_what_a_client_says_of_a_dataset_is_not_believed(live: Live) -> None:
    found = upload(live)
    lie = {"id": found["id"], "sha256": "0" * 64, "train_examples": 7, "test_examples": 7}
    spec = SPEC | {"dataset": {"name": "uploaded", "uploads": [lie]}}
    job = live.http.post("/v1/jobs", json=spec).json()
    assert job["spec"]["dataset"]["uploads"][0]["train_examples"] == 40
    assert datasets.get(live.db, found["id"]).sha256 == found["sha256"]
    swept = live.http.post("/v1/sweeps", json={"spec": SPEC, "grid": {"dataset": [spec["dataset"]]}})
    assert (swept.status_code, swept.json()["code"]) == (422, "unknown_dataset")
