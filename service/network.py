"""Spec -> network: a multi-layer perceptron in torch, its initialisers, a committee of them, and the way back from a
checkpoint."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service import checkpoints
from service.checkpoints import Arrays
from service.seeds import derived_seed
from service.spec import Activation, NetworkSpec, TrainingSpec

STANDARDIZE_EPSILON = 1e-5  # Flux.normalise's
DEFAULT_SCALE = 0.05  # of `uniform` and `normal`


class InputNormalization(nn.Module):
    """(x / divisor - mean) / std, with `divisor` 255 for pixels and 1 for features."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: TrainingSpec) -> None:
        super().__init__()
        images = spec.task_name == "classification"
        features = 1 if images else spec.layer_widths[0]
        self.divisor = 255 if images else 1
        self.identity = _normalization(spec) == "none"  # mean 0, std 1: save small batches the arithmetic
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.in_place(x.to(torch.float32, copy=True))

    def in_place(self, x: Tensor) -> Tensor:
        """The same of float32 that is no longer needed."""
        scaled = x.div_(self.divisor)
        return scaled if self.identity else scaled.sub_(self.mean).div_(self.std)


class _Layer(nn.Linear):
    """A Linear whose memory is left as it is found: `build` and `rebuild` fill it."""

    def reset_parameters(self) -> None:
        return


class MultiLayerPerceptron(nn.Module):
    """x -> (activation and dropout after each hidden layer) -> logits, or a regression's outputs.

    State-dict names are those of `checkpoints.shapes`."""

    def __init__(self, spec: TrainingSpec) -> None:
        """Layers of the spec with memory that is not yet filled; `build` and `rebuild` fill it."""
        super().__init__()
        self.spec = spec
        self.input = InputNormalization(spec)
        self.layers = nn.ModuleList(
            _Layer(inputs, outputs) for inputs, outputs in pairwise(spec.layer_widths)
        )
        self.activation = ACTIVATIONS[spec.network.activation]
        self.dropout = spec.regularization.dropout
        self._generator: torch.Generator | None = None

    def normalize(self, x: Tensor) -> Tensor:
        """Inputs as stored, (n, inputs) uint8 or float on the 0..255 scale, or a regression's features
        -> what the first layer sees, float32."""
        normalized: Tensor = self.input(x)
        return normalized

    def logits(self, normalized: Tensor) -> Tensor:
        """(n, outputs) of normalised inputs (n, inputs)."""
        *hidden, last = self.layers
        values = normalized
        for layer in hidden:
            values = self.activation(layer(values))
            if self.training and self.dropout:
                values = self._drop(values)
        outputs: Tensor = last(values)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits of inputs as stored."""
        return self.logits(self.normalize(x))

    def seed_dropout(self, seed: int) -> None:
        """Start the stream from which dropout draws, on the network's device."""
        if self._generator is None:
            self._generator = torch.Generator(next(self.parameters()).device)
        self._generator.manual_seed(seed)

    def draw_kept(self, mask: Tensor) -> Tensor:
        """Fill the mask with what dropout draws next: 1 where a value is kept, 0 where it is dropped."""
        # torch's own dropout takes no generator, and the global one would make a resume inexact
        return mask.bernoulli_(1 - self.dropout, generator=self._generator)

    def _drop(self, values: Tensor) -> Tensor:
        return values * self.draw_kept(torch.empty_like(values)) * (1 / (1 - self.dropout))


