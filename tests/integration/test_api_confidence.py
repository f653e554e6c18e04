"""What a caller may ask of a prediction's confidence, over HTTP."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.serving.confidence import LEVELS, NOT_A_DIGIT_ABOVE, TABLES, Calibration
from service.store.models import Model
from service.store.reports import Draft
from tests.integration.conftest import Live, register, weights_for

TEMPERATURE = 4.0
# three labels of ten would cover 0.95 of all: weights_for's logits are 10 and nine zeros
CALIBRATION = Calibration(
    TEMPERATURE, "test_folds", 10_000, np.where(LEVELS < 0.95, 1.0, 100.0), np.linspace(-3, 3, len(LEVELS))
)
SURE = np.exp(10 / TEMPERATURE) / (np.exp(10 / TEMPERATURE) + 9)


def stroke() -> NDArray[np.uint8]:
    """A 1."""
    grey = np.zeros((28, 28), np.uint8)
    grey[4:24, 13:16] = 255
    return grey


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)


IMAGES = {"images": [stroke().tolist(), noise().tolist(), np.zeros((28, 28), int).tolist()]}


def registered(live: Live, calibration: dict[str, Any] | None) -> Model:
    return register(live, weights_for(7), Draft({}, None, calibration))


@pytest.fixture(scope="module")
def plain(shared: Live) -> str:
    """The path of a model without calibration, as those from before are."""
    return f"/v1/models/{registered(shared, None).id}"


@pytest.fixture(scope="module")
def calibrated(shared: Live) -> str:
    """The path of a model with one."""
    summary = {"expected_calibration_error": {"before": 0.02, "after": 0.002}}
    return f"/v1/models/{registered(shared, {**CALIBRATION.to_json(), **summary}).id}"


def told(live: Live, path: str, body: dict[str, Any] | None = None, **query: Any) -> list[dict[str, Any]]:
    answer = live.http.post(f"{path}/predict", json=IMAGES | (body or {}), params=query)
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


def test_probabilities_are_calibrated_and_what_is_no_digit_is_warned_of(
    shared: Live, calibrated: str
) -> None:
    found = told(shared, calibrated)
    assert [one["label"] for one in found] == [7, 7, 7]
    assert all(one.keys() == {"label", "confidence", "probabilities", "warnings"} for one in found)
    assert found[0]["confidence"] == pytest.approx(SURE, rel=1e-5)
    assert sum(found[0]["probabilities"]) == pytest.approx(1)
    assert found[0]["warnings"] == []
    # nobody asked whether numbers are digits
    assert [one["warnings"] for one in found] == [[], [], ["blank"]]
    for asked in ({"include": "not_a_digit"}, {"min_confidence": 0}, {"preprocess": "auto"}):
        found = told(shared, calibrated, **asked)
        assert found[0]["warnings"] == []
        assert "not_a_digit" in found[1]["warnings"]
    for grey, is_odd in ((stroke(), False), (noise(), True)):
        picture = shared.http.post(f"{calibrated}/predict", content=_png(grey)).json()["predictions"][0]
        assert ("not_a_digit" in picture["warnings"]) == is_odd


def test_a_model_from_before_is_as_it_was(shared: Live, plain: str) -> None:
    found = told(shared, plain, include="not_a_digit")
    assert found[0]["confidence"] == pytest.approx(1 / (1 + 9 * np.exp(-10)), rel=1e-5)
    assert [one["warnings"] for one in found] == [[], [], ["blank"]]
    assert [one["not_a_digit"] for one in found] == [None, None, None]
    refused = shared.http.post(f"{plain}/predict", json=IMAGES, params={"coverage": 0.9})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_calibrated")
    assert "leave coverage out" in refused.json()["detail"]


def test_it_abstains(shared: Live, calibrated: str, plain: str) -> None:
    found = told(shared, calibrated, min_confidence=0)
    assert [one["label"] for one in found] == [7, None, None]
    assert [one["abstained"] for one in found] == [False, True, True]
    assert [one["reason"] for one in found] == [None, "not_a_digit", "blank"]
    assert all(len(one["probabilities"]) == 10 and one["confidence"] > 0 for one in found)
    doubtful, *_ = told(shared, calibrated, min_confidence=0.9)
    assert (doubtful["label"], doubtful["abstained"], doubtful["reason"]) == (None, True, "low_confidence")
    sure, *_ = told(shared, plain, min_confidence=0.9)
    assert (sure["label"], sure["abstained"], sure["reason"]) == (7, False, None)


def test_a_set_at_the_coverage_that_is_named(shared: Live, calibrated: str) -> None:
    assert [one["set"] for one in told(shared, calibrated, coverage=0.9)] == [[7]] * 3
    whole = told(shared, calibrated, coverage=0.999)[0]["set"]
    assert whole[0] == 7
    assert sorted(whole) == list(range(10))


def test_the_score_on_request(shared: Live, calibrated: str) -> None:
    digit, other, _ = (one["not_a_digit"] for one in told(shared, calibrated, include="not_a_digit"))
    assert 0 <= digit < NOT_A_DIGIT_ABOVE
    assert other == 1.0


def test_the_body_goes_before_the_query(shared: Live, calibrated: str) -> None:
    found = told(
        shared, calibrated, {"min_confidence": 0.9, "coverage": 0.9}, min_confidence=0, coverage=0.999
    )
    assert found[0]["reason"] == "low_confidence"
    assert found[0]["set"] == [7]
    form = shared.http.post(
        f"{calibrated}/predict",
        files={"f": ("x.png", _png(stroke())), "min_confidence": (None, "0.9"), "coverage": (None, "0.9")},
    ).json()["predictions"][0]
    assert (form["label"], form["set"]) == (None, [7])


def _png(grey: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("min_confidence", 1.5, "from 0 to 1"),
        ("min_confidence", -0.1, "from 0 to 1"),
        ("coverage", 0.4, "from 0.5 to 0.999"),
        ("coverage", 1, "from 0.5 to 0.999"),
        ("coverage", "nan", "from 0.5 to 0.999"),
        ("coverage", True, "from 0.5 to 0.999"),
        ("coverage", [0.9], "from 0.5 to 0.999"),
    ],
)
def test_what_is_out_of_range_is_pointed_at(
    shared: Live, calibrated: str, name: str, value: Any, said: str
) -> None:
    body = shared.http.post(f"{calibrated}/predict", json=IMAGES | {name: value})
    assert (body.status_code, body.json()["code"]) == (422, "invalid_parameter")
    (error,) = body.json()["errors"]
    assert error["pointer"] == f"#/{name}"
    assert said in error["detail"]
    if isinstance(value, bool | list):
        return
    query = shared.http.post(f"{calibrated}/predict", json=IMAGES, params={name: value})
    assert (query.status_code, query.json()["errors"][0]["pointer"]) == (422, f"query/{name}")
    assert said in query.json()["errors"][0]["detail"]


def test_what_is_no_number_or_no_extra(shared: Live, calibrated: str) -> None:
    for query in ({"coverage": "much"}, {"include": "everything"}, {"min_confidences": "1"}):
        refused = shared.http.post(f"{calibrated}/predict", json=IMAGES, params=query)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == f"query/{next(iter(query))}"


def test_a_model_shows_its_calibration_without_the_tables(shared: Live, calibrated: str, plain: str) -> None:
    shown = shared.http.get(calibrated).json()["calibration"]
    assert (shown["temperature"], shown["source"], shown["examples"]) == (TEMPERATURE, "test_folds", 10_000)
    assert shown["expected_calibration_error"] == {"before": 0.02, "after": 0.002}
    assert not set(TABLES) & shown.keys()
    assert shared.http.get(plain).json()["calibration"] is None
