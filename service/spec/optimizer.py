"""How weights follow the gradient."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service import mistakes
from service.spec.part import Fraction, Part


class SGD(Part):
    """Stochastic gradient descent (Robbins and Monro 1951)."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0, le=1000)
    """Step size before the schedule."""
    momentum: Fraction = 0.0
    """Share of the previous step that is kept (Polyak 1964)."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov 1983)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise mistakes.field_mistake("nesterov", "Nesterov needs a momentum: set momentum, such as 0.9")
        return self


class Moments(Part):
    """What the family of Adam has in common."""

    learning_rate: float = Field(default=0.001, gt=0, le=1000)
    """Step size before the schedule."""
    beta1: Fraction = 0.9
    """Decay of the mean of the gradients."""
    beta2: Fraction = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator."""


class Adam(Moments):
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"


class AMSGrad(Moments):
    """AMSGrad, Adam with a denominator that never shrinks (Reddi, Kale and Kumar 2018)."""

    name: Literal["amsgrad"] = "amsgrad"
    bias_correction: bool = True
    """Scale both means up in the first steps, as Adam does; false is the paper's algorithm, and the
    lecture's."""


class AdamW(Moments):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    """Share of each weight, times the learning rate, that a step takes away; biases are spared."""


class Muon(Part):
    """Muon (Jordan et al. 2024): steps of the hidden layers' weights are made orthogonal, which asks for products
    of their own, so that it pays with large batches. The last layer's weights and all biases take AdamW."""

    name: Literal["muon"] = "muon"
    learning_rate: float = Field(default=0.02, gt=0, le=1000)
    """Step size before the schedule, times sqrt(max(1, outputs / inputs)) of the layer."""
    momentum: Fraction = 0.95
    """Decay of the mean of the gradients."""
    nesterov: bool = True
    """Look ahead along the momentum (Nesterov 1983)."""
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    """Share of each weight, times its learning rate, that a step takes away; biases are spared."""
    adam_learning_rate: float = Field(default=0.001, gt=0, le=1000)
    """Step size of AdamW's part before the schedule, which scales both; its other figures are adamw's defaults."""


Optimizer = Annotated[SGD | Adam | AMSGrad | AdamW | Muon, Field(discriminator="name")]