class Committee(nn.Module):
    """Networks that answer as one: its logits are the mean of theirs after log-softmax, the logarithm of a geometric
    mean of probabilities but for a constant.

    State-dict names are those of `checkpoints.shapes`."""

    def __init__(self, spec: TrainingSpec) -> None:
        """The spec's networks with memory that is not yet filled."""
        super().__init__()
        self.spec = spec
        self.members = nn.ModuleList(MultiLayerPerceptron(member) for member in spec.networks)

    @property
    def networks(self) -> "list[MultiLayerPerceptron]":
        """The members."""
        return [member for member in self.members if isinstance(member, MultiLayerPerceptron)]

    @property
    def input(self) -> InputNormalization:
        """Of each member: they have learnt from the same examples."""
        return self.networks[0].input

    def normalize(self, x: Tensor) -> Tensor:
        """As each member does."""
        return self.networks[0].normalize(x)

    def logits(self, normalized: Tensor) -> Tensor:
        """(n, outputs) float32 of normalised inputs (n, inputs)."""
        total = torch.zeros(len(normalized), self.spec.layer_widths[-1], device=normalized.device)
        for network in self.networks:
            total += functional.log_softmax(network.logits(normalized).float(), 1)
        return total / len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of inputs as stored."""
        return self.logits(self.normalize(x))


Network = MultiLayerPerceptron | Committee


def build(spec: TrainingSpec, train_inputs: NDArray[Any] | None = None) -> MultiLayerPerceptron:
    """The untrained network of a spec without a committee, on the CPU: the seed alone decides its weights,
    so that every device begins from the same. `train_inputs` (n, inputs) as stored give the statistics of
    `standardize`; without them its mean is 0 and its standard deviation 1."""
    assert spec.committee is None, "its members are built one by one"
    network = MultiLayerPerceptron(spec)
    generator = torch.Generator().manual_seed(derived_seed(spec.seed, "weights"))
    with torch.no_grad():
        for layer in network.layers:
            assert isinstance(layer, nn.Linear)
            INITIALIZERS[spec.network.initializer](layer.weight, spec.network, generator)
            layer.bias.zero_()
        mean, std = input_statistics(spec, train_inputs)
        network.input.mean.copy_(torch.from_numpy(mean))
        network.input.std.copy_(torch.from_numpy(std))
    return network


def rebuild(data: bytes) -> Network:
    """The network or the committee of a weights file, on the CPU, ready to evaluate. Raises
    checkpoints.CorruptCheckpoint."""
    spec, arrays, _ = checkpoints.decode_weights(data)
    network: Network = MultiLayerPerceptron(spec) if spec.committee is None else Committee(spec)
    load_arrays(network, arrays)
    return network.eval()


def arrays_of(network: Network) -> dict[str, NDArray[Any]]:
    """A copy of the weights, named as in `checkpoints.shapes`."""
    return {name: to_numpy(tensor) for name, tensor in network.state_dict().items()}


def load_arrays(network: Network, arrays: Arrays) -> None:
    """Copy weights named as in `checkpoints.shapes` into the network."""
    network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy that later steps do not change."""
    return tensor.detach().to("cpu", copy=True).numpy()


def parameter_count(network: nn.Module) -> int:
    """Weights and biases."""
    return sum(parameter.numel() for parameter in network.parameters())


def input_statistics(
    spec: TrainingSpec, train_inputs: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation that inputs are normalised with, in the shapes of
    `checkpoints.shapes`: of pixels on the [0, 1] scale, or of each feature."""
    images = spec.task_name == "classification"
    kind = _normalization(spec)
    if kind == "symmetric":
        half = np.full(1, 0.5, np.float32)
        return half, half
    if kind == "none" or train_inputs is None:
        features = 1 if images else spec.layer_widths[0]
        return np.zeros(features, np.float32), np.ones(features, np.float32)
    mean, std = _pixel_moments(train_inputs) if images else _feature_moments(train_inputs)
    # a constant feature carries nothing: leave its scale alone rather than blow up its noise
    std = np.where(std == 0, 1.0, std + STANDARDIZE_EPSILON)
    return mean.astype(np.float32), std.astype(np.float32)


def _normalization(spec: TrainingSpec) -> str:
    kind = spec.network.input_normalization
    if kind == "auto":
        return "none" if spec.task_name == "classification" else "standardize"
    return kind


def _feature_moments(inputs: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # the first row taken off first, so that a constant column has a deviation of exactly zero
    offset = inputs[0].astype(np.float64)
    centred = inputs.astype(np.float64) - offset
    return offset + centred.mean(axis=0), centred.std(axis=0)


def _pixel_moments(inputs: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # counting the 256 grey levels is exact, and needs no float copy of the images
    counts = sum(np.bincount(row, minlength=256) for row in np.array_split(inputs.ravel(), 64))
    share = counts / inputs.size
    levels = np.arange(256) / 255
    mean = float(share @ levels)
    return np.full(1, mean), np.full(1, np.sqrt(share @ (levels - mean) ** 2))


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda a: functional.leaky_relu(a, 0.01),
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(0.6666 * a),  # Ciresan et al. 2010
    "sigmoid": torch.sigmoid,
    "gelu": lambda a: functional.gelu(a, approximate="tanh"),
    "silu": functional.silu,
    "identity": lambda a: a,
}

InitializerFunction = Callable[[Tensor, NetworkSpec, torch.Generator], Tensor]


def _scale(network: NetworkSpec) -> float:
    return network.initializer_scale or DEFAULT_SCALE


# Glorot and Bengio 2010 (Flux's default); He et al. 2015 with the gain of relu, whatever the activation;
# Saxe et al. 2014 with gain 1.
INITIALIZERS: dict[str, InitializerFunction] = {
    "glorot_uniform": lambda w, _, g: nn.init.xavier_uniform_(w, generator=g),
    "glorot_normal": lambda w, _, g: nn.init.xavier_normal_(w, generator=g),
    "kaiming_uniform": lambda w, _, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
    "kaiming_normal": lambda w, _, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
    "orthogonal": lambda w, _, g: nn.init.orthogonal_(w, generator=g),
    "uniform": lambda w, n, g: nn.init.uniform_(w, -_scale(n), _scale(n), generator=g),
    "normal": lambda w, n, g: nn.init.normal_(w, 0.0, _scale(n), generator=g),
}
