"""Why a model reads an image as it does, over HTTP."""

import json
from pathlib import Path

import numpy as np
import pytest

from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from tests.integration.conftest import LINEAR, Live, register

SEVEN = Path(__file__).parent.parent.parent / "docs" / "images" / "seven.png"


def bright_corner() -> bytes:
    """Weights by which the first pixel alone says 4."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"] += 1
    arrays["layers.0.weight"][4, 0] = 2
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)


def test_the_pixel_that_decides_is_named(live: Live) -> None:
    model = register(live, bright_corner())
    body = {"images": [[255] + [0] * 783]}
    found = live.http.post("/v1/models/latest/explain", json=body).json()
    assert (found["model"], found["label"], found["layers"]) == (model.id, 4, [])
    share = found["probabilities"][4]
    assert share == pytest.approx(np.exp(2) / (np.exp(2) + 9), rel=1e-4)
    assert found["saliency"][0] == pytest.approx(2 * (1 - share), rel=1e-3)
    assert not any(found["saliency"][1:])
    assert found["pixels"] == body["images"][0]
    against = live.http.post("/v1/models/latest/explain?label=7", json=body).json()
    assert against["label"] == 7
    assert against["saliency"][0] == pytest.approx(-2 * share, rel=1e-3)


def test_a_picture_is_read_as_for_a_prediction(live: Live) -> None:
    live.model(3)
    picture = SEVEN.read_bytes()
    headers = {"Content-Type": "image/png"}
    found = live.http.post("/v1/models/latest/explain", content=picture, headers=headers).json()
    assert (found["label"], found["warnings"]) == (3, [])
    assert max(found["pixels"]) > 200
    assert len(found["saliency"]) == 784
    again = live.http.post("/v1/models/latest/explain", json={"images": [found["pixels"]]}).json()
    assert again["pixels"] == found["pixels"]


def test_what_cannot_be_explained_is_refused(live: Live) -> None:
    assert (
        live.http.post("/v1/models/latest/explain", json={"images": [[0] * 784]}).json()["code"] == "no_model"
    )
    live.model(3)
    two = live.http.post(
        "/v1/models/latest/explain",
        content=json.dumps({"images": [[0] * 784] * 2}),
        headers={"Content-Type": "application/json"},
    )
    assert (two.status_code, two.json()["code"]) == (422, "one_image_only")
    one = {"images": [[0] * 784]}
    assert live.http.post("/v1/models/latest/explain?label=10", json=one).status_code == 422
    assert live.http.post("/v1/models/nobody/explain", json=one).status_code == 404
