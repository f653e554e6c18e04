"""The order of a sweep's members by a metric, and what is to be known of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from service.spec import TrainingSpec

SEED = "seed"  # repeats a member rather than varying it, where anything else varies


def usual_metric(specs: Sequence[TrainingSpec]) -> str:
    """What members are ranked by unless something else is asked for: their accuracy, or the loss if one of them
    is a regression; on held-out data where all of them have some, else on the test set."""
    part = "validation" if all(spec.dataset.validation for spec in specs) else "test"
    is_accuracy = all(spec.task_name == "classification" for spec in specs)
    return f"{part}_{'accuracy' if is_accuracy else 'loss'}"


def is_better_high(metric: str) -> bool:
    return metric.endswith("accuracy")


def ranks(values: Sequence[float | None], metric: str) -> list[int | None]:
    """1 for the best; equals share a rank, and the next one is as many further. None has none."""
    sign = -1 if is_better_high(metric) else 1
    order = sorted(sign * value for value in values if value is not None)
    place: dict[float, int] = {}
    for rank, value in enumerate(order, 1):
        place.setdefault(value, rank)
    return [None if value is None else place[sign * value] for value in values]


@dataclass(frozen=True)
class Repeated:
    """Members that differ in their seed alone: their `changes` but for it, how many of them have a value, and of
    these values the mean and the standard deviation (n - 1 below; None of a single one)."""

    changes: dict[str, Any]
    count: int
    mean: float
    deviation: float | None


def over_seeds(
    changes: Sequence[Mapping[str, Any]], values: Sequence[float | None], metric: str
) -> list[Repeated]:
    """What members come to over their seeds, the best mean first; nothing if no two differ in the seed alone.
    `changes` and `values` by member."""
    groups: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for one, value in zip(changes, values, strict=True):
        rest = {field: item for field, item in one.items() if field != SEED}
        found = groups.setdefault(json.dumps(rest), (rest, []))[1]
        if value is not None:
            found.append(value)
    if len(groups) == len(changes):
        return []
    repeated = [
        Repeated(rest, len(found), fmean(found), stdev(found) if len(found) > 1 else None)
        for rest, found in groups.values()
        if found
    ]
    return sorted(repeated, key=lambda one: -one.mean if is_better_high(metric) else one.mean)


def warning(metric: str) -> str | None:
    """What to say of a choice by that metric; None if it is an honest one."""
    if metric.startswith("test_"):
        return (
            "ranked by the test set: the figure of the best of several is too good by what luck made of it, and "
            "no data is left to tell. Hold some out (dataset.validation) and rank by the validation figures"
        )
    if metric.startswith("train_"):
        return "ranked by the training set: that tells who fits best, not who reads new images best"
    return None
