"""Temperatures, sets and scores by their definitions; and that labels stay as they are."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.checkpoints import CorruptCheckpoint, encode
from service.serving import answers, calibration, confidence
from service.serving.calibration import Examples
from service.serving.confidence import LEVELS, MIN_EXAMPLES, NOT_A_DIGIT_ABOVE, Calibration, Detector

RANDOM = np.random.default_rng(0)


def sampled(count: int, temperature: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits that are too sure by this temperature, and labels drawn from what they are when divided by it."""
    honest = RANDOM.normal(0, 2, (count, 10))
    shares = np.exp(answers.log_softmax(honest.astype(np.float32)))
    labels = (shares.cumsum(axis=1) > RANDOM.random((count, 1))).argmax(axis=1)
    return (honest * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = sampled(20_000, temperature)
    found = confidence.fitted_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.03)

    def loss(at: float) -> float:
        return float(-answers.log_softmax(logits / np.float32(at))[np.arange(len(labels)), labels].mean())

    assert loss(found) <= min(loss(found * 0.99), loss(found * 1.01))


def test_a_temperature_stays_within_bounds() -> None:
    """Of logits that are always right it would be 0, of those that are always wrong infinite."""
    logits = np.eye(10, dtype=np.float32)[np.arange(2000) % 10]
    assert 0.01 <= confidence.fitted_temperature(logits, np.arange(2000) % 10) < 0.1
    assert confidence.fitted_temperature(logits, (np.arange(2000) + 1) % 10) == pytest.approx(100, rel=0.01)


def test_sets_cover_what_was_asked_for() -> None:
    logits, labels = sampled(20_000, 3.0)
    made = Calibration.fit(logits[::2], labels[::2], None, source="validation")
    unseen, truth = logits[1::2], labels[1::2]
    found = confidence.predicted(unseen, np.empty(0), made)
    sizes = []
    for coverage in (0.5, 0.9, 0.955, 0.99, 0.999):
        sets = made.sets(found.log_probabilities, coverage)
        assert sets[np.arange(len(truth)), truth].mean() == pytest.approx(coverage, abs=0.01)
        sizes.append(sets.sum(axis=1).mean())
    assert sizes == sorted(sizes)


def test_sets_tell_apart_what_single_precision_does_not() -> None:
    """Every probability rounds to 1, and half of them are still surer than the others."""
    logits = np.zeros((4000, 10), np.float32)
    logits[:, 3] = np.linspace(20, 30, 4000)
    log_probabilities = answers.log_softmax(logits)
    assert (np.exp(log_probabilities).astype(np.float32).max(axis=1) == 1).all()
    scores = np.quantile(-log_probabilities[:, 3], LEVELS)
    half = Calibration(1.0, "validation", 4000, scores, None).sets(log_probabilities, 0.5)
    assert half.any(axis=1).mean() == pytest.approx(0.5, abs=0.01)


def test_no_label_changes_and_a_model_without_calibration_is_as_it_was() -> None:
    logits, _ = sampled(500, 2.0)
    plain = confidence.predicted(logits, np.empty(0), None)
    assert plain.labels == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose(plain.probabilities, np.exp(answers.log_softmax(logits)), rtol=1e-5)
    assert plain.not_a_digit is None
    assert not plain.flagged.any()
    cool = Calibration(20.0, "validation", 1000, np.linspace(0, 5, len(LEVELS)), None)
    softer = confidence.predicted(logits, np.empty(0), cool)
    assert softer.labels == plain.labels
    picked = softer.probabilities[np.arange(500), softer.labels]
    assert (picked == softer.probabilities.max(axis=1)).all()
    assert (picked <= plain.probabilities.max(axis=1)).all()


def test_a_calibration_comes_back_from_json() -> None:
    logits, labels = sampled(1000, 2.0)
    margins = RANDOM.normal(0, 1, 1000).astype(np.float32)
    made = Calibration.fit(logits, labels, margins, source="test_folds")
    text = json.dumps(made.to_json(), allow_nan=False)
    assert len(text) < 8000
    back = Calibration.of_json(json.loads(text))
    assert back is not None
    assert (back.temperature, back.source, back.examples) == (made.temperature, "test_folds", 1000)
    np.testing.assert_allclose(back.set_scores, made.set_scores, rtol=1e-6)
    assert back.to_json() == made.to_json()
    assert Calibration.of_json(None) is None
    assert Calibration.of_json({"format": 99}) is None, "of a newer version"


