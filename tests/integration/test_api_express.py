"""The short way of a prediction: the same answers, the same refusals, and nobody waits for a new model."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.express.quick import Reader
from service.serving import batcher
from service.serving.inference import NumpyNetwork
from service.settings import Settings
from tests.integration.conftest import Live, eventually, register, serving, weights_for
from tests.integration.test_api_predictions import digit, encoded, weights
from tests.integration.test_api_raw import sent

JSON = json.dumps({"images": [digit(1).reshape(784).tolist()]}).encode()
WAYS: dict[str, dict[str, Any]] = {
    "json": {"content": JSON, "headers": {"Content-Type": "application/json"}},
    "bytes": {"content": digit(1).tobytes(), "headers": {"Content-Type": "application/octet-stream"}},
    "png": {"content": encoded(digit(1))},
    "form": {"files": {"file": ("7.png", encoded(digit(1)), "image/png")}},
}


@pytest.fixture(scope="module")
def reading(shared: Live) -> Live:
    """An API with a model in memory."""
    model = register(shared, weights())
    classifier = shared.server.application.state.context.classifier
    eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
    return shared


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each body that the short way looks at, whether it was read there."""
    looked: list[bool] = []
    read = Reader.read

    def noted(self: Reader, body: bytes, content_type: bytes, version: str) -> Any:
        found = read(self, body, content_type, version)
        looked.append(found is not None)
        return found

    monkeypatch.setattr(Reader, "read", noted)
    return looked


@pytest.mark.parametrize("way", WAYS)
def test_the_short_way_answers_what_the_long_way_does(reading: Live, watched: list[bool], way: str) -> None:
    short = reading.http.post("/v1/predict", **WAYS[way])
    assert watched == [True]
    mode = "auto" if way in ("png", "form") else "none"
    long = reading.http.post(f"/v1/predict?preprocess={mode}", **WAYS[way])
    assert watched == [True]  # it has a query: nothing looked at it
    assert short.json() == long.json()
    names = {"content-type", "x-request-id", "x-content-type-options", "content-length"}
    assert names <= short.headers.keys()
    assert {name: short.headers[name] for name in ("content-type", "x-content-type-options")} == {
        name: long.headers[name] for name in ("content-type", "x-content-type-options")
    }


def test_many_images_as_bytes(reading: Live, watched: list[bool]) -> None:
    images = np.stack([digit(seed) for seed in range(7)])
    options: dict[str, Any] = {
        "content": images.tobytes(),
        "headers": {"Content-Type": "application/octet-stream"},
    }
    short, long = (
        reading.http.post(path, **options) for path in ("/v1/predict", "/v1/predict?preprocess=none")
    )
    assert watched == [True]
    assert len(short.json()["predictions"]) == 7
    assert short.json() == long.json()


def test_bytes_that_are_no_images_say_so(reading: Live) -> None:
    typed = {"Content-Type": "application/octet-stream"}
    answer = reading.http.post("/v1/predict", content=bytes(785), headers=typed)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_pixels")
    assert "1 are left over" in answer.json()["detail"]
    answer = reading.http.post("/v1/predict", content=b"", headers=typed)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_images")
    answer = reading.http.post("/v1/predict", content=bytes(784) * 5000, headers=typed)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")
    assert reading.http.post("/v1/predict", content=encoded(digit(1)), headers=typed).status_code == 200


def test_a_model_by_its_id_and_one_that_is_not_there(reading: Live, watched: list[bool]) -> None:
    model = reading.http.get("/v1/models/latest").json()["id"]
    assert reading.http.post(f"/v1/models/{model}/predict", content=JSON).json()["model"] == model
    assert watched == [True]
    gone = reading.http.post("/v1/models/nobody/predict", content=JSON)
    assert (gone.status_code, watched) == (404, [True])


