"""The Open Inference Protocol: as bytes on HTTP, and with the client that most people have for it."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.api.app import create_app
from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from service.serving.inference import NumpyNetwork
from service.settings import Settings
from tests.integration.conftest import LINEAR, Live, register, serving, weights_for

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/digits/infer"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 784)).astype(np.uint8)


@pytest.fixture(scope="module")
def data() -> bytes:
    arrays = {name: RANDOM.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"][:] = 1
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)


@pytest.fixture(scope="module")
def expected(data: bytes) -> NDArray[np.float32]:
    return NumpyNetwork.from_checkpoint(data).probabilities(IMAGES)


@pytest.fixture(scope="module")
def inferring(shared: Live, data: bytes) -> Live:
    """An API with two models: version 2, the newest, is of random weights."""
    register(shared, weights_for(3))
    register(shared, data)
    shared.http.put("/v1/aliases/champion", json={"model": "latest"})
    return shared


def tensor(**changes: Any) -> dict[str, Any]:
    """An input of three images, changed; a change to None leaves the field out."""
    whole = {"name": "images", "shape": [3, 784], "datatype": "UINT8", "data": IMAGES.ravel().tolist()}
    return {name: value for name, value in (whole | changes).items() if value is not None}


def asked(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor()]} | changes


def binary(
    block: bytes, *, length: object = None, size: object = None, scale: str = "byte", **changes: Any
) -> dict[str, Any]:
    """A request with binary data, whose sizes may lie."""
    told = len(block) if size is None else size
    described = tensor(data=None, parameters={"binary_data_size": told}, **changes)
    text = json.dumps({"inputs": [described], "parameters": {"scale": scale}}).encode()
    return {"content": text + block, "headers": {LENGTH: str(len(text) if length is None else length)}}


def inferred(live: Live, path: str = INFER, **request: Any) -> dict[str, Any]:
    answer = live.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response, status: int = 400) -> str:
    """The sentence of an error that has the protocol's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json().keys() == {"error"}
    return str(answer.json()["error"])


def declared(live: Live, length: int) -> tuple[int, str | None]:
    """Status and type of the answer to a body that is said to be so long, and does not come."""
    with closing(HTTPConnection(live.url.removeprefix("http://"), timeout=10)) as connection:
        connection.putrequest("POST", INFER)
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type")


def outputs_of(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output for output in answer["outputs"]}


# What a server and a model say of themselves


def test_a_server_without_a_model(live: Live) -> None:
    for path in ("/v2", "/v2/"):
        answer = live.http.get(path)
        assert (answer.status_code, answer.history) == (200, [])
        assert answer.json()["name"] == "numeral"
        assert {"binary_tensor_data", "classification", "statistics"} <= set(answer.json()["extensions"])
    assert live.http.get("/v2/health/live").json() == {"live": True}
    assert live.http.get("/v2/health/ready").json() == {"ready": True}
    assert "no model is trained yet" in refused(live.http.get("/v2/models/digits"), 409)
    assert "no model is trained yet" in refused(live.http.post(INFER, json=asked()), 409)
    assert live.http.post("/v2/repository/index").json() == []
    assert live.http.get("/v2/models/stats").json() == {"model_stats": []}
    reserved = live.http.put("/v1/aliases/digits", json={"model": "latest"})
    assert reserved.json()["code"] == "reserved_alias"


def test_a_model_has_names_and_versions(inferring: Live) -> None:
    http = inferring.http
    newest = http.get("/v1/models/latest").json()["id"]
    assert http.get("/v2/models/digits").json()["versions"] == ["2", "1"]
    for name in ("latest", "champion", newest, "digits/versions/2", "latest/versions/2"):
        found = http.get(f"/v2/models/{name}").json()
        assert found["versions"] == ["2"]
        assert found["name"] == name.partition("/")[0]
        assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 784]}]
        assert [output["name"] for output in found["outputs"]] == ["probabilities", "label", "confidence"]
        assert http.get(f"/v2/models/{name}/ready").json()["ready"] is True
    assert "stands for version 2" in refused(http.get("/v2/models/champion/versions/1"), 404)
    for path in ("nothing", "digits/versions/9", "digits/versions/9/ready", "nothing/ready", "nothing/stats"):
        refused(http.get(f"/v2/models/{path}"), 404)
    for version in ("0", "-1", "x", "99999999999999999999"):
        refused(http.get(f"/v2/models/digits/versions/{version}"), 422)


