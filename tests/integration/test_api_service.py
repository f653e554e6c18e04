"""The service as a whole: health, a broker that is down, its own description, start and stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.app import create_app
from service.presets import PRESETS
from service.running import broker
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import jobs, workers
from tests.integration.conftest import Live, eventually, serving


def test_ready_and_alive(live_on_each: Live) -> None:
    http = live_on_each.http
    assert http.get("/livez").json() == {"status": "alive"}
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["checks"] == {
        "database": "ready",
        "schema": "ready",
        "broker": "ready",
        "model": "none yet",
    }
    front = http.get("/").json()
    assert (front["name"], http.get(front["openapi"]).status_code) == ("numeral", 200)


def test_without_a_broker_jobs_are_accepted_and_readiness_says_so(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, broker_url=None)) as live:
        began = time.monotonic()
        for _ in range(3):
            answer = live.http.post("/v1/jobs", json={"preset": "slp-200"})
            assert answer.status_code == 202
        assert time.monotonic() - began < 2
        assert jobs.count_by_queue(live.db) == {"cpu": 3}
        not_ready = live.http.get("/readyz")
        assert (not_ready.status_code, not_ready.json()["code"]) == (503, "not_ready")
        assert not_ready.headers["Content-Type"] == "application/problem+json"
        assert not_ready.headers["Retry-After"]
        assert "broker" in not_ready.json()["detail"]
        assert not_ready.json()["checks"]["database"] == "ready"
        assert live.http.get("/livez").status_code == 200

        process = broker.start(live.settings)  # it comes back, and what waits is rung for
        try:
            assert live.http.get("/readyz").status_code == 200
            job_id = live.http.post("/v1/jobs", json={}).json()["id"]
            eventually(lambda: rung(live, job_id) == 1)
        finally:
            process.kill()
            process.wait()


def rung(live: Live, job_id: str, *, priority: int = 5) -> int:
    """Messages that wait at the broker for this job, at this priority."""
    connection = broker.client(live.settings)
    name = f"cpu\x06\x16{priority}" if priority else "cpu"
    try:
        waiting = connection.lrange(name, 0, -1)
    finally:
        connection.close()
    assert isinstance(waiting, list)
    return sum(job_id.encode() in message for message in waiting)


def test_a_submit_a_resume_and_a_new_priority_ring(live_on_each: Live) -> None:
    live, http = live_on_each, live_on_each.http
    job_id = http.post("/v1/jobs", json={}).json()["id"]
    eventually(lambda: rung(live, job_id) == 1)
    http.post(f"/v1/jobs/{job_id}/pause")
    http.post(f"/v1/jobs/{job_id}/resume")
    eventually(lambda: rung(live, job_id) == 2)
    http.patch(f"/v1/jobs/{job_id}", json={"metadata": {"a": 1}})
    http.patch(f"/v1/jobs/{job_id}", json={"priority": 0})
    eventually(lambda: rung(live, job_id, priority=0) == 1)
    assert rung(live, job_id) == 2


def test_a_submit_that_is_sent_again_rings_once(live: Live) -> None:
    key = {"Idempotency-Key": "k"}
    ids = [live.http.post("/v1/jobs", json={}, headers=key).json()["id"] for _ in range(5)]
    last = live.http.post("/v1/jobs", json={}).json()["id"]
    eventually(lambda: rung(live, last) == 1)
    assert rung(live, ids[0]) == 1


def test_presets_datasets_and_workers(live: Live) -> None:
    presets = live.http.get("/v1/presets").json()["data"]
    assert [preset["name"] for preset in presets] == list(PRESETS)
    for preset in presets:
        assert live.http.get(f"/v1/presets/{preset['name']}").json() == preset
        assert TrainingSpec.model_validate(preset["spec"]) == PRESETS[preset["name"]].spec
    missing = live.http.get("/v1/presets/none-such")
    assert (missing.status_code, missing.json()["code"]) == (404, "preset_not_found")
    datasets = {card["name"]: card for card in live.http.get("/v1/datasets").json()["data"]}
    assert datasets["mnist"]["train_examples"] == 60_000
    assert live.http.get("/v1/workers").json()["data"] == []
    workers.seen(live.db, "w1", queues=["gpu", "cpu"], device="NVIDIA H200", job_id=None)
    (worker,) = live.http.get("/v1/workers").json()["data"]
    assert (worker["queues"], worker["device"], worker["gpu"]) == (["gpu", "cpu"], "NVIDIA H200", None)
    dry = live.http.post("/v1/jobs?dry_run=true", json={}).json()
    assert dry["queue"] == "gpu"


@pytest.mark.parametrize(
    ("figures", "gpu"),
    [
        (
            {"gpu_memory_used_bytes": 2**30, "gpu_memory_total_bytes": 2**36, "gpu_utilization": 0.5},
            {"memory_used_bytes": 2**30, "memory_total_bytes": 2**36, "utilization": 0.5},
        ),
        (  # a part of a GPU has no use of its own
            {"gpu_memory_used_bytes": 0, "gpu_memory_total_bytes": 2**36},
            {"memory_used_bytes": 0, "memory_total_bytes": 2**36, "utilization": None},
        ),
        ({"steps": 3, "images": 60.0}, None),
    ],
)
def test_a_worker_s_gpu(live: Live, figures: dict[str, float], gpu: dict[str, float] | None) -> None:
    workers.seen(live.db, "w", queues=["cpu"], device="a GPU", job_id=None, figures=figures)
    (worker,) = live.http.get("/v1/workers").json()["data"]
    assert worker["gpu"] == gpu


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def test_the_description_is_whole(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(described)):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    names = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            names.append(operation["operationId"])
            assert operation["summary"], where
            assert operation["description"], where
            responses = operation["responses"]
            assert {"422", "503"} <= responses.keys(), where
            for status, response in responses.items():
                assert response["description"], where
                if int(status) >= 400:
                    is_protocol = path.startswith("/v2")
                    media = "application/json" if is_protocol else "application/problem+json"
                    name = "InferenceError" if is_protocol else "Problem"
                    schema = response["content"][media]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{name}"}, where
            if method in ("put", "patch") or (
                path.endswith(("/predict", "/infer", "/jobs", "/sweeps")) and method == "post"
            ):
                content = operation["requestBody"]["content"]["application/json"]
                assert "example" in content or "examples" in content, where
                assert {"400", "413", "415"} <= responses.keys(), where
            for parameter in operation.get("parameters", []):
                known = parameter["name"] in ("if-none-match", "if-range")
                assert known or parameter.get("description") or parameter["schema"].get("description"), where
    assert len(names) == len(set(names)) > 25
    assert "example" in schemas["Problem"]
    assert "Units of each hidden layer" in json.dumps(schemas["NetworkSpec"])


def test_statuses_are_described_where_they_can_be(described: dict[str, Any]) -> None:
    paths = described["paths"]
    assert "404" not in paths["/v1/predict"]["post"]["responses"]  # without any model it is a 409
    assert "404" in paths["/v1/models/{reference}/predict"]["post"]["responses"]
    for path, method in (("/v1/jobs", "post"), ("/v1/jobs/{job_id}", "patch"), ("/v1/aliases/{name}", "put")):
        assert "507" in paths[path][method]["responses"]  # the disk is full
    form = paths["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"].keys() == {"files", "preprocess", "min_confidence", "coverage"}


def test_what_may_be_looked_at_by_head(live: Live) -> None:
    model = live.model(3)
    for path, status in (("/livez", 200), ("/readyz", 200), (f"/v1/models/{model.id}/download", 307)):
        answer = live.http.head(path, follow_redirects=False)
        assert (answer.status_code, answer.content) == (status, b""), path


def test_what_the_description_shows_is_accepted(live: Live, described: dict[str, Any]) -> None:
    submit = described["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    for example in submit["examples"].values():
        assert live.http.post("/v1/jobs", json=example["value"]).status_code == 202
    submit = described["paths"]["/v1/sweeps"]["post"]["requestBody"]["content"]["application/json"]
    for example in submit["examples"].values():
        assert live.http.post("/v1/sweeps", json=example["value"]).status_code == 202
    live.model(3)
    predict = described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert live.http.post("/v1/predict", json=predict["example"]).status_code == 200
    alias = described["paths"]["/v1/aliases/{name}"]["put"]["requestBody"]["content"]["application/json"]
    assert live.http.put("/v1/aliases/champion", json=alias["example"]).status_code == 200


PROGRAM = """
from service.observing import logs
from service.api.server import serve
from service.settings import load
settings = load()
logs.configure(settings, "api")
serve(settings)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_says_where_it_listens_and_leaves_when_told(
    tmp_path: Path, broker_url: str, number: signal.Signals
) -> None:
    environment = os.environ | {
        "NUMERAL_HOME": str(tmp_path),
        "NUMERAL_PORT": "0",
        "NUMERAL_BROKER_URL": broker_url,
    }
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        addresses = (re.search(r"http://[\d.:]+", line) for line in process.stdout)
        url = next(address.group() for address in addresses if address is not None)
        job_id = httpx.post(f"{url}/v1/jobs", json={}).json()["id"]
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", headers=headers) as answer:
            lines = answer.iter_lines()
            next(lines)
            began = time.monotonic()
            process.send_signal(number)
            for _ in lines:
                pass
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - began < 4


def test_the_status_counts_what_there_is(live_on_each: Live) -> None:
    live = live_on_each
    waiting = [live.submit() for _ in range(3)]
    live.claim(waiting[0])
    jobs.remove(live.db, _cancelled(live, waiting[1]))
    found = live.http.get("/v1/status").json()
    assert found["jobs"] == {"running": 1, "queued": 1}
    assert found["queues"] == {"cpu": 1}
    assert found["database"]["size_bytes"] > 10_000
    assert 0 < found["disk"]["free_bytes"] <= found["disk"]["total_bytes"]


def _cancelled(live: Live, job_id: str) -> str:
    jobs.cancel(live.db, job_id)
    return job_id
