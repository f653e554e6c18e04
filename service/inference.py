"""Run a network with numpy alone: API processes serve predictions without importing torch."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service import checkpoints
from service.checkpoints import Arrays
from service.spec import Activation, TrainingSpec

Floats = NDArray[np.float32]

CHUNK = 2000  # rows at once: a whole test set through wide layers would take hundreds of megabytes
GELU_SCALE = float(np.sqrt(2 / np.pi))


class NumpyNetwork:
    """A trained multi-layer perceptron in float32, or a committee of them; it agrees with torch within 1e-5."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays) -> None:
        """`arrays` are a checkpoint's, named as in `checkpoints.shapes`."""
        self.spec = spec
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
        width = self.spec.layer_widths[0]
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise ValueError(f"inputs have shape {inputs.shape}: expected (n, {width})")
        outputs = np.empty((len(inputs), self.spec.layer_widths[-1]), np.float32)
        for start in range(0, len(inputs), CHUNK):
            outputs[start : start + CHUNK] = self._forward(inputs[start : start + CHUNK])
        return outputs

    def probabilities(self, inputs: NDArray[Any]) -> Floats:
        """Softmax of the logits, (n, classes) float32. Raises ValueError for a regression."""
        if self.spec.task_name != "classification":
            raise ValueError("a regression has no probabilities: use logits")
        return softmax(self.logits(inputs))

    def _forward(self, inputs: NDArray[Any]) -> Floats:
        if self.spec.committee is None:
            return self._networks[0](inputs)
        total = np.zeros((len(inputs), self.spec.layer_widths[-1]), np.float32)
        for network in self._networks:
            total += log_softmax(network(inputs))
        return total / np.float32(len(self._networks))


class _Perceptron:
    """One network's layers."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays) -> None:
        self._activation = ACTIVATIONS[spec.network.activation]
        self._divisor = np.float32(255 if spec.task_name == "classification" else 1)
        self._mean, self._std = arrays["input.mean"], arrays["input.std"]
        self._layers = [
            # BLAS reads the transpose in place; the copy only happens if the array is not contiguous
            (np.ascontiguousarray(arrays[f"layers.{i}.weight"]).T, arrays[f"layers.{i}.bias"])
            for i in range(len(spec.layer_widths) - 1)
        ]

    def __call__(self, inputs: NDArray[Any]) -> Floats:
        """Its logits, or a regression's outputs."""
        values: Floats = inputs.astype(np.float32)  # a copy, so what follows may overwrite it
        values /= self._divisor
        values -= self._mean
        values /= self._std
        for weight, bias in self._layers[:-1]:
            values = self._activation(values @ weight + bias)
        weight, bias = self._layers[-1]
        outputs: Floats = values @ weight + bias
        return outputs


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of `softmax`, which does not go to minus infinity where that goes to zero."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logarithms: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


def softmax(logits: Floats) -> Floats:
    """exp(a_k) / sum over classes j of exp(a_j), along the last axis. Shifted by the largest, so that
    nothing overflows."""
    exponentials: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


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
