"""Knowing when not to answer: probabilities that mean what they say, sets of labels at a coverage that the caller names,
and whether a picture shows a digit at all.

No torch, so that the API and any process that serves can use it. What is fitted is fitted once, when a job ends,
and is JSON that lies with its model.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from service import checkpoints
from service.checkpoints import CorruptCheckpoint
from service.data.first import SIDE
from service.serving import answers
from service.serving.inference import Floats, softmax_and_largest

FORMAT = 1  # of a calibration's JSON
MIN_EXAMPLES = 1000  # fewer tell nothing of the thousandth that a coverage of 0.999 leaves out
MIN_COVERAGE, MAX_COVERAGE = 0.5, 0.999
NOT_A_DIGIT_ABOVE = 0.9915  # score; a little over 99 % of digits stay even by an unlucky draw of them
DETECTOR = Path(__file__).parent / "not_a_digit.safetensors"
LEVELS = np.concatenate(
    [
        np.arange(0, 50, 10) / 100,
        np.arange(50, 90) / 100,
        np.arange(900, 990) / 1000,
        np.arange(9900, 9991) / 10_000,
    ]
)
TABLES = ("set_scores", "digit_margins")  # of a calibration's JSON; the rest is for people
MAX_INVERSE = 100.0  # of a temperature, either way
NEWTON_STEPS = 50
_ZERO = np.float32(0)

Source = Literal["validation", "test_folds"]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Predicted:
    """What is said of n pictures; what few ask for is taken when it is asked for."""

    def __init__(self, logits: Floats, pixels: NDArray[Any], calibration: "Calibration | None") -> None:
        self._calibration, self._pixels, self._logits = calibration, pixels, logits
        self._temperature = 1.0 if calibration is None else calibration.temperature
        self.labels: list[int]
        self.probabilities: Floats
        """(n, classes), calibrated where the model is"""
        self.confidences: Floats
        """(n,) of the likeliest classes"""
        if len(logits) == 1:
            label, shares = _of_one(logits[0].tolist(), self._temperature)
            self.labels, self.probabilities = [label], np.array([shares], np.float32)
            self.confidences = self.probabilities[0, label : label + 1]
        else:
            self.labels = logits.argmax(axis=1).tolist()
            self.probabilities, self.confidences = softmax_and_largest(self._softened)

    @property
    def _softened(self) -> Floats:
        return self._logits / np.float32(self._temperature)

    @functools.cached_property
    def log_probabilities(self) -> Doubles:
        """(n, classes); it still tells apart what rounds to a probability of one."""
        return answers.log_softmax(self._softened)

    @functools.cached_property
    def _margins(self) -> Floats | None:
        """(n,) the detector's; None where the model cannot tell."""
        if self._calibration is None or self._calibration.digit_margins is None:
            return None
        return detector().margins(self._pixels)

    @property
    def flagged(self) -> Flags:
        """(n,) whether too large a share of digits look more like one."""
        if self._margins is None or self._calibration is None:
            return np.zeros(len(self.labels), np.bool_)
        return self._margins > self._calibration.largest_margin

    @property
    def not_a_digit(self) -> Doubles | None:
        """(n,) the share of digits that look more like one, from 0 to 1; None where the model cannot tell."""
        if self._margins is None or self._calibration is None:
            return None
        return self._calibration.scores(self._margins)


def _of_one(logits: list[float], temperature: float) -> tuple[int, list[float]]:
    """Label and probabilities of one picture: ten numbers are done with before arrays of them are made."""
    top = max(logits)
    shares = [math.exp((value - top) / temperature) for value in logits]
    total = sum(shares)
    return logits.index(top), [share / total for share in shares]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is known of a network's logits by examples that it has not learned from.

    `set_scores` and `digit_margins` are quantiles at `LEVELS`: of -log p(true class), and of the detector's margin on
    digits; the latter is null of a model that reads other things."""

    temperature: float
    source: Source
    examples: int
    set_scores: Doubles
    digit_margins: Doubles | None

    @classmethod
    def fit(cls, logits: Floats, targets: NDArray[Any], margins: Floats | None, *, source: Source) -> Self:
        """Of n >= MIN_EXAMPLES held-out examples: logits (n, classes), labels (n,), and the detector's margins (n,)
        where they are digits."""
        temperature = fitted_temperature(logits, targets)
        scores = -answers.log_softmax(logits / np.float32(temperature))[np.arange(len(targets)), targets]
        return cls(
            temperature,
            source,
            len(targets),
            _quantiles(scores),
            None if margins is None else _quantiles(margins.astype(np.float64)),
        )

    @classmethod
    def of_json(cls, data: Mapping[str, Any] | None) -> "Calibration | None":
        """That of `to_json`; None if there is none, or it is of a format that is not known here."""
        if data is None or data.get("format") != FORMAT:
            return None
        margins = data["digit_margins"]
        return cls(
            data["temperature"],
            data["source"],
            data["examples"],
            np.array(data["set_scores"]),
            None if margins is None else np.array(margins),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "temperature": self.temperature,
            "source": self.source,
            "examples": self.examples,
            "not_a_digit_above": None if self.digit_margins is None else NOT_A_DIGIT_ABOVE,
            "set_scores": _rounded(self.set_scores),
            "digit_margins": None if self.digit_margins is None else _rounded(self.digit_margins),
        }

    def scores(self, margins: Floats) -> Doubles:
        """(n,) the share of the held-out digits whose margin is lower, of the detector's margins (n,). Raises
        ValueError if the model reads no digits."""
        if self.digit_margins is None:
            raise ValueError("this calibration is not of digits")
        beyond = margins > self.digit_margins[-1]
        return np.where(beyond, 1.0, np.interp(margins, self.digit_margins, LEVELS))

    @functools.cached_property
    def largest_margin(self) -> float:
        """Of what still passes for a digit: where `scores` comes to `NOT_A_DIGIT_ABOVE`."""
        assert self.digit_margins is not None
        return float(np.interp(NOT_A_DIGIT_ABOVE, LEVELS, self.digit_margins))

    def sets(self, log_probabilities: Doubles, coverage: float) -> Flags:
        """(n, classes) which labels belong to the set that holds the true one in `coverage` of all cases (split
        conformal, with the score -log p: Vovk et al. 2005; LAC of Sadinle, Lei and Wasserman 2019). The smallest on
        average; empty where even the likeliest label is less likely than that share of cases needs."""
        found: Flags = -log_probabilities <= np.interp(coverage, LEVELS, self.set_scores)
        return found


def predicted(logits: Floats, pixels: NDArray[Any], calibration: Calibration | None) -> Predicted:
    """What a network's logits (n, classes) say of pictures, pixels (n, 784) from 0 to 255."""
    return Predicted(logits, pixels, calibration)


