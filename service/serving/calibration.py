"""What a finished network's confidence is worth: fitted on examples that it has not learned from, and judged by
examples that it was not fitted on.

Those are of the validation split where there is one. Else they are of the test set in two halves, every other example:
each half is judged by what was fitted on the other, and what is stored is fitted on both. The network's labels stay as
they are, so that no accuracy depends on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.serving import answers, confidence
from service.serving.answers import Answers
from service.serving.confidence import MIN_EXAMPLES, NOT_A_DIGIT_ABOVE, Calibration, Doubles, Source
from service.serving.inference import Floats

SHOWN_COVERAGES = (0.9, 0.95, 0.99, 0.999)
DIGITS = ("mnist", "emnist-digits")  # datasets of which a picture can be no digit

Judge = tuple[Calibration, slice]


@dataclass(frozen=True, eq=False)
class Examples:
    """Held-out examples: logits (n, classes), labels (n,), and images (n, 784) from 0 to 255 if they are of digits."""

    logits: Floats
    targets: NDArray[np.int64]
    images: NDArray[np.uint8] | None

    @cached_property
    def margins(self) -> Floats | None:
        """(n,) the detector's."""
        return None if self.images is None else confidence.detector().margins(self.images)

    def fitted(self, source: Source, chosen: slice = slice(None)) -> Calibration:
        margins = None if self.margins is None else self.margins[chosen]
        return Calibration.fit(self.logits[chosen], self.targets[chosen], margins, source=source)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A calibration, and what it is worth on the test set."""

    calibration: Calibration
    log_probabilities: Doubles  # (n, classes) of the test examples
    figures: dict[str, Any]  # JSON

    def told(self, before: Answers) -> Answers:
        """What the network says of the test examples once it is calibrated."""
        return replace(before, log_probabilities=self.log_probabilities.astype(np.float32))


def fit(test: Examples, validation: Examples | None) -> Fitted | None:
    """None where there are too few examples to fit on."""
    if validation is not None and len(validation.targets) >= MIN_EXAMPLES:
        calibration = validation.fitted("validation")
        judges: list[Judge] = [(calibration, slice(None))]
    elif len(test.targets) >= 2 * MIN_EXAMPLES:
        calibration = test.fitted("test_folds")
        halves = slice(0, None, 2), slice(1, None, 2)
        judges = [
            (test.fitted("test_folds", other), half) for half, other in zip(halves, halves[::-1], strict=True)
        ]
    else:
        return None
    log_probabilities = np.empty(test.logits.shape)
    for judge, half in judges:
        log_probabilities[half] = answers.log_softmax(test.logits[half] / np.float32(judge.temperature))
    figures = {
        "temperature": calibration.temperature,
        "source": calibration.source,
        "examples": calibration.examples,
        "coverage": list(_coverage(test, judges, log_probabilities)),
        "digits_kept": _kept(test, judges),
    }
    return Fitted(calibration, log_probabilities, figures)


def _coverage(test: Examples, judges: list[Judge], log_probabilities: Doubles) -> Iterator[dict[str, float]]:
    """What share of the sets held the true label, and how large they were."""
    for wanted in SHOWN_COVERAGES:
        sets = np.empty(test.logits.shape, np.bool_)
        for judge, half in judges:
            sets[half] = judge.sets(log_probabilities[half], wanted)
        sizes = sets.sum(axis=1)
        yield {
            "coverage": wanted,
            "covered": float(sets[np.arange(len(sets)), test.targets].mean()),
            "mean_size": float(sizes.mean()),
            "empty": float((sizes == 0).mean()),
        }


def _kept(test: Examples, judges: list[Judge]) -> float | None:
    """The share of the test set's digits that are taken for digits."""
    if test.margins is None:
        return None
    scores = np.empty(len(test.targets))
    for judge, half in judges:
        scores[half] = judge.scores(test.margins[half])
    return float((scores <= NOT_A_DIGIT_ABOVE).mean())
