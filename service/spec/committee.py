"""Several networks that answer as one."""

from pydantic import Field

from service.spec.part import Part


class Committee(Part):
    """Networks of one recipe, each with first weights, an order of the examples and deformations of its own, that
    are trained side by side and answer by the mean of their log-probabilities (Meier, Ciresan et al. 2011, "Better
    digit recognition with a committee of simple neural nets"; Heskes 1998 for the logarithms)."""

    members: int = Field(default=5, ge=2, le=64)
    """How many. Member i is trained as a job without a committee would be, with a seed that follows from `seed`
    and i."""