def test_what_the_client_calls_the_request(reading: Live) -> None:
    for given, is_kept in (("mine-7", True), ("no spaces", False), ("x" * 200, False)):
        answer = reading.http.post("/v1/predict", content=JSON, headers={"X-Request-ID": given})
        assert answer.status_code == 200
        assert (answer.headers["x-request-id"] == given) == is_kept


def test_a_body_in_pieces(reading: Live, watched: list[bool]) -> None:
    answer = reading.http.post("/v1/predict", content=iter([JSON[:10], JSON[10:900], JSON[900:]]))
    assert (answer.status_code, watched) == (200, [True])
    assert answer.json() == reading.http.post("/v1/predict", content=JSON).json()


def test_a_body_in_pieces_that_never_ends_is_refused(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(settings_for(tmp_path, max_body_bytes=10_000)) as live:
        register(live, weights_for(3))
        answer = live.http.post("/v1/predict", content=(JSON for _ in range(100)))
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert live.http.post("/v1/predict", content=JSON).json()["predictions"][0]["label"] == 3


def test_a_length_over_the_limit_is_refused_before_the_body_comes(reading: Live) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    assert sent(reading, head + b"{").startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_in_the_middle(reading: Live) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    for _ in range(20):
        sent(reading, head + JSON[:100], then_close=True)
    assert reading.http.post("/v1/predict", content=JSON).status_code == 200


def test_mistakes_are_told_as_ever(reading: Live) -> None:
    answer = reading.http.post("/v1/predict", json={"images": [[0.0] * 783]})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [
        {"pointer": "#/images/0", "detail": "got 783, expected 784 or 28 rows of 28"}
    ]


def test_a_full_queue_is_told_and_when_to_come_back(
    settings_for: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "LIGHT", 0)
    gate, begun = threading.Event(), threading.Event()
    logits = NumpyNetwork.logits

    def slow(self: NumpyNetwork, inputs: Any) -> Any:
        begun.set()
        assert gate.wait(20)
        return logits(self, inputs)

    with serving(settings_for(tmp_path, max_waiting_images=2)) as live:
        register(live, weights_for(4))
        assert live.http.post("/v1/predict", content=JSON).status_code == 200
        monkeypatch.setattr(NumpyNetwork, "logits", slow)
        begun.clear()
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(httpx.post(f"{live.url}/v1/predict", content=JSON))
            )
            for _ in range(3)
        ]
        threads[0].start()
        assert begun.wait(10)
        for waiting, thread in enumerate(threads[1:], start=1):
            thread.start()
            eventually(lambda: live.server.application.state.context.batcher.waiting == waiting)  # noqa: B023
        refused = live.http.post("/v1/predict", content=JSON)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert live.http.get("/livez").status_code == 200
        gate.set()
        for thread in threads:
            thread.join(20)
        assert [answer.json()["predictions"][0]["label"] for answer in answers] == [4, 4, 4]


@pytest.mark.parametrize("limit", [batcher.LIGHT, 0])
def test_no_request_fails_or_mixes_while_models_change(
    settings_for: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(batcher, "LIGHT", limit)
    four = json.dumps({"images": [digit(seed).reshape(784).tolist() for seed in range(4)]}).encode()
    with serving(settings_for(tmp_path)) as live:
        labels = {register(live, weights_for(0)).id: 0}
        assert live.http.post("/v1/predict", content=JSON).status_code == 200
        seen: list[tuple[str, set[int]]] = []
        ending = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=live.url, timeout=20) as http:
                while not ending.is_set():
                    answer = http.post("/v1/predict", content=four)
                    assert answer.status_code == 200, answer.text
                    body = answer.json()
                    seen.append((body["model"], {each["label"] for each in body["predictions"]}))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        eventually(lambda: seen)
        for label in range(1, 10):
            labels[register(live, weights_for(label)).id] = label
            eventually(lambda: seen and seen[-1][1] == {label}, seconds=20)  # noqa: B023
        ending.set()
        for asker in askers:
            asker.join(20)
    assert {model for model, _ in seen} == labels.keys()
    assert all(found == {labels[model]} for model, found in seen)
