"""What every block of a spec is, and the limits that several share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_STEPS = 100_000_000
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A frozen block of a spec that refuses what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
