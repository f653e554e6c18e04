"""Why a network answers as it does, of one image: what each layer made of it, and which pixels mattered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.serving.inference import ACTIVATIONS, GELU_SCALE, Floats, Layers, NumpyNetwork, softmax
from service.spec import Activation

_TOP = 255  # of the scale on which pixels come


def _sigmoid(a: Floats) -> Floats:
    return ACTIVATIONS["sigmoid"](a)


def _gelu(a: Floats) -> Floats:
    inner = np.tanh(GELU_SCALE * (a + 0.044715 * a**3))
    slope: Floats = 0.5 * (1 + inner) + 0.5 * a * (1 - inner**2) * GELU_SCALE * (1 + 3 * 0.044715 * a**2)
    return slope


def _silu(a: Floats) -> Floats:
    share = _sigmoid(a)
    slope: Floats = share * (1 + a * (1 - share))
    return slope


DERIVATIVES: dict[Activation, Callable[[Floats], Floats]] = {
    "relu": lambda a: (a > 0).astype(np.float32),
    "leaky_relu": lambda a: np.where(a > 0, np.float32(1), np.float32(0.01)),
    "tanh": lambda a: 1 - np.tanh(a) ** 2,
    "scaled_tanh": lambda a: 1.7159 * 0.6666 * (1 - np.tanh(0.6666 * a) ** 2),
    "sigmoid": lambda a: _sigmoid(a) * (1 - _sigmoid(a)),
    "gelu": _gelu,
    "silu": _silu,
    "identity": np.ones_like,
}


@dataclass(frozen=True)
class Explanation:
    """Of one image. `hidden` are the outputs of each hidden layer, of a committee those of its first member.
    `saliency`, (784,), is how much log p(`label`) rises with a pixel, were it to go from black to white at that slope
    (Simonyan, Vedaldi and Zisserman 2013). `probabilities` are by softmax alone."""

    label: int
    probabilities: Floats
    hidden: list[Floats]
    saliency: Floats


@dataclass(frozen=True)
class _Pass:
    """One network's way from an image to its logits: the sums of each hidden layer before their activation."""

    sums: list[Floats]
    outputs: list[Floats]


def explained(network: NumpyNetwork, pixels: NDArray[Any], label: int | None = None) -> Explanation:
    """Of an image, (784,) from 0 to 255, why it is, or is not, of the label; unset: of the likeliest."""
    inputs = np.asarray(pixels, np.float32)
    activation = network.spec.network.activation
    probabilities = softmax(network.logits(inputs[np.newaxis]))[0]
    chosen = int(probabilities.argmax()) if label is None else label
    # d log p(label) / d logits; a committee's logits are means, and its members' own shares cancel
    slope = -probabilities
    slope[chosen] += 1
    passes = [_forward(layers, activation, inputs) for layers in network.layers]
    slopes = [
        _backward(layers, activation, one, slope) for layers, one in zip(network.layers, passes, strict=True)
    ]
    return Explanation(chosen, probabilities, passes[0].outputs, _TOP * np.mean(slopes, axis=0))


def _forward(layers: Layers, activation: Activation, inputs: Floats) -> _Pass:
    values, sums, outputs = inputs, [], []
    for weight, bias in layers[:-1]:
        sums.append(weight @ values + bias)
        values = ACTIVATIONS[activation](sums[-1])
        outputs.append(values)
    return _Pass(sums, outputs)


def _backward(layers: Layers, activation: Activation, one: _Pass, slope: Floats) -> Floats:
    for (weight, _), before in zip(layers[:0:-1], one.sums[::-1], strict=True):
        slope = (slope @ weight) * DERIVATIVES[activation](before)
    first: Floats = slope @ layers[0][0]
    return first
