"""Every way in which images may come, and that all give the same answer."""

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from service.serving.inference import NumpyNetwork
from tests.integration.conftest import LINEAR, Live, register

RANDOM = np.random.default_rng(0)


def weights() -> bytes:
    arrays = {name: RANDOM.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"][:] = 1
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)


def digit(seed: int) -> NDArray[np.uint8]:
    """A picture of 28 x 28 with a dark border, which is taken as it is."""
    grey = np.zeros((28, 28), np.uint8)
    grey[4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (20, 20))
    return grey


def encoded(grey: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def data() -> bytes:
    return weights()


@pytest.fixture(scope="module")
def reading(shared: Live, data: bytes) -> Live:
    """An API with a model."""
    register(shared, data)
    return shared


def answered(reading: Live, path: str = "/v1/predict", **request: Any) -> list[dict[str, Any]]:
    answer = reading.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"model", "version", "predictions"}
    assert body["model"] == reading.http.get("/v1/models/latest").json()["id"]
    predictions: list[dict[str, Any]] = body["predictions"]
    return predictions


def test_an_answer_is_what_the_network_says(reading: Live, data: bytes) -> None:
    images = np.stack([digit(seed).reshape(784) for seed in range(5)])
    expected = NumpyNetwork.from_checkpoint(data).probabilities(images)
    found = answered(reading, json={"images": images.tolist()})
    for one, row in zip(found, expected, strict=True):
        assert one.keys() == {"label", "confidence", "probabilities", "warnings"}
        assert one["probabilities"] == pytest.approx(row.tolist(), abs=1e-6)
        assert sum(one["probabilities"]) == pytest.approx(1)
        assert one["label"] == int(row.argmax())
        assert one["confidence"] == max(one["probabilities"])


def test_every_way_gives_the_same(reading: Live) -> None:
    grey = digit(1)
    file = encoded(grey)
    text = base64.b64encode(file).decode()
    rows, flat = grey.tolist(), grey.reshape(784).tolist()
    (expected,) = answered(reading, json={"images": [flat]})
    ways: list[dict[str, Any]] = [
        {"json": {"image": flat}},
        {"json": {"image": rows}},
        {"json": {"images": [[value / 255 for value in flat]], "scale": "unit"}},
        {"json": {"image": text}},
        {"json": {"image": f"data:image/png;base64,{text}"}},
        {"json": {"image": "\n".join(text[at : at + 76] for at in range(0, len(text), 76))}},
        {"content": file},
        {"content": file, "headers": {"Content-Type": "application/json"}},
        {"content": file, "headers": {"Content-Type": "text/plain"}},
        {"content": encoded(grey, "WEBP", lossless=True)},
        {"content": b' {"image": "%s"}' % text.encode(), "headers": {"Content-Type": "text/plain"}},
        {"files": {"anything": ("seven", file, "text/plain")}},
    ]
    for way in ways:
        (found,) = answered(reading, **way)
        assert found["label"] == expected["label"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    (jpeg,) = answered(reading, content=encoded(grey, "JPEG", quality=95))
    assert len(jpeg["probabilities"]) == 10


def test_many_at_once_come_back_in_their_order(reading: Live) -> None:
    greys = [digit(seed) for seed in range(6)]
    one_by_one = [answered(reading, content=encoded(grey))[0] for grey in greys]
    form = answered(reading, files=[(f"f{n % 2}", ("x.png", encoded(grey))) for n, grey in enumerate(greys)])
    mixed: list[Any] = [
        base64.b64encode(encoded(grey)).decode() if n % 2 else grey.tolist() for n, grey in enumerate(greys)
    ]
    for found in (form, answered(reading, json={"images": mixed})):
        for one, expected in zip(found, one_by_one, strict=True):
            assert one["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_preprocessing_is_chosen_by_query_field_or_body(reading: Live) -> None:
    grey = 255 - digit(2)  # black ink on white
    file = encoded(grey)
    (dark,) = answered(reading, content=encoded(digit(2)))
    (auto,) = answered(reading, content=file)
    (plain,) = answered(reading, json={"image": grey.tolist()})
    assert auto["probabilities"] == pytest.approx(dark["probabilities"], abs=1e-5)
    assert plain["probabilities"] != pytest.approx(auto["probabilities"], abs=1e-3)
    for same in (
        answered(reading, "/v1/predict?preprocess=none", content=file),
        answered(reading, files={"f": ("x", file), "preprocess": (None, "none")}),
        answered(reading, "/v1/predict?preprocess=auto", json={"image": grey.tolist(), "preprocess": "none"}),
        answered(reading, json={"image": base64.b64encode(file).decode(), "preprocess": "none"}),
    ):
        assert same[0]["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)
    (numbers,) = answered(reading, json={"image": grey.tolist(), "preprocess": "auto"})
    assert numbers["probabilities"] == pytest.approx(auto["probabilities"], abs=1e-5)
    refused = reading.http.post("/v1/predict?preprocess=x", content=file)
    assert refused.json()["errors"][0]["pointer"] == "query/preprocess"


def test_what_is_odd_about_an_image_is_said(reading: Live) -> None:
    blank = encoded(np.zeros((28, 28), np.uint8))
    found = answered(reading, files=[("f", ("x", blank)), ("f", ("y", encoded(digit(1))))])
    assert [one["warnings"] for one in found] == [["blank"], []]


def test_numbers_from_0_to_1_sent_as_bytes_are_said_to_be_blank(reading: Live) -> None:
    unit = (digit(1).reshape(-1) / 255).tolist()
    answer = reading.http.post("/v1/predict", json={"images": [unit, digit(1).tolist()]}).json()
    assert [found["warnings"] for found in answer["predictions"]] == [["blank"], []]
    scaled = reading.http.post("/v1/predict", json={"image": unit, "scale": "unit"}).json()
    assert scaled["predictions"][0]["warnings"] == []


def test_as_many_images_as_are_allowed(reading: Live) -> None:
    limit = reading.settings.max_images
    assert len(answered(reading, json={"images": [[0] * 784] * limit})) == limit


PROGRAM = """
import asyncio, sys
from service.api.app import create_app
from service.settings import Settings
import httpx

async def main():
    app = create_app(Settings(home=sys.argv[1], broker_url=sys.argv[2]))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/v1/predict", json={"images": [[0] * 784]})
            assert answer.status_code == 200, answer.text
            assert (await client.get("/openapi.json")).status_code == 200

asyncio.run(main())
heavy = {"torch", "torchvision", "worker"} & set(sys.modules)
assert not heavy, heavy
"""


def test_predictions_are_served_without_torch(reading: Live) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(reading.settings.home), "redis://127.0.0.1:1/0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
