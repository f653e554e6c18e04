"""What is learnt from."""

from typing import Self

from pydantic import Field, model_validator

from service import mistakes
from service.catalog import CATALOG, DatasetCard, DatasetName
from service.spec.part import Part


class DatasetSpec(Part):
    """What is learnt from."""

    name: DatasetName = "mnist"
    """Dataset, one of those that `GET /v1/datasets` lists."""
    validation: int = Field(default=0, ge=0, le=1_000_000)
    """Training examples held out for validation (0: none), chosen by `split_seed`."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the held-out split, apart from `seed` so that runs with other seeds share one split."""
    examples: int | None = Field(default=None, ge=1, le=1_000_000)
    """Training examples used: the first so many of the dataset (unset: all); for `simulated`, how many
    are drawn (unset: 1,000)."""
    noise: float | None = Field(default=None, ge=0, le=1000)
    """Standard deviation of the noise of `simulated` (unset: 0.5); refused for any other dataset."""

    draw_seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Seed with which the points of `simulated` are drawn (unset: 0); refused for any other dataset."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.draw_seed is not None and self.name != "simulated":
            raise mistakes.field_mistake(
                "draw_seed", f"{self.name} is not drawn: leave it out, or use simulated"
            )
        if self.noise is not None and self.name != "simulated":
            raise mistakes.field_mistake(
                "noise", f"{self.name} has no noise to set: leave it out, or use simulated"
            )
        available = self.card.train_examples
        if available is not None and self.examples is not None and self.examples > available:
            raise mistakes.field_mistake(
                "examples", f"{self.name} has {available:,} training examples: ask for no more than that"
            )
        if self.validation >= self.total_examples:
            raise mistakes.field_mistake(
                "validation",
                f"{self.validation:,} held out of {self.total_examples:,} leaves none to train on: "
                "hold out fewer",
            )
        return self

    @property
    def card(self) -> DatasetCard:
        return CATALOG[self.name]

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of `simulated`."""
        return 0.5 if self.noise is None else self.noise

    @property
    def total_examples(self) -> int:
        """Training examples before the validation split."""
        return self.examples or self.card.train_examples or 1000

    @property
    def train_examples(self) -> int:
        """Training examples after the validation split."""
        return self.total_examples - self.validation
