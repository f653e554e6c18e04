"""The learning rate as a function of the step."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service import mistakes
from service.spec.part import MAX_STEPS, Part


class Warmup(Part):
    """What every schedule has: a linear rise from zero before it."""

    warmup_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Steps of linear rise to the learning rate before the schedule begins."""


class Constant(Warmup):
    """One learning rate throughout."""

    name: Literal["constant"] = "constant"


class StepDecay(Warmup):
    """Multiply the learning rate by `factor` every so many epochs."""

    name: Literal["step"] = "step"
    factor: float = Field(default=0.1, gt=0, le=1)
    """Factor of each fall."""
    every_epochs: int = Field(default=10, ge=1, le=MAX_STEPS)
    """Epochs between two falls."""


class Exponential(Warmup):
    """Multiply the learning rate by a constant after each epoch."""

    name: Literal["exponential"] = "exponential"
    factor: float | None = Field(default=None, gt=0, le=1)
    """The constant (unset: 0.99, or what `final_fraction` asks for)."""
    final_fraction: float | None = Field(default=None, gt=0, le=1)
    """Learning rate of the last epoch as a share of the first, instead of `factor`."""
    floor: float = Field(default=0.0, ge=0, le=1000)
    """Learning rate below which it never falls."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.factor is not None and self.final_fraction is not None:
            raise mistakes.field_mistake("final_fraction", "factor is set too: give one of the two")
        return self


class Cosine(Warmup):
    """Half a cosine from the learning rate to `final_fraction` of it (Loshchilov and Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Learning rate of the last step as a share of the first."""


class OneCycle(Part):
    """Rise to the learning rate, then fall below the start, both along a cosine (Smith 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    rise_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of all steps spent rising."""
    initial_divisor: float = Field(default=25.0, ge=1, le=1e6)
    """The first learning rate is the peak divided by this."""
    final_divisor: float = Field(default=1e4, ge=1, le=1e9)
    """The last learning rate is the first divided by this."""


Schedule = Annotated[Constant | StepDecay | Exponential | Cosine | OneCycle, Field(discriminator="name")]
