"""Averaging of the weights over the steps."""

from typing import Literal

from pydantic import Field

from service.spec.part import Fraction, Part


class Averaging(Part):
    """An exponential moving average of the weights (Polyak and Juditsky 1992)."""

    decay: Fraction = Field(default=0.999)
    """Share of the average that a step keeps; step t keeps (1 + t) / (10 + t) where that is less, so that the
    first weights are soon forgotten."""
    evaluate: Literal["average", "newest"] = "average"
    """Weights that are evaluated, watched by early stopping, stored and served."""