def test_errors_have_the_protocols_form_whoever_raises_them(inferring: Live) -> None:
    http = inferring.http
    refused(http.get("/v2/nothing"), 404)
    refused(http.get("/v2/models/digits/nothing/at/all"), 404)
    wrong = http.get(INFER)
    refused(wrong, 405)
    assert wrong.headers["Allow"] == "POST"
    refused(http.post("/v2/models/digits", json={}), 405)
    refused(http.get("/v2?x=1"), 422)
    refused(http.post("/v2/repository/index", content=b" " * 70_000), 413)
    assert declared(inferring, 2**40) == (413, "application/json")
    assert http.get("/v2x").headers["Content-Type"] == "application/problem+json"


# Inference


def test_the_same_pixels_give_the_same_answer_in_every_form(
    inferring: Live, expected: NDArray[np.float32]
) -> None:
    floats = IMAGES.astype("<f4")
    unit = {"parameters": {"scale": "unit"}}
    forms: list[dict[str, Any]] = [
        {"json": asked()},
        {"json": asked(inputs=[tensor(data=IMAGES.tolist())])},
        {"json": asked(inputs=[tensor(shape=[3, 28, 28])])},
        {"json": asked(inputs=[tensor(shape=[3, 28, 28], data=IMAGES.reshape(3, 28, 28).tolist())])},
        {"json": asked(inputs=[tensor(shape=[3, 1, 28, 28], data=IMAGES.reshape(3, 1, 28, 28).tolist())])},
        {"json": asked(inputs=[tensor(datatype="FP32", data=floats.tolist())])},
        {"json": asked(inputs=[tensor(datatype="FP32", data=(floats / 255).tolist())], **unit)},
        {"json": asked(id=None, parameters=None, outputs=[], model_name="whatever")},
        {"content": json.dumps(asked()).encode()},  # without a Content-Type, as the common client has it
        {"content": json.dumps(asked()).encode(), "headers": {LENGTH: str(len(json.dumps(asked())))}},
        binary(IMAGES.tobytes()),
        binary(floats.tobytes(), datatype="FP32", shape=[3, 1, 28, 28]),
        binary((floats / 255).tobytes(), datatype="FP32", scale="unit"),
        {"content": gzip.compress(json.dumps(asked()).encode()), "headers": {"Content-Encoding": "gzip"}},
        {"content": zlib.compress(json.dumps(asked()).encode()), "headers": {"Content-Encoding": "deflate"}},
    ]
    for form in forms:
        answer = inferred(inferring, **form)
        assert (answer["model_name"], answer["model_version"]) == ("digits", "2")
        outputs = outputs_of(answer)
        assert list(outputs) == ["probabilities", "label", "confidence"]
        probabilities = outputs["probabilities"]
        assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 10])
        assert probabilities["data"] == pytest.approx(expected.ravel().tolist(), abs=1e-6)
        assert outputs["label"]["data"] == expected.argmax(axis=1).tolist()
        assert (outputs["label"]["datatype"], outputs["label"]["shape"]) == ("INT64", [3])
        assert outputs["confidence"]["data"] == pytest.approx(expected.max(axis=1).tolist(), abs=1e-6)


