"""What is refused: each with its status and its code, and none leaves a trace."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Live

JSON = {"Content-Type": "application/json"}


def png(side: int = 28) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.eye(side, dtype=np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def refused(answer: httpx.Response, status: int, code: str, *pointers: str) -> dict[str, Any]:
    """The problem, whose form is checked."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert problem.keys() >= {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert problem["status"] == status
    assert problem["instance"] == answer.url.path
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert [item["pointer"] for item in problem["errors"]][: len(pointers)] == list(pointers)
    return problem


@contextmanager
def no_trace(live: Live) -> Iterator[None]:
    before = live.trace()
    yield
    assert live.trace() == before


# Specs


def refused_spec(live: Live, spec: dict[str, Any], code: str, pointer: str) -> dict[str, Any]:
    with no_trace(live):
        return refused(live.http.post("/v1/jobs", json=spec), 422, code, pointer)


def test_an_unknown_field(shared: Live) -> None:
    refused_spec(shared, {"network": {"hidden_width": [3]}}, "invalid_spec", "#/network/hidden_width")


def test_a_wrong_type(shared: Live) -> None:
    refused_spec(shared, {"seed": "3"}, "invalid_spec", "#/seed")


def test_a_width_of_zero(shared: Live) -> None:
    refused_spec(shared, {"network": {"hidden_widths": [32, 0]}}, "invalid_spec", "#/network/hidden_widths/1")


def test_a_width_over_the_budget(shared: Live) -> None:
    spec = {"network": {"hidden_widths": [10**9]}}
    problem = refused_spec(shared, spec, "parameter_budget", "#/network/hidden_widths")
    assert "200,000,000" in problem["detail"]
    assert "NUMERAL_MAX_PARAMETERS" in problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(shared: Live, number: str) -> None:
    body = f'{{"optimizer": {{"name": "sgd", "learning_rate": {number}}}}}'
    with no_trace(shared):
        problem = refused(shared.http.post("/v1/jobs", content=body, headers=JSON), 400, "malformed_json")
    assert number in problem["detail"]


def test_a_number_that_overflows_to_infinity(shared: Live) -> None:
    body = '{"optimizer": {"name": "sgd", "learning_rate": 1e999}}'
    with no_trace(shared):
        answer = shared.http.post("/v1/jobs", content=body, headers=JSON)
        refused(answer, 422, "invalid_spec", "#/optimizer/learning_rate")
        answer = shared.http.post("/v1/jobs", content='{"metadata": {"x": 1e999}}', headers=JSON)
        refused(answer, 422, "invalid", "#/metadata")


def test_an_unknown_dataset(shared: Live) -> None:
    refused_spec(shared, {"dataset": {"name": "cifar"}}, "invalid_spec", "#/dataset/name")


def test_a_batch_over_the_data(shared: Live) -> None:
    problem = refused_spec(shared, {"batch_size": 60_001}, "invalid_spec", "#/batch_size")
    assert "60,000" in problem["errors"][0]["detail"]


@pytest.mark.parametrize("value", [0, 10_000_001, 1.5, "all", None])
def test_a_batch_that_is_none_is_named_once(shared: Live, value: object) -> None:
    problem = refused_spec(shared, {"batch_size": value}, "invalid_spec", "#/batch_size")
    (mistake,) = problem["errors"]
    assert mistake["detail"] == 'give a whole number from 1 to 10,000,000, or "full"'


@pytest.mark.parametrize("block", ["dataset", "network", "optimizer", "regularization"])
def test_a_block_that_is_no_object(shared: Live, block: str) -> None:
    problem = refused_spec(shared, {block: "mnist"}, "invalid_spec", f"#/{block}")
    assert problem["errors"][0]["detail"] == "must be an object"


def test_a_payload_with_any_number_of_mistakes_gets_a_short_answer(shared: Live) -> None:
    spec = {f"k{n}": 1 for n in range(4000)}
    problem = refused_spec(shared, spec, "invalid_spec", "#/k0")
    assert len(problem["errors"]) == 50
    assert "3,950 more" in problem["detail"]


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"preset=slp-200",
        b'{"seed": 1, "seed": 2}',
        b'{"seed": \xff}',
        b"\xef\xbb\xbf{}",
        '{"seed": 1}'.encode("utf-16"),
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"metadata": {"a": "\\ud800"}}',
        b'{"metadata": {"a\\u0000": 1}}',
        b'{"a":' * 10_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" * 40_000,
        b'{"metadata": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}",
    ],
)
def test_what_is_not_decent_json(shared: Live, body: bytes) -> None:
    with no_trace(shared):
        refused(shared.http.post("/v1/jobs", content=body, headers=JSON), 400, "malformed_json")


