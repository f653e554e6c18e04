"""Several digits in one picture, and what is told of a picture on request."""

import base64
import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Live, register, weights_for
from tests.renderings import encoded


@pytest.fixture(scope="module")
def reading(shared: Live) -> Live:
    """An API with a model that reads every digit as a 4."""
    register(shared, weights_for(4))
    return shared


def sheet(rows: int = 2, columns: int = 3) -> bytes:
    """Sevens in lines, as a PNG."""
    grey = np.full((rows * 100 + 40, columns * 80 + 40), 240, np.uint8)
    for row in range(rows):
        for column in range(columns):
            x, y = 40 + 80 * column, 40 + 100 * row
            points = np.array([(x, y), (x + 35, y), (x + 12, y + 55)], np.int32)
            cv2.polylines(grey, [points], isClosed=False, color=30, thickness=6)
    return encoded(Image.fromarray(grey))


def test_a_sheet_is_read_line_by_line(reading: Live) -> None:
    answer = reading.http.post("/v1/read", content=sheet())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"model", "version", "text", "digits", "warnings"}
    assert body["text"] == "444\n444"
    assert [digit["line"] for digit in body["digits"]] == [0, 0, 0, 1, 1, 1]
    first = body["digits"][0]
    assert first.keys() == {"label", "confidence", "probabilities", "warnings", "line", "box"}
    assert len(first["probabilities"]) == 10
    for name, expected in {"left": 37, "top": 37, "width": 42, "height": 62}.items():
        assert abs(first["box"][name] - expected) <= 3


def test_every_way_gives_the_same(reading: Live) -> None:
    file = sheet(1, 2)
    expected = reading.http.post("/v1/read", content=file).json()
    text = base64.b64encode(file).decode()
    ways: list[dict[str, Any]] = [
        {"json": {"image": text}},
        {"json": {"image": f"data:image/png;base64,{text}"}},
        {"files": {"file": ("x.png", file)}},
    ]
    for way in ways:
        assert reading.http.post("/v1/models/latest/read", **way).json() == expected


def test_a_blank_sheet_reads_as_nothing(reading: Live) -> None:
    body = reading.http.post("/v1/read", content=encoded(Image.new("L", (200, 100), 230))).json()
    assert (body["text"], body["digits"], body["warnings"]) == ("", [], ["blank"])


@pytest.mark.parametrize(
    ("request_", "status", "code", "pointer"),
    [
        ({"content": b""}, 422, "no_images", None),
        ({"content": b"hello"}, 415, "unsupported_image", "#"),
        ({"json": {}}, 422, "one_image", "#"),
        ({"json": {"image": [0] * 784}}, 422, "bad_base64", "#/image"),
        ({"json": {"image": "??"}}, 422, "bad_base64", "#/image"),
        ({"json": {"image": "", "scale": "unit"}}, 422, "unknown_field", "#/scale"),
        ({"files": [("a", ("x", b"1")), ("b", ("y", b"2"))]}, 422, "one_image", None),
        ({"content": sheet(11, 11)}, 422, "too_many_digits", "#"),
    ],
)
def test_what_is_no_picture_is_refused(
    reading: Live, request_: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    answer = reading.http.post("/v1/read", **request_)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["code"] == code
    assert [error["pointer"] for error in problem.get("errors", [])] == ([pointer] if pointer else [])


def test_a_prediction_shows_what_the_network_saw(reading: Live) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture = Image.open(io.BytesIO(sheet(1, 1))).resize((240, 280))
    turned = encoded(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    plain = reading.http.post("/v1/predict", content=turned).json()["predictions"][0]
    assert plain.keys() == {"label", "confidence", "probabilities", "warnings"}
    (told,) = reading.http.post("/v1/predict?include=image,box,polarity", content=turned).json()[
        "predictions"
    ]
    assert plain.items() <= told.items()
    assert told["polarity"] == "dark_on_light"
    box = told["box"]
    assert box["height"] > box["width"] > 0
    assert box["top"] + box["height"] <= 280
    seen = Image.open(io.BytesIO(base64.b64decode(told["image"].partition(",")[2])))
    assert (seen.size, seen.mode) == ((28, 28), "L")
    again = reading.http.post("/v1/predict?include=image", json={"image": np.asarray(seen).tolist()}).json()
    assert again["predictions"][0]["image"] == told["image"]
    (numbers,) = reading.http.post("/v1/predict?include=box", json={"image": [0] * 784}).json()["predictions"]
    assert numbers["box"] is None


def test_an_unknown_inclusion_is_named(reading: Live) -> None:
    answer = reading.http.post("/v1/predict?include=image,colour", content=sheet())
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "query/include"
    assert error["detail"] == "there is no 'colour': there are image, box, polarity, not_a_digit"
