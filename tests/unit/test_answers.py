import subprocess
import sys

import numpy as np
import pytest

from service import checkpoints
from service.checkpoints import CorruptCheckpoint
from service.serving import answers
from service.serving.answers import Answers

LOGITS = np.log(
    np.array(
        [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.45, 0.45, 0.1], [0.6, 0.3, 0.1], [0.25, 0.5, 0.25]], np.float32
    )
)
TARGETS = np.array([0, 2, 1, 1, 0])
IMAGES = np.arange(5, dtype=np.uint8)[:, np.newaxis].repeat(784, axis=1)


def made() -> Answers:
    return answers.of_logits(LOGITS, TARGETS, IMAGES)


def test_by_hand() -> None:
    found = made()
    assert found.predicted.tolist() == [0, 1, 0, 0, 1], "the first of equals"
    assert found.correct.tolist() == [True, False, False, False, False]
    assert found.accuracy == 0.2
    np.testing.assert_allclose(found.confidence, [0.7, 0.8, 0.45, 0.6, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.loss, -np.log([0.7, 0.1, 0.45, 0.3, 0.25]), rtol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-6)


def test_the_worst_comes_first_and_classes_are_chosen() -> None:
    found = made()
    assert found.misclassified().tolist() == [1, 4, 3, 2]
    assert found.misclassified(true=1).tolist() == [3, 2]
    assert found.misclassified(predicted=1).tolist() == [1, 4]
    assert found.misclassified(true=2, predicted=1).tolist() == [1]
    assert found.misclassified(true=2, predicted=0).tolist() == []


def test_equal_losses_go_by_index() -> None:
    found = answers.of_logits(np.zeros((6, 3), np.float32), np.array([1, 2, 1, 0, 2, 1]), IMAGES[[0] * 6])
    assert found.misclassified().tolist() == [0, 1, 2, 4, 5]


def test_only_so_many_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PIXELS_KEPT", 2)
    found = made()
    assert found.kept.tolist() == [1, 4]
    image = found.pixels_of(4)
    assert image is not None
    assert image.tolist() == [4] * 784
    assert found.pixels_of(3) is None


def test_rounding_makes_no_tie() -> None:
    """Two logits a hair apart whose log-probabilities are the same float32."""
    logits = np.array([[1e-9, 2e-9, 0.0]], np.float32)
    found = answers.of_logits(logits, np.array([1]), IMAGES[:1])
    assert found.log_probabilities[0, 0] == found.log_probabilities[0, 1]
    assert (found.predicted.tolist(), found.accuracy) == ([1], 1.0)


def test_large_logits_do_not_overflow() -> None:
    found = answers.of_logits(np.array([[1000.0, -1000.0]], np.float32), np.array([1]), IMAGES[:1])
    assert found.loss.tolist() == [2000.0]


def test_there_and_back() -> None:
    found = made()
    data = answers.encode(found)
    assert answers.encode(made()) == data
    again = answers.decode(data)
    for name in ("log_probabilities", "predicted", "targets", "kept", "pixels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.misclassified().tolist() == found.misclassified().tolist()


def test_anything_else_is_refused() -> None:
    arrays = {name: getattr(made(), name) for name in answers._TYPES}
    facts = {"format": answers.FORMAT, "kind": answers.KIND}
    for changed, metadata in (
        (arrays, facts | {"kind": "weights"}),
        (arrays, facts | {"format": 2}),
        ({**arrays, "more": arrays["kept"]}, facts),
        ({**arrays, "targets": arrays["targets"].astype(np.int64)}, facts),
        ({**arrays, "targets": arrays["targets"][:2]}, facts),
        ({**arrays, "kept": arrays["kept"][:1]}, facts),
    ):
        with pytest.raises(CorruptCheckpoint):
            answers.decode(checkpoints.encode(changed, metadata))
    with pytest.raises(CorruptCheckpoint):
        answers.decode(b"nothing")


def test_it_needs_no_torch() -> None:
    code = "import sys, service.serving.answers, service.figures.comparison; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
