"""Checkpoints: listed, looked at, downloaded whole and in ranges."""

import hashlib
import os

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest

from service import checkpoints as files
from service.checkpoints import Snapshot
from service.data.digits import PREPROCESSING_VERSION
from service.serving.confidence import Calibration
from service.store.reports import Draft
from tests.integration.conftest import LINEAR, Live, register, weights_for

DATA = os.urandom(2 * 1024**2 + 12_345)  # three pieces
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def url(live_on_each: Live) -> str:
    """The download of a checkpoint of three pieces."""
    header = live_on_each.checkpoint(live_on_each.claim(live_on_each.submit()), DATA, step=7)
    return f"/v1/checkpoints/{header.id}/download"


def test_a_job_lists_its_checkpoints(live: Live) -> None:
    attempt = live.claim(live.submit())
    headers = [live.checkpoint(attempt, weights_for(step), step=step) for step in (1, 2)]
    page = live.http.get(f"/v1/jobs/{attempt.job_id}/checkpoints").json()
    assert [item["id"] for item in page["data"]] == [headers[1].id, headers[0].id]
    item = live.http.get(f"/v1/checkpoints/{headers[1].id}").json()
    assert item == page["data"][0]
    assert (item["step"], item["weights_sha256"]) == (2, headers[1].weights_sha256)
    content = live.http.get(item["download"]).content
    assert len(content) == item["size_bytes"]
    assert files.decode_weights(content).metadata["step"] == 1
    missing = live.http.get("/v1/checkpoints/ckpt_0")
    assert (missing.status_code, missing.json()["code"]) == (404, "checkpoint_not_found")


def test_the_whole_file(live_on_each: Live, url: str) -> None:
    answer = live_on_each.http.get(url)
    assert (answer.status_code, hashlib.sha256(answer.content).hexdigest()) == (200, SHA256)
    assert answer.headers["ETag"] == f'"{SHA256}"'
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"].endswith('-step7.safetensors"')
    head = live_on_each.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {
        **answer.headers,
        "date": "",
        "x-request-id": head.headers["x-request-id"],
    }


SIZE = len(DATA)


def test_a_range(live_on_each: Live, url: str) -> None:
    for asked, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1048570-1048580", 1048570, 1048581),
        (f"bytes={SIZE - 5}-", SIZE - 5, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes=1-{SIZE * 2}", 1, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        ("bytes=0-", 0, SIZE),
    ):
        answer = live_on_each.http.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, DATA[start:stop]), asked
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert answer.headers["Content-Length"] == str(stop - start)


@pytest.fixture
def short(shared: Live) -> str:
    """The download of a checkpoint of ten bytes."""
    return f"/v1/checkpoints/{shared.checkpoint(shared.claim(shared.submit()), b'0123456789').id}/download"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "x"])
def test_a_range_that_is_none_is_passed_over(shared: Live, short: str, asked: str) -> None:
    answer = shared.http.get(short, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999999-"])
def test_a_range_outside_the_file(shared: Live, short: str, asked: str) -> None:
    answer = shared.http.get(short, headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */10"


def test_what_is_there_already_is_not_sent_again(shared: Live, short: str) -> None:
    etag = shared.http.head(short).headers["ETag"]

    def get(**headers: str) -> httpx.Response:
        return shared.http.get(
            short, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    for tags in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = get(If_None_Match=tags)
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert get(If_None_Match='"x"').status_code == 200
    assert get(Range="bytes=2-3", If_Range=etag).content == b"23"
    assert get(Range="bytes=2-3", If_Range='"x"').status_code == 200
    assert get(Range="bytes=2-3", If_Range="Wed, 21 Oct 2015 07:28:00 GMT").status_code == 200


def test_a_cut_download_goes_on_where_it_was_cut(live_on_each: Live, url: str) -> None:
    received = b""
    with live_on_each.http.stream("GET", url) as answer:
        for piece in answer.iter_bytes(65536):
            received += piece
            if len(received) > 1_100_000:
                break
    rest = live_on_each.http.get(
        url, headers={"Range": f"bytes={len(received)}-", "If-Range": answer.headers["ETag"]}
    )
    assert hashlib.sha256(received + rest.content).hexdigest() == SHA256


def test_another_format_is_refused(live: Live) -> None:
    answer = live.http.get("/v1/checkpoints/ckpt_0/download?format=pickle")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "query/format")


def test_a_model_as_onnx_answers_as_the_service_does(live: Live) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(0, 1, shape).astype(np.float32) for name, shape in files.shapes(LINEAR).items()
    }
    arrays["input.std"] = np.ones(1, np.float32)
    data = files.encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)
    logits, targets = generator.normal(0, 3, (2000, 10)).astype(np.float32), generator.integers(0, 10, 2000)
    calibration = Calibration.fit(logits, targets, None, source="validation")
    model = register(live, data, Draft({}, None, calibration.to_json()))
    assert calibration.temperature > 1.5

    answer = live.http.get(f"/v1/models/{model.id}/download?format=onnx", follow_redirects=True)
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert answer.headers["Content-Disposition"].endswith('-step1.onnx"')
    told = {entry.key: entry.value for entry in onnx.load_from_string(answer.content).metadata_props}
    assert told == {
        "checkpoint_id": model.checkpoint_id,
        "model_id": model.id,
        "preprocessing": PREPROCESSING_VERSION,
        "spec_sha256": LINEAR.sha256,
        "weights_sha256": model.weights_sha256,
    }
    images = generator.integers(0, 256, (20, 784), dtype=np.uint8)
    ours = live.http.post(
        f"/v1/models/{model.id}/predict",
        content=images.tobytes(),
        headers={"Content-Type": "application/octet-stream"},
    ).json()["predictions"]
    session = onnxruntime.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, {"pixels": images.astype(np.float32)})
    np.testing.assert_allclose(probabilities, [one["probabilities"] for one in ours], rtol=0, atol=1e-5)

    address = f"/v1/checkpoints/{model.checkpoint_id}/download?format=onnx"
    part = live.http.get(address, headers={"Range": "bytes=10-19", "If-Range": answer.headers["ETag"]})
    assert (part.status_code, part.content) == (206, answer.content[10:20])
    assert live.http.get(address, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert live.http.head(address).headers["Content-Length"] == str(len(answer.content))


def test_bytes_that_are_no_checkpoint_are_no_onnx_file(live: Live) -> None:
    header = live.checkpoint(live.claim(live.submit()), b"0123456789")
    answer = live.http.get(f"/v1/checkpoints/{header.id}/download?format=onnx")
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_damaged")


@pytest.mark.parametrize("damage", ["DELETE FROM chunk WHERE ordinal = 1", "UPDATE chunk SET data = blob_id"])
def test_a_damaged_file_is_not_sent(live: Live, damage: str) -> None:
    header = live.checkpoint(live.claim(live.submit()), DATA)
    with live.db.write() as connection:
        connection.exec_driver_sql(damage.replace("blob_id", "x'00'"))
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = live.http.get(f"/v1/checkpoints/{header.id}/download", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_damaged")
    assert live.http.get(f"/v1/checkpoints/{header.id}").json()["is_damaged"]
    events = live.http.get(f"/v1/jobs/{header.job_id}/events").json()["data"]
    assert [event["type"] for event in events].count("warning") == 1