@pytest.mark.parametrize("body", ["[]", "null", '"slp-200"', "3"])
def test_json_that_is_no_object(shared: Live, body: str) -> None:
    with no_trace(shared):
        refused(shared.http.post("/v1/jobs", content=body, headers=JSON), 422, "not_an_object")


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", None])
def test_json_by_another_name_since_any_web_page_may_send_that(shared: Live, media: str | None) -> None:
    headers = {} if media is None else {"Content-Type": media}
    with no_trace(shared):
        answer = shared.http.post("/v1/jobs", content=b'{"preset": "slp-200"}', headers=headers)
        refused(answer, 415, "unsupported_media_type")


# Bodies over the limit


def test_a_body_over_the_limit(shared: Live) -> None:
    with no_trace(shared):
        problem = refused(
            shared.http.post("/v1/jobs", json={"metadata": {"a": "x" * 70_000}}), 413, "payload_too_large"
        )
    assert "65,536" in problem["detail"]


def test_a_body_in_chunks_over_the_limit(shared: Live) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"metadata": {"a": "'
        for _ in range(100):
            yield b"x" * 1000
        yield b'"}}'

    with no_trace(shared):
        answer = shared.http.post("/v1/jobs", content=chunks(), headers=JSON)
        refused(answer, 413, "payload_too_large")


def test_an_image_may_be_larger_than_a_spec_but_not_than_its_own_limit(shared: Live) -> None:
    long = b"\x89PNG\r\n\x1a\n" + b"\0" * 100_000
    refused(shared.http.post("/v1/predict", content=long), 422, "corrupt_image")
    refused(shared.http.post("/v1/predict", content=b"\0" * (32 * 1024**2 + 1)), 413, "payload_too_large")


# Images


def refused_image(live: Live, content: bytes, status: int, code: str) -> dict[str, Any]:
    """In every way that an image may come."""
    url = "/v1/predict"
    encoded = base64.b64encode(content).decode()
    with no_trace(live):
        refused(live.http.post(url, content=content, headers={"Content-Type": "image/png"}), status, code)
        refused(live.http.post(url, files={"image": ("a.png", content)}), status, code, "#/image/0")
        answer = live.http.post(url, json={"images": [[0] * 784, encoded]})
        return refused(answer, status, code, "#/images/1")


def test_a_truncated_png(shared: Live) -> None:
    refused_image(shared, png(200)[:100], 422, "corrupt_image")


def test_a_gif(shared: Live) -> None:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "GIF")
    assert "GIF" in refused_image(shared, file.getvalue(), 415, "unsupported_image")["detail"]


def test_a_huge_png_of_few_bytes(shared: Live) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000)) + chunk(b"IEND", b"")
    refused_image(shared, bomb, 413, "image_too_large")


def test_a_text_named_png(shared: Live) -> None:
    assert "text" in refused_image(shared, b"seven, honestly", 415, "unsupported_image")["detail"]


def test_no_image(shared: Live) -> None:
    url = "/v1/predict"
    with no_trace(shared):
        refused(shared.http.post(url), 422, "no_images")
        refused(shared.http.post(url, json={"images": []}), 422, "no_images", "#/images")
        refused(shared.http.post(url, json={}), 422, "no_images")
        refused(shared.http.post(url, json={"image": [0] * 784, "images": []}), 422, "no_images")
        refused(shared.http.post(url, files={"note": (None, b"x")}), 422, "unknown_field", "#/note")
        refused(shared.http.post(url, files={"preprocess": (None, b"auto")}), 422, "no_images")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"images": [[0] * 784, [0] * 783]}, "bad_pixels", "#/images/1"),
        ({"image": [0] * 783}, "bad_pixels", "#/image"),
        ({"images": [[0] * 783 + [256]]}, "bad_pixels", "#/images/0"),
        ({"images": [[-1] + [0] * 783]}, "bad_pixels", "#/images/0"),
        ({"images": [[2] + [0] * 783], "scale": "unit"}, "bad_pixels", "#/images/0"),
        ({"images": ["AAAA", [True] + [0] * 783]}, "bad_pixels", "#/images/1"),
        ({"images": [[[0] * 28] * 27]}, "bad_pixels", "#/images/0"),
        ({"images": [None]}, "bad_pixels", "#/images/0"),
        ({"images": [[10**400] * 784]}, "bad_pixels", "#/images/0"),
        ({"images": 3}, "no_images", "#/images"),
        ({"images": [[0] * 784], "scale": "bit"}, "invalid", "#/scale"),
        ({"images": [[0] * 784], "preprocess": {}}, "invalid", "#/preprocess"),
        ({"images": [[0] * 784], "x/y": 1}, "unknown_field", "#/x/y"),
        ({"images": ["not base64!"]}, "bad_base64", "#/images/0"),
        ({"images": ["AAA"]}, "bad_base64", "#/images/0"),
        ({"images": ["é"]}, "bad_base64", "#/images/0"),
    ],
)
def test_numbers_and_base64_that_are_no_digits(
    shared: Live, body: dict[str, Any], code: str, pointer: str
) -> None:
    with no_trace(shared):
        refused(shared.http.post("/v1/predict", json=body), 422, code, pointer)