def test_the_score_is_a_share_of_digits() -> None:
    logits, labels = sampled(4000, 1.0)
    margins = np.sort(RANDOM.normal(0, 1, 4000)).astype(np.float32)
    made = Calibration.fit(logits, labels, margins, source="validation")
    scores = made.scores(margins)
    assert np.abs(scores - np.linspace(0, 1, 4000)).max() < 0.06
    assert (scores > NOT_A_DIGIT_ABOVE).mean() == pytest.approx(1 - NOT_A_DIGIT_ABOVE, abs=0.0006)
    assert made.scores(np.array([-99.0, 99.0], np.float32)).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="digits"):
        Calibration.fit(logits, labels, None, source="validation").scores(margins)


def test_the_detector_tells_noise_and_ink_from_strokes() -> None:
    noise = RANDOM.integers(0, 256, (50, 784), dtype=np.uint8)
    one = np.zeros((1, 28, 28), np.uint8)
    one[0, 4:24, 13:16] = 255
    margins = confidence.detector().margins(np.concatenate([one.reshape(1, 784), noise]))
    assert margins.shape == (51,)
    assert margins.dtype == np.float32
    assert margins[0] < 0 < margins[1:].min()
    floats = confidence.detector().margins(one.reshape(1, 784).astype(np.float32))
    np.testing.assert_allclose(floats, margins[:1], rtol=1e-5)


def test_what_is_no_detector() -> None:
    with pytest.raises(CorruptCheckpoint, match="no detector"):
        Detector(encode({}, {"format": 1, "kind": "answers"}))


def examples(count: int, *, digits: bool = False, temperature: float = 3.0) -> Examples:
    images = RANDOM.integers(0, 256, (count, 784), dtype=np.uint8) if digits else None
    return Examples(*sampled(count, temperature), images)


def test_the_validation_split_is_fitted_on_where_there_is_one() -> None:
    test, validation = examples(4000), examples(3000, temperature=2.0)
    fitted = calibration.fit(test, validation)
    assert fitted is not None
    assert (fitted.calibration.source, fitted.calibration.examples) == ("validation", 3000)
    assert fitted.calibration.temperature == pytest.approx(2, rel=0.1)
    assert fitted.figures["digits_kept"] is None


def test_each_half_of_the_test_set_is_judged_by_the_other() -> None:
    test = examples(6000, digits=True)
    fitted = calibration.fit(test, examples(MIN_EXAMPLES - 1))  # too few to fit on
    assert fitted is not None
    assert (fitted.calibration.source, fitted.calibration.examples) == ("test_folds", 6000)
    one, other = (confidence.fitted_temperature(test.logits[k::2], test.targets[k::2]) for k in (0, 1))
    np.testing.assert_allclose(
        fitted.log_probabilities[::2], answers.log_softmax(test.logits[::2] / np.float32(other))
    )
    np.testing.assert_allclose(
        fitted.log_probabilities[1::2], answers.log_softmax(test.logits[1::2] / np.float32(one))
    )
    for row in fitted.figures["coverage"]:
        assert row["covered"] == pytest.approx(row["coverage"], abs=0.012)
    assert fitted.figures["digits_kept"] == pytest.approx(NOT_A_DIGIT_ABOVE, abs=0.004)
    assert json.loads(json.dumps(fitted.figures, allow_nan=False)) == fitted.figures


@pytest.mark.parametrize("count", [10, 2 * MIN_EXAMPLES - 1])
def test_too_few_examples_tell_nothing(count: int) -> None:
    assert calibration.fit(examples(count), None) is None


def test_what_is_told_once_it_is_calibrated() -> None:
    test = examples(2000)
    images: NDArray[Any] = np.zeros((2000, 784), np.uint8)
    before = answers.of_logits(test.logits, test.targets, images)
    fitted = calibration.fit(test, None)
    assert fitted is not None
    after = fitted.told(before)
    assert after.accuracy == before.accuracy
    assert after.confidence.mean() < before.confidence.mean()
    assert after.loss.mean() < before.loss.mean()
