"""What a caller may ask of a prediction's confidence: to abstain, a set of labels, a not-a-digit score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query

from service.errors import Conflict, FieldError, Invalid
from service.serving.classifier import Loaded
from service.serving.confidence import MAX_COVERAGE, MIN_COVERAGE, Predicted

Reason = Literal["blank", "not_a_digit", "low_confidence"]

_ABSTAIN = (
    "Abstain (`label` null) where the likeliest class is less probable than this, or where the image is blank or no "
    "digit; 0: only then."
)
_COVER = f"With `set`: the labels that hold the true one in this share of all cases, {MIN_COVERAGE} to {MAX_COVERAGE}."
LIMITS = {"min_confidence": (0.0, 1.0), "coverage": (MIN_COVERAGE, MAX_COVERAGE)}
REMEDIES = {
    "min_confidence": "it is a probability, such as 0.9",
    "coverage": "it is the share of sets that hold the true label, such as 0.99",
}
SCHEMAS: dict[str, Any] = {
    "min_confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": _ABSTAIN},
    "coverage": {
        "type": "number",
        "minimum": MIN_COVERAGE,
        "maximum": MAX_COVERAGE,
        "description": _COVER,
    },
}

# their limits are checked in one place for query and body
MinConfidence = Annotated[
    float | None, Query(description=_ABSTAIN, json_schema_extra={"minimum": 0, "maximum": 1})
]
Coverage = Annotated[
    float | None,
    Query(description=_COVER, json_schema_extra={"minimum": MIN_COVERAGE, "maximum": MAX_COVERAGE}),
]


class NotCalibrated(Conflict):
    code = "not_calibrated"


@dataclass(frozen=True)
class Asked:
    """Beyond the answer that everybody gets."""

    min_confidence: float | None
    coverage: float | None
    include: frozenset[str] = frozenset()

    @property
    def judges(self) -> bool:
        """Whether it matters of numbers too that they may be no digit."""
        return self.min_confidence is not None or "not_a_digit" in self.include

    def add_to(self, predictions: Sequence[dict[str, Any]], found: Predicted, loaded: Loaded) -> None:
        """Put what was asked for into the predictions, one of each of what was found. Raises NotCalibrated."""
        if self.coverage is not None:
            for prediction, chosen in zip(predictions, self._sets(found, loaded), strict=True):
                prediction["set"] = chosen
        if "not_a_digit" in self.include:
            scores = [None] * len(predictions) if found.not_a_digit is None else found.not_a_digit.tolist()
            for prediction, score in zip(predictions, scores, strict=True):
                prediction["not_a_digit"] = score
        if self.min_confidence is not None:
            for prediction in predictions:
                _abstain(prediction, self.min_confidence)

    def _sets(self, found: Predicted, loaded: Loaded) -> list[list[int]]:
        assert self.coverage is not None
        if loaded.calibration is None:
            raise NotCalibrated(
                f"{loaded.model.id} has no calibration, which sets need: leave coverage out, or train the model again "
                "on enough examples"
            )
        members = loaded.calibration.sets(found.log_probabilities, self.coverage)
        ranked = found.log_probabilities.argsort(axis=1, kind="stable")[:, ::-1]
        return [
            [label for label in order if row[label]]
            for order, row in zip(ranked.tolist(), members.tolist(), strict=True)
        ]


def _abstain(prediction: dict[str, Any], at_least: float) -> None:
    reason: Reason | None = None
    if "blank" in prediction["warnings"]:
        reason = "blank"
    elif "not_a_digit" in prediction["warnings"]:
        reason = "not_a_digit"
    elif prediction["confidence"] < at_least:
        reason = "low_confidence"
    prediction |= {"abstained": reason is not None, "reason": reason}
    if reason is not None:
        prediction["label"] = None


def asked(
    body: Mapping[str, object], min_confidence: float | None, coverage: float | None, include: frozenset[str]
) -> Asked:
    """By the query and by the body's fields, which go before it. Raises Invalid that points at each mistake."""
    query = {"min_confidence": min_confidence, "coverage": coverage}
    found: dict[str, float | None] = {}
    mistakes = []
    for name, limits in LIMITS.items():
        place, value = (f"#/{name}", body[name]) if name in body else (f"query/{name}", query[name])
        found[name] = None if value is None else _within(value, limits)
        if value is not None and found[name] is None:
            low, high = limits
            detail = f"must be a number from {low:g} to {high:g}: {REMEDIES[name]}"
            mistakes.append(FieldError(place, detail))
    if mistakes:
        raise Invalid(
            "; ".join(f"{item.pointer}: {item.detail}" for item in mistakes),
            code="invalid_parameter",
            errors=mistakes,
        )
    return Asked(found["min_confidence"], found["coverage"], include)


def _within(value: object, limits: tuple[float, float]) -> float | None:
    """The number that JSON or text holds; None if it is none, or outside."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if limits[0] <= number <= limits[1] else None