def test_json_of_a_prediction_that_is_none(shared: Live) -> None:
    for body in (b"[1, 2", b'{"images": NaN}', b'{"images":' + b"[" * 100_000, b"nonsense"):
        refused(shared.http.post("/v1/predict", content=body, headers=JSON), 400, "malformed_json")
    refused(shared.http.post("/v1/predict", json=[[0] * 784]), 422, "not_an_object")


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\nnonsense\r\n--b--\r\n",
        b"--c\r\n\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"x" * 2_000_000 + b"\r\n--b--\r\n",
    ],
)
def test_a_form_that_cannot_be_read(shared: Live, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(shared.http.post("/v1/predict", content=body, headers=headers), 400, "malformed_multipart")


def test_a_form_without_a_boundary(shared: Live) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    refused(shared.http.post("/v1/predict", content=b"--b\r\n", headers=headers), 400, "malformed_multipart")


def test_too_many_images(shared: Live) -> None:
    limit = shared.settings.max_images
    answer = shared.http.post("/v1/predict", json={"images": [0] * (limit + 1)})
    assert "4,096" in refused(answer, 413, "too_many_images")["detail"]
    answer = shared.http.post("/v1/predict", files=[("f", ("a.png", b"x"))] * (limit + 1))
    refused(answer, 413, "too_many_images")


def test_no_model_is_trained_yet(shared: Live) -> None:
    with no_trace(shared):
        for path in ("/v1/predict", "/v1/models/latest/predict"):
            problem = refused(shared.http.post(path, content=png()), 409, "no_model")
            assert "/v1/jobs" in problem["detail"]
        refused(shared.http.post("/v1/models/champion/predict", content=png()), 404, "model_not_found")
        refused(shared.http.get("/v1/models/latest"), 404, "model_not_found")


# Jobs and paths


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "job_%F0%9F%98%80", "%2e%2e", "x" * 5000])
def test_a_job_that_does_not_exist(shared: Live, job_id: str) -> None:
    http, path = shared.http, f"/v1/jobs/{job_id}"
    with no_trace(shared):
        for answer in (
            http.get(path),
            http.patch(path, json={"priority": 1}),
            http.delete(path),
            http.post(f"{path}/cancel"),
            http.get(f"{path}/events"),
            http.get(f"{path}/events", headers={"Accept": "text/event-stream"}),
            http.get(f"{path}/metrics"),
            http.get(f"{path}/checkpoints"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_cancel_of_a_finished_job(live: Live) -> None:
    job_id = live.model(3).job_id
    with no_trace(live):
        refused(live.http.post(f"/v1/jobs/{job_id}/cancel"), 409, "illegal_transition")


def test_a_second_identical_submit(live: Live) -> None:
    first = live.http.post("/v1/jobs", json={"seed": 1}, headers={"Idempotency-Key": "k"})
    with no_trace(live):
        second = live.http.post("/v1/jobs", json={"seed": 1}, headers={"Idempotency-Key": "k"})
    assert (second.status_code, second.json()) == (202, first.json())


def test_paths_and_methods_that_are_not_there(shared: Live) -> None:
    refused(shared.http.get("/v1/nowhere"), 404, "no_such_path")
    refused(shared.http.get("/v1/jobs/"), 404, "no_such_path")
    refused(shared.http.get("/redoc"), 404, "no_such_path")
    answer = shared.http.put("/v1/jobs/x")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, PATCH, DELETE"
    refused(shared.http.delete("/livez"), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/v1/jobs/%00", "/v1/jobs?preset=%00", "/v1/models/a%00"])
def test_a_nul_in_the_address(shared: Live, path: str) -> None:
    refused(shared.http.get(path), 422, "invalid_parameter")


def test_numbers_beyond_any_database(shared: Live) -> None:
    job_id = "job_" + "0" * 32
    for query in (f"events?after={10**30}", f"metrics?after_step={10**30}", "metrics?after=a:" + "9" * 30):
        refused(shared.http.get(f"/v1/jobs/{job_id}/{query}"), 422, "invalid_parameter")


def test_an_error_of_ours_tells_nothing_but_its_id(
    shared: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the password is sesame")

    monkeypatch.setattr("service.store.jobs.page", broken)
    answer = shared.http.get("/v1/jobs", headers={"X-Request-ID": "abc-1"})
    refused(answer, 500, "internal_error")
    assert answer.headers["X-Request-ID"] == "abc-1"
    assert "sesame" not in answer.text
    assert "abc-1" in caplog.text
    assert "sesame" in caplog.text


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>"])
def test_a_request_id_is_taken_over_only_if_it_is_decent(shared: Live, given: str) -> None:
    answer = shared.http.get("/livez", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] != given
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(json.loads(answer.text)) == 1
