"""Batch normalisation of the hidden layers (Ioffe and Szegedy 2015), which folds into them.

Only training knows of it: what is evaluated, stored and served is the plain network that `fold` gives.
"""

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from service.network import MultiLayerPerceptron

MOMENTUM = 0.1  # of the running statistics, and the constant within the root: torch's own
EPSILON = 1e-5


class NormalizedLinear(nn.Linear):
    """Input (n, inputs) -> scale (W input - mean) / sqrt(variance + epsilon) + bias, (n, outputs), by unit.

    In training mean and variance are the batch's, n > 1, and `mean` and `variance` follow them; in evaluation
    they are these. The linear layer's own bias would fall out with the mean: it is the shift instead, and
    there is no other."""

    mean: Tensor
    variance: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Takes over the weight and bias of `linear`."""
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = Parameter(torch.ones_like(linear.bias))
        self.register_buffer("mean", torch.zeros_like(linear.bias, requires_grad=False))
        self.register_buffer("variance", torch.ones_like(linear.bias, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # its name in nn.Linear
        return functional.batch_norm(
            functional.linear(input, self.weight),
            self.mean,
            self.variance,
            self.scale,
            self.bias,
            training=self.training,
            momentum=MOMENTUM,
            eps=EPSILON,
        )

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that does the same in evaluation."""
        factor = self.scale / torch.sqrt(self.variance + EPSILON)
        return self.weight * factor[:, None], self.bias - self.mean * factor


def normalize_hidden(network: MultiLayerPerceptron) -> MultiLayerPerceptron:
    """The network with its hidden layers normalised, in place."""
    for index, _ in enumerate(network.spec.network.hidden_widths):
        linear = network.layers[index]
        assert isinstance(linear, nn.Linear)
        network.layers[index] = NormalizedLinear(linear)
    return network


def plain(network: MultiLayerPerceptron) -> MultiLayerPerceptron:
    """The network that computes, without normalisation, what this one computes in evaluation."""
    made = MultiLayerPerceptron(network.spec).to(network.input.mean.device).eval()
    made.input.load_state_dict(network.input.state_dict())
    fold(network, into=made)
    return made


@torch.no_grad()
def fold(network: MultiLayerPerceptron, into: MultiLayerPerceptron) -> None:
    """Fill the layers of a plain network of the same spec anew, as `plain` did."""
    for source, target in zip(network.layers, into.layers, strict=True):
        assert isinstance(source, nn.Linear)
        assert isinstance(target, nn.Linear)
        weight, bias = (
            source.folded() if isinstance(source, NormalizedLinear) else (source.weight, source.bias)
        )
        target.weight.copy_(weight)
        target.bias.copy_(bias)