def test_outputs_come_as_asked_for(inferring: Live, expected: NDArray[np.float32]) -> None:
    answer = inferred(inferring, json=asked(id="a-1", outputs=[{"name": "confidence"}, {"name": "label"}]))
    assert answer["id"] == "a-1"
    assert [output["name"] for output in answer["outputs"]] == ["confidence", "label"]
    first = inferred(inferring, "/v2/models/digits/versions/1/infer", json=asked())
    assert first["model_version"] == "1"
    assert outputs_of(first)["label"]["data"] == [3, 3, 3]
    assert "id" not in first

    wanted = [
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": False, "classification": 2}},
        {"name": "confidence"},
    ]
    request = asked(outputs=wanted, parameters={"binary_data_output": True})
    answer_bytes = inferring.http.post(INFER, json=request)
    assert answer_bytes.headers["Content-Type"] == "application/octet-stream"
    end = int(answer_bytes.headers[LENGTH])
    described = json.loads(answer_bytes.content[:end])["outputs"]
    assert [one.get("parameters") for one in described] == [
        {"binary_data_size": 24},
        None,
        {"binary_data_size": 12},
    ]
    blocks = answer_bytes.content[end:]
    assert len(blocks) == 36
    assert np.frombuffer(blocks[:24], "<i8").tolist() == expected.argmax(axis=1).tolist()
    assert np.frombuffer(blocks[24:], "<f4").tolist() == pytest.approx(expected.max(axis=1).tolist())
    assert (described[1]["datatype"], described[1]["shape"]) == ("BYTES", [3, 2])
    for row, text in zip(expected, described[1]["data"][::2], strict=True):
        score, index, label = text.split(":")
        assert float(score) == pytest.approx(row.max(), abs=1e-6)
        assert (int(index), label) == (row.argmax(), str(row.argmax()))