def fitted_temperature(logits: Floats, targets: NDArray[Any]) -> float:
    """T that minimises the mean of -log softmax(logits / T)[target] (Guo et al. 2017, section 4.2), from 1/100 to
    100. The loss is convex in 1/T: Newton's method, within what brackets the minimum."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    wanted = values[np.arange(len(targets)), targets]
    low, high, inverse = 1 / MAX_INVERSE, MAX_INVERSE, 1.0
    for _ in range(NEWTON_STEPS):
        slope, curvature = _derivatives(values, wanted, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low - 1
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return float(f"{1 / inverse:.6g}")


def _derivatives(values: Doubles, wanted: Doubles, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean loss by 1/T: mean of E[z] - z_target, and of Var[z]."""
    shares = np.exp(inverse * values)
    shares /= shares.sum(axis=1, keepdims=True)
    means = (shares * values).sum(axis=1)
    variances = (shares * values**2).sum(axis=1) - means**2
    return float((means - wanted).mean()), float(variances.mean())


def _quantiles(scores: Doubles) -> Doubles:
    """At `LEVELS`: the ceil((n + 1) level)-th smallest of n, which the next score is not over with that chance."""
    n = len(scores)
    ranks = np.clip(np.ceil((n + 1) * LEVELS - 1e-9), 1, n).astype(int)
    found: Doubles = np.sort(scores)[ranks - 1]
    return found


def _rounded(values: Doubles) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


class Detector:
    """A small network of eleven classes, the ten digits and all else, that looks at means of 2 x 2 pixels, so that its
    weights do not drive those of the model out of a processor's cache. `bench.detector` makes its file."""

    def __init__(self, data: bytes) -> None:
        """Raises CorruptCheckpoint."""
        arrays, metadata = checkpoints.decode(data)
        if (metadata.get("format"), metadata.get("kind")) != (2, "not_a_digit"):
            raise CorruptCheckpoint(f"this is no detector of format 2: {metadata}")
        self._layers = [
            (
                np.ascontiguousarray(arrays[f"layers.{index}.weight"], np.float32),
                arrays[f"layers.{index}.bias"],
            )
            for index in range(len(arrays) // 2)
        ]
        self._layers[0][0][...] /= 255

    def margins(self, pixels: NDArray[Any]) -> Floats:
        """Log-odds of none of the ten digits, (n,) of pixels (n, 784) from 0 to 255."""
        tall = np.asarray(pixels, np.float32).reshape(-1, SIDE)  # one picture above the other
        halved = cv2.resize(tall, (SIDE // 2, len(tall) // 2), interpolation=cv2.INTER_AREA)
        values = np.asarray(halved, np.float32).reshape(len(pixels), -1)
        if len(values) == 1:
            *digits, other = self._logits(values[0]).tolist()
            return np.array([other - _log_sum_exp(digits)], np.float32)
        logits = self._logits(values)
        odds: Floats = logits[:, 10] - np.logaddexp.reduce(logits[:, :10], axis=1)
        return odds

    def _logits(self, values: Floats) -> Floats:
        """Of rows, or of one that is no matrix, for which less is looked at on the way to the product."""
        *hidden, (last, last_bias) = self._layers
        for weight, bias in hidden:
            values = weight.dot(values) if values.ndim == 1 else values @ weight.T
            values += bias
            np.maximum(values, _ZERO, out=values)
        logits: Floats = last.dot(values) if values.ndim == 1 else values @ last.T
        logits += last_bias
        return logits


def _log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


@functools.cache
def detector() -> Detector:
    """The one that the package brings."""
    return Detector(DETECTOR.read_bytes())
