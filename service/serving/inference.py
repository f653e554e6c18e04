"""Run a network with numpy alone: API processes serve predictions without importing torch."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service import checkpoints
from service.checkpoints import Arrays
from service.spec import Activation, TrainingSpec

Floats = NDArray[np.float32]
Layers = list[tuple[Floats, Floats]]  # of each layer, weight (out, in) and bias (out,)

CHUNK = 2000  # rows at once: a whole test set through wide layers would take hundreds of megabytes
_ZERO = np.float32(0)
GELU_SCALE = float(np.sqrt(2 / np.pi))


class NumpyNetwork:
    """A trained multi-layer perceptron in float32, or a committee of them; it agrees with torch within 1e-5."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays) -> None:
        """`arrays` are a checkpoint's, named as in `checkpoints.shapes`."""
        self.spec = spec
        self.parameter_count = self.cost = spec.parameter_count
        self._inputs, *_, self._outputs = spec.layer_widths
        self._classifies = spec.task_name == "classification"
        self._networks = [
            _Perceptron(one, checkpoints.of_network(arrays, spec, index))
            for index, one in enumerate(spec.networks)
        ]

    @classmethod
    def from_checkpoint(cls, data: bytes) -> Self:
        """From the bytes of a weights file. Raises checkpoints.CorruptCheckpoint."""
        spec, arrays, _ = checkpoints.decode_weights(data)
        return cls(spec, arrays)

    def logits(self, inputs: NDArray[Any]) -> Floats:
        """(n, outputs) float32 of (n, inputs): pixels on the 0..255 scale, uint8 or float, or a
        regression's features. A committee's are the mean of its members' after log-softmax. Raises ValueError
        for another shape."""
        if inputs.ndim != 2 or inputs.shape[1] != self._inputs:
            raise ValueError(f"inputs have shape {inputs.shape}: expected (n, {self._inputs})")
        if len(inputs) <= CHUNK:
            return self._forward(inputs)
        outputs = np.empty((len(inputs), self._outputs), np.float32)
        for start in range(0, len(inputs), CHUNK):
            outputs[start : start + CHUNK] = self._forward(inputs[start : start + CHUNK])
        return outputs

    def probabilities(self, inputs: NDArray[Any]) -> Floats:
        """Softmax of the logits, (n, classes) float32. Raises ValueError for a regression."""
        if not self._classifies:
            raise ValueError("a regression has no probabilities: use logits")
        return softmax(self.logits(inputs))

    @property
    def layers(self) -> list[Layers]:
        """Those of each network, a committee's members first to last, as `layers_of` gives them."""
        return [[*one.hidden, one.last] for one in self._networks]

    def _forward(self, inputs: NDArray[Any]) -> Floats:
        if len(self._networks) == 1:
            return self._networks[0](inputs)
        total = np.zeros((len(inputs), self._outputs), np.float32)
        for network in self._networks:
            total += log_softmax(network(inputs))
        return total / np.float32(len(self._networks))


class _Perceptron:
    """One network's layers."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays) -> None:
        self._activate = IN_PLACE[spec.network.activation]
        *self.hidden, self.last = layers_of(spec, arrays)

    def __call__(self, inputs: NDArray[Any]) -> Floats:
        """Its logits, or a regression's outputs."""
        values = np.asarray(inputs, dtype=np.float32)
        if len(values) == 1:
            return self._one(values[0])[np.newaxis]
        for weight, bias in self.hidden:
            values = values @ weight.T  # which BLAS reads in place
            values += bias
            values = self._activate(values)
        weight, bias = self.last
        outputs: Floats = values @ weight.T
        outputs += bias
        return outputs

    def _one(self, values: Floats) -> Floats:
        """The same of a single row, for which less is looked at on the way to the product."""
        for weight, bias in self.hidden:
            values = weight.dot(values)
            values += bias
            values = self._activate(values)
        weight, bias = self.last
        outputs: Floats = weight.dot(values)
        outputs += bias
        return outputs


def layers_of(spec: TrainingSpec, arrays: Arrays) -> Layers:
    """A network's layers in float32, with what normalises the input as a part of the first: of inputs x on the scale
    that they come in, W ((x / d - mean) / std) + b is (W / (d std)) x + (b - W (mean / std))."""
    mean, std = (arrays[f"input.{name}"].astype(np.float64) for name in ("mean", "std"))
    divisor = 255 if spec.task_name == "classification" else 1
    weight, bias = arrays["layers.0.weight"].astype(np.float64), arrays["layers.0.bias"]
    shift = weight @ np.broadcast_to(mean / std, weight.shape[1:])
    first = ((weight / (divisor * std)).astype(np.float32), (bias - shift).astype(np.float32))
    layers = range(1, len(spec.layer_widths) - 1)
    return [
        first,
        *((np.ascontiguousarray(arrays[f"layers.{i}.weight"]), arrays[f"layers.{i}.bias"]) for i in layers),
    ]


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of `softmax`, which does not go to minus infinity where that goes to zero."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logarithms: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


def softmax(logits: Floats) -> Floats:
    """exp(a_k) / sum over classes j of exp(a_j), along the last axis. Shifted by the largest, so that
    nothing overflows."""
    return softmax_and_largest(logits)[0]


def softmax_and_largest(logits: Floats) -> tuple[Floats, Floats]:
    """The same, and the largest share of each, without that axis: what is 1 before all are divided."""
    # the reductions themselves: the arrays' methods of that name take as long again, of ten numbers
    shares: Floats = logits - np.maximum.reduce(logits, axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    largest: Floats = np.float32(1) / np.add.reduce(shares, axis=-1)
    shares *= largest[..., np.newaxis]
    return shares, largest


def _relu(a: Floats) -> Floats:
    """It overwrites what it is given."""
    return np.maximum(a, _ZERO, out=a)


def _sigmoid(a: Floats) -> Floats:
    values: Floats = 0.5 * (1 + np.tanh(0.5 * a))  # 1 / (1 + exp(-a)) overflows below -88
    return values


def _gelu(a: Floats) -> Floats:
    # the tanh form of Hendrycks and Gimpel 2016, section 2; a * a * a since float power is slow
    values: Floats = 0.5 * a * (1 + np.tanh(GELU_SCALE * (a + 0.044715 * (a * a * a))))
    return values


ACTIVATIONS: dict[Activation, Callable[[Floats], Floats]] = {
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.maximum(a, np.float32(0.01) * a),
    "tanh": np.tanh,
    "scaled_tanh": lambda a: 1.7159 * np.tanh(0.6666 * a),
    "sigmoid": _sigmoid,
    "gelu": _gelu,
    "silu": lambda a: a * _sigmoid(a),
    "identity": lambda a: a,
}
# those that may overwrite what they are given
IN_PLACE = ACTIVATIONS | {"relu": _relu}
