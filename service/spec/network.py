"""The multi-layer perceptron: widths, activation, first weights, normalised input."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service import mistakes
from service.spec.part import Part

MAX_WIDTH = 2**31 - 1  # the parameter budget is what limits a width
MAX_DEPTH = 128

Activation = Literal["relu", "leaky_relu", "tanh", "scaled_tanh", "sigmoid", "gelu", "silu", "identity"]
Initializer = Literal[
    "glorot_uniform", "glorot_normal", "kaiming_uniform", "kaiming_normal", "orthogonal", "uniform", "normal"
]


class NetworkSpec(Part):
    """A multi-layer perceptron: x -> hidden layers -> outputs of the dataset."""

    hidden_widths: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(
        default=(32,), max_length=MAX_DEPTH, strict=False
    )
    """Units of each hidden layer, first to last; an empty list is a linear model."""
    activation: Activation = "relu"
    """Activation after each hidden layer: leaky_relu has slope 0.01, gelu is the tanh form,
    scaled_tanh is 1.7159 tanh(0.6666 a) (Ciresan et al. 2010)."""
    initializer: Initializer = "glorot_uniform"
    """Distribution of the first weights; biases begin at zero."""
    initializer_scale: float | None = Field(default=None, gt=0, le=100)
    """Half-width of `uniform` or standard deviation of `normal` (unset: 0.05); refused for the others,
    whose scale follows from the layer's size."""
    normalization: Literal["none", "batch"] = "none"
    """batch normalises each hidden layer before its activation, by the batch in training (Ioffe and Szegedy 2015);
    it is folded into the layer's weights and biases where the network is evaluated, stored and served."""
    input_normalization: Literal["auto", "none", "symmetric", "standardize"] = "auto"
    """What is done to the inputs: none leaves pixels in [0, 1], symmetric maps them to [-1, 1],
    standardize takes the training set's mean and standard deviation; auto is none for images and
    standardize for regression."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.initializer_scale is not None and self.initializer not in ("uniform", "normal"):
            raise mistakes.field_mistake(
                "initializer_scale",
                f"{self.initializer} takes its scale from the layer's size: leave this out, "
                "or set initializer to uniform or normal",
            )
        return self