WRONG_INPUTS: dict[str, dict[str, Any]] = {
    "another name": {"name": "x"},
    "no name": {"name": None},
    "no shape": {"shape": None},
    "no datatype": {"datatype": None},
    "another datatype": {"datatype": "FP64"},
    "a datatype that is no text": {"datatype": ["FP32"]},
    "no data": {"data": None},
    "another field": {"dtype": "FP32"},
    "another parameter": {"parameters": {"shared_memory_region": "x"}},
    "parameters that are a list": {"parameters": []},
    "a shape of one image": {"shape": [784]},
    "a shape of text": {"shape": "3x784"},
    "a shape that is true": {"shape": [True, 784]},
    "a shape of fractions": {"shape": [3.0, 784]},
    "a negative shape": {"shape": [-1, 784]},
    "no images": {"shape": [0, 784], "data": []},
    "a shape of too many sides": {"shape": [1] * 50 + [784]},
    "more data than the shape": {"shape": [2, 784]},
    "less data than the shape": {"shape": [4, 784]},
    "data that is an object": {"data": {}},
    "data that is text": {"data": "AAAA"},
    "a number as text": {"data": ["1"] * 2352},
    "a boolean": {"data": [True] * 2352},
    "null": {"data": [None] * 2352},
    "below 0": {"data": [-1] * 2352},
    "above 255": {"data": [256] * 2352},
    "a fraction of UINT8": {"data": [0.5] * 2352},
    "beyond all range": {"datatype": "FP32", "data": [10**400] * 2352},
    "rows of another length": {"data": [[0] * 28] * 84},
    "nested deeper than the shape": {"data": [[[0] * 28] * 28] * 3},
    "nested unlike the shape": {"shape": [3, 28, 28], "data": [[0] * 784] * 3},
    "one row is a number": {"data": [[0] * 784, 0, [0] * 784]},
    "a list among numbers": {"data": [*[0] * 2351, [0]]},
    "unit scale of UINT8": {"parameters": {"scale": "unit"}},
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_an_input_that_is_wrong(inferring: Live, name: str) -> None:
    changes = WRONG_INPUTS[name]
    sentence = refused(inferring.http.post(INFER, json=asked(inputs=[tensor(**changes)])))
    assert len(sentence) < 300


WRONG_REQUESTS: dict[str, Any] = {
    "a list": [],
    "no inputs": {"inputs": None},
    "inputs that are an object": {"inputs": {}},
    "an input that is a list": {"inputs": [[]]},
    "two inputs": {"inputs": [tensor(), tensor()]},
    "another field": {"input": []},
    "an id that is a number": {"id": 7},
    "an id without end": {"id": "x" * 5000},
    "another parameter": {"parameters": {"sequence_id": 1}},
    "a parameter of another type": {"parameters": {"binary_data_output": 1}},
    "another scale": {"parameters": {"scale": "percent"}},
    "unit scale of UINT8": {"parameters": {"scale": "unit"}},
    "outputs that are text": {"outputs": "label"},
    "another output": {"outputs": [{"name": "logits"}]},
    "an output that is a list": {"outputs": [["label"]]},
    "an output's name that is a list": {"outputs": [{"name": ["label"]}]},
    "an output twice": {"outputs": [{"name": "label"}, {"name": "label"}]},
    "outputs without end": {"outputs": [{"name": "label"}] * 1000},
    "another field of an output": {"outputs": [{"name": "label", "shape": [3]}]},
    "another parameter of an output": {"outputs": [{"name": "label", "parameters": {"x": 1}}]},
    "classification of a label": {"outputs": [{"name": "label", "parameters": {"classification": 1}}]},
} | {
    f"classification {count}": {
        "outputs": [{"name": "probabilities", "parameters": {"classification": count}}]
    }
    for count in (0, -1, 11, True, "3", 2.0)
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_a_request_that_is_wrong(inferring: Live, name: str) -> None:
    changes = WRONG_REQUESTS[name]
    request = asked(**changes) if isinstance(changes, dict) else changes
    assert len(refused(inferring.http.post(INFER, json=request))) < 300


@pytest.mark.parametrize("name", ["nan", "inf", "-inf", "256", "-0.1"])
def test_numbers_that_no_pixel_has(inferring: Live, name: str) -> None:
    values = np.zeros((3, 784), "<f4")
    values[1, 5] = float(name)
    sentence = refused(inferring.http.post(INFER, **binary(values.tobytes(), datatype="FP32")))
    assert "element 789 " in sentence
    if name in ("nan", "inf", "-inf"):
        text = {"nan": "NaN", "inf": "1e999", "-inf": "-Infinity"}[name]
        wrong = json.dumps(asked(inputs=[tensor(datatype="FP32")])).replace('"data": [', f'"data": [{text}, ')
        refused(inferring.http.post(INFER, content=wrong.encode()))


def test_sizes_that_lie(inferring: Live) -> None:
    block = IMAGES.tobytes()
    whole = binary(block)
    end = int(whole["headers"][LENGTH])
    sizes: list[object] = [
        0,
        -1,
        len(block) - 1,
        len(block) + 1,
        2**63,
        2**200,
        str(len(block)),
        True,
        2352.0,
    ]
    lies = [binary(block, size=size) for size in sizes]
    lengths: list[object] = [
        0,
        -1,
        end - 1,
        end + 1,
        len(whole["content"]) + 1,
        10**30,
        "x",
        "+5",
        "",
        "1e3",
    ]
    lies += [binary(block, length=length) for length in lengths]
    lies += [binary(block + b"\0"), binary(block[:-1]), binary(b""), binary(block, datatype="FP32")]
    lies += [binary(block, shape=[4, 784]), {"content": whole["content"]}]
    text = json.dumps(asked()).encode()
    lies += [{"content": text + b"\0\0", "headers": {LENGTH: str(len(text))}}]
    both = json.dumps(asked(inputs=[tensor(parameters={"binary_data_size": len(block)})])).encode()
    lies += [{"content": both + block, "headers": {LENGTH: str(len(both))}}]
    for lie in lies:
        assert len(refused(inferring.http.post(INFER, **lie))) < 300


def test_bodies_that_are_no_request(inferring: Live) -> None:
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs": [], "inputs": []}', b"null"):
        refused(inferring.http.post(INFER, content=body))
    limit = inferring.settings.max_images
    too_many = [tensor(shape=[limit + 1, 784], data=[0])]
    assert "NUMERAL_MAX_IMAGES" in refused(inferring.http.post(INFER, json=asked(inputs=too_many)), 413)
    for coding, body in (
        ("gzip", b"no"),
        ("deflate", zlib.compress(b"{}")[:-1]),
        ("gzip", gzip.compress(b"{}") * 2),
    ):
        refused(inferring.http.post(INFER, content=body, headers={"Content-Encoding": coding}))
    refused(inferring.http.post(INFER, json=asked(), headers={"Content-Encoding": "br"}), 415)
    bomb = gzip.compress(b" " * (inferring.settings.max_body_bytes + 1))
    refused(inferring.http.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"}), 413)


def test_as_many_images_as_are_allowed(inferring: Live) -> None:
    limit = inferring.settings.max_images
    request = binary(bytes(limit * 784), shape=[limit, 784])
    assert outputs_of(inferred(inferring, **request))["label"]["shape"] == [limit]


# Statistics and the repository


def test_what_was_asked_is_counted(
    tmp_path: Path, settings_for: Callable[..., Settings], data: bytes
) -> None:
    with serving(settings_for(tmp_path)) as live:
        register(live, weights_for(3))
        register(live, data)
        (unasked,) = live.http.get("/v2/models/digits/versions/1/stats").json()["model_stats"]
        assert (unasked["name"], unasked["version"], unasked["inference_count"]) == ("digits", "1", 0)
        for request in (asked(), asked(), asked(inputs=[tensor(shape=[1, 784], data=[0] * 784)])):
            inferred(live, json=request)
        refused(live.http.post(INFER, json=asked(id=7)))
        inferred(live, "/v2/models/digits/versions/1/infer", json=asked())
        first, second = live.http.get("/v2/models/stats").json()["model_stats"]
        assert (first["version"], first["inference_count"], first["execution_count"]) == ("1", 3, 1)
        assert (second["version"], second["inference_count"], second["execution_count"]) == ("2", 7, 3)
        counts = {name: duration["count"] for name, duration in second["inference_stats"].items()}
        parts = {"queue": 3, "compute_input": 3, "compute_infer": 3, "compute_output": 3, "cache_hit": 0}
        assert counts == {"success": 3, "fail": 1} | parts
        spent = {name: duration["ns"] for name, duration in second["inference_stats"].items()}
        assert spent["success"] == sum(spent[f"compute_{part}"] for part in ("input", "infer", "output"))
        batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in second["batch_stats"]}
        assert batches == {1: 1, 3: 2}
        assert second["last_inference"] > 1.7e12
        assert live.http.get("/v2/models/digits/stats").json()["model_stats"] == [first, second]
        (latest,) = live.http.get("/v2/models/latest/stats").json()["model_stats"]
        assert latest == second | {"name": "latest"}


def test_models_come_and_go_from_memory(live: Live, data: bytes) -> None:
    register(live, weights_for(3))
    register(live, data)
    live.http.put("/v1/aliases/old", json={"model": live.http.get("/v1/models").json()["data"][1]["id"]})

    def states(**request: Any) -> dict[tuple[str, str], str]:
        listed = live.http.post("/v2/repository/index", **request).json()
        return {(entry["name"], entry["version"]): entry["state"] for entry in listed}

    assert live.http.post("/v2/repository/models/digits/load").status_code == 200
    assert states() == {
        ("digits", "2"): "READY",
        ("digits", "1"): "READY",
        ("latest", "2"): "READY",
        ("old", "1"): "READY",
    }
    done = live.http.post(
        "/v2/repository/models/old/unload", json={"parameters": {"unload_dependents": True}}
    )
    assert (done.status_code, done.content) == (200, b"")
    assert states()[("old", "1")] == states()[("digits", "1")] == "UNAVAILABLE"
    assert set(states(json={"ready": True})) == {("digits", "2"), ("latest", "2")}
    assert "unloaded" in refused(live.http.get("/v2/models/old/ready"), 503)
    assert "unloaded" in refused(live.http.get("/v2/models/digits/versions/1/ready"), 503)
    inferred(live, "/v2/models/old/infer", json=asked())  # nobody's request fails for it
    assert live.http.get("/v2/models/old/ready").json() == {"name": "old", "ready": True}
    live.http.post("/v2/repository/models/latest/unload")
    assert live.http.get("/v2/health/ready").json() == {"ready": True}
    assert states()[("latest", "2")] == "UNAVAILABLE"  # to be looked at is not to be needed
    live.http.post("/v2/repository/models/old/unload")
    assert live.http.post("/v2/repository/models/old/load", json={}).status_code == 200
    assert states()[("old", "1")] == "READY"
    for path in ("nothing/load", "nothing/unload"):
        refused(live.http.post(f"/v2/repository/models/{path}"), 404)
    refused(live.http.post("/v2/repository/models/old/load", json={"parameters": {"config": "{}"}}))
    refused(live.http.post("/v2/repository/models/old/unload", json={"parameters": {"unload_dependents": 1}}))
    for body in (b"[]", b"{", b'{"ready": 1}', b'{"all": true}'):
        refused(live.http.post("/v2/repository/index", content=body))


def test_a_damaged_model_is_not_ready(live: Live) -> None:
    damaged = register(live, b"no weights at all")
    assert "damaged" in refused(live.http.get(f"/v2/models/{damaged.id}/ready"), 409)
    assert "damaged" in refused(live.http.get("/v2/health/ready"), 409)
    (entry,) = (one for one in live.http.post("/v2/repository/index").json() if one["name"] == "digits")
    assert entry["state"] == "UNAVAILABLE"
    assert "damaged" in entry["reason"]


# The common client


@pytest.fixture
def client(inferring: Live) -> Iterator[Any]:
    import tritonclient.http

    with tritonclient.http.InferenceServerClient(inferring.url.removeprefix("http://")) as client:
        yield client


def test_the_common_client_finds_its_way(inferring: Live, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "numeral"
    assert client.get_model_metadata("digits")["versions"] == ["2", "1"]
    assert client.get_model_metadata("digits", "1")["versions"] == ["1"]
    client.load_model("champion")
    assert client.is_model_ready("champion")
    client.unload_model("champion")
    assert not client.is_model_ready("champion", "2")
    client.load_model("champion")
    names = {entry["name"] for entry in client.get_model_repository_index() if entry["state"] == "READY"}
    assert names >= {"digits", "latest", "champion"}
    assert not client.is_model_ready("nothing")


@pytest.mark.parametrize("out", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("into", [True, False], ids=["binary in", "JSON in"])
def test_the_common_client_infers(client: Any, expected: NDArray[np.float32], into: bool, out: bool) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    before = client.get_inference_statistics("digits", "2")["model_stats"][0]
    for datatype, images in (("UINT8", IMAGES), ("FP32", IMAGES.astype(np.float32).reshape(3, 28, 28))):
        given = InferInput("images", list(images.shape), datatype)
        given.set_data_from_numpy(images, binary_data=into)
        wanted = [InferRequestedOutput(name, binary_data=out) for name in ("probabilities", "label")]
        found = client.infer("digits", [given], outputs=wanted, request_id="r")
        assert found.get_response()["id"] == "r"
        assert found.as_numpy("probabilities") == pytest.approx(expected, abs=1e-6)
        assert found.as_numpy("label").tolist() == expected.argmax(axis=1).tolist()
        assert found.as_numpy("label").dtype == np.int64
        top = [InferRequestedOutput("probabilities", binary_data=out, class_count=3)]
        texts = client.infer("digits", [given], outputs=top, model_version="2").as_numpy("probabilities")
        assert texts.shape == (3, 3)
        firsts = [text.decode() if isinstance(text, bytes) else text for text in texts[:, 0]]
        assert [int(text.split(":")[1]) for text in firsts] == expected.argmax(axis=1).tolist()
        everything = client.infer(
            "digits", [given], request_compression_algorithm="gzip", timeout=1000, priority=1
        )
        assert everything.as_numpy("confidence") == pytest.approx(expected.max(axis=1), abs=1e-6)
    after = client.get_inference_statistics("digits", "2")["model_stats"][0]
    assert after["execution_count"] - before["execution_count"] == 6
    assert after["inference_count"] - before["inference_count"] == 18
    assert client.get_inference_statistics()["model_stats"]


def test_the_common_client_is_told_what_is_wrong(client: Any) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    given = InferInput("pixels", [3, 784], "UINT8")
    given.set_data_from_numpy(IMAGES)
    with pytest.raises(InferenceServerException, match="the only input"):
        client.infer("digits", [given])
    with pytest.raises(InferenceServerException, match="no model id and no alias"):
        client.get_model_metadata("nothing")


def test_what_the_description_shows_is_accepted(inferring: Live) -> None:
    described = create_app(inferring.settings).openapi()
    operations = [
        operation
        for path, methods in described["paths"].items()
        if path.startswith("/v2")
        for operation in methods.values()
    ]
    assert len(operations) > 12
    assert all(operation["tags"] == ["inference protocol"] for operation in operations)
    body = described["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    answer = inferred(inferring, json=body["application/json"]["example"])
    assert [output["name"] for output in answer["outputs"]] == ["label"]
