"""A network whose weights are bytes: on a CPU an image takes a fraction of what float32 asks for, as a large network is
bound by the memory that its weights are read from.

Weights are bytes with a scale for each output, what a hidden layer gives is uint8 with one scale, the pixels are bytes as
they are; sums are exact, biases and scales float32 (Jacob et al. 2018, "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", section 2). The scales of the hidden layers are fixed from training
images, so that an image's answer does not depend on what else is in its batch. ONNX Runtime multiplies; it is loaded
with the first such network, since most processes have no use for it."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.checkpoints import Arrays
from service.serving.inference import Floats, Layers, NumpyNetwork, layers_of
from service.spec import TrainingSpec

PEAK = 99.99  # per cent of a hidden layer's outputs that lie within the scale
SAMPLES = 4000  # training images that the scales are taken from
LEAST_AGREEMENT = 0.999  # of the labels with float32's
LARGEST_LOSS = 0.0002  # of accuracy
SPEEDUP = 6  # over float32, about: by how much less work it counts
OPSET, IR_VERSION = 17, 8  # as old as holds the operators, for whatever reads it
THREADS = 2


@dataclass(frozen=True)
class Trial:
    """How a network of bytes did beside its float32 self, on images that neither was trained on."""

    peaks: tuple[float, ...]
    """of each hidden layer's outputs: what 255 stands for"""
    images: int
    agreement: float
    """share of equal labels"""
    accuracy: float
    exact_accuracy: float

    @property
    def is_good(self) -> bool:
        """Whether it may answer for the network."""
        return self.agreement >= LEAST_AGREEMENT and self.accuracy >= self.exact_accuracy - LARGEST_LOSS

    @classmethod
    def of(cls, figures: Any) -> Self:
        """From the JSON of `asdict`."""
        return cls(**{**figures, "peaks": tuple(figures["peaks"])})


class QuantizedNetwork:
    """Answers as `NumpyNetwork` does, from bytes."""

    def __init__(self, spec: TrainingSpec, arrays: Arrays, peaks: Sequence[float]) -> None:
        """`arrays` are a checkpoint's, of a spec that `is_quantizable`; `peaks` as in `Trial`."""
        self.spec = spec
        self.parameter_count = spec.parameter_count
        self.cost = spec.parameter_count // SPEEDUP
        self._session = _session(graph(layers_of(spec, arrays), peaks, is_signed=adds_exactly()))

    def logits(self, inputs: NDArray[Any]) -> Floats:
        """(n, classes) float32 of (n, 784) pixels from 0 to 255, which are rounded."""
        pixels = inputs if inputs.dtype == np.uint8 else np.rint(inputs).astype(np.uint8)
        found: Floats = self._session.run(None, {"pixels": np.ascontiguousarray(pixels)})[0]
        return found


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = max(1, min(THREADS, (os.cpu_count() or 1) - 1))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.cache
def adds_exactly() -> bool:
    """Whether products of int8 weights are added exactly here. x86 without VNNI adds them in pairs within 16 bits, and
    what goes beyond is lost (ONNX Runtime, "Quantize ONNX models", of U8S8 and saturation): there weights are uint8
    about 128, which is the same arithmetic and takes longer."""
    weight, bias, pixels = (
        np.ones((32, 64), np.float32),
        np.zeros(32, np.float32),
        np.full((4, 64), 255, np.uint8),
    )
    found = _session(graph([(weight, bias)], (), is_signed=True)).run(None, {"pixels": pixels})[0]
    return bool(np.allclose(found, 64 * 255))


def is_quantizable(spec: TrainingSpec) -> bool:
    """Whether its hidden outputs are never negative and its inputs are pixels; no committee is."""
    return (
        spec.task_name == "classification"
        and spec.network.activation == "relu"
        and spec.committee is None
        and len(spec.layer_widths) > 2
    )


def tried(
    spec: TrainingSpec,
    arrays: Arrays,
    training_images: NDArray[np.uint8],
    images: NDArray[np.uint8],
    labels: NDArray[Any],
) -> Trial:
    """Fix the scales by (n, 784) training images, and compare on others."""
    peaks = _peaks(layers_of(spec, arrays), training_images[:SAMPLES])
    exact = NumpyNetwork(spec, arrays).logits(images).argmax(axis=1)
    found = QuantizedNetwork(spec, arrays, peaks).logits(images).argmax(axis=1)
    return Trial(
        peaks=peaks,
        images=len(images),
        agreement=float((found == exact).mean()),
        accuracy=float((found == labels).mean()),
        exact_accuracy=float((exact == labels).mean()),
    )


def _peaks(layers: Layers, images: NDArray[np.uint8]) -> tuple[float, ...]:
    values: Floats = images.astype(np.float32)
    peaks = []
    for weight, bias in layers[:-1]:
        values = np.maximum(values @ weight.T + bias, 0)
        peaks.append(max(float(np.percentile(values, PEAK)), 1e-6))  # a layer may be dead
    return tuple(peaks)


def graph(layers: Layers, peaks: Sequence[float], *, is_signed: bool) -> bytes:
    """The ONNX model: `pixels` uint8 (n, inputs) to `logits` float32 (n, outputs). Its weights are int8, or uint8 about
    128."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants, middle = [], [], list[str]()
    if not is_signed:
        constants, middle = [numpy_helper.from_array(np.asarray(128, np.uint8), "middle")], ["", "middle"]
    value, scale = "pixels", 1.0
    for index, (weight, bias) in enumerate(layers):
        rows = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / 127
        rounded = np.rint(weight / rows[:, None]).astype(np.int16)
        stored = rounded.astype(np.int8) if is_signed else (rounded + 128).astype(np.uint8)
        constants += [
            numpy_helper.from_array(np.ascontiguousarray(stored.T), f"weight{index}"),
            numpy_helper.from_array((rows * scale).astype(np.float32), f"scale{index}"),
            numpy_helper.from_array(bias.astype(np.float32), f"bias{index}"),
        ]
        is_last = index == len(layers) - 1
        end = "logits" if is_last else f"sum{index}"
        nodes += [
            helper.make_node("MatMulInteger", [value, f"weight{index}", *middle], [f"integers{index}"]),
            helper.make_node("Cast", [f"integers{index}"], [f"floats{index}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"floats{index}", f"scale{index}"], [f"scaled{index}"]),
            helper.make_node("Add", [f"scaled{index}", f"bias{index}"], [end]),
        ]
        if not is_last:
            scale = peaks[index] / 255
            constants += [
                numpy_helper.from_array(np.asarray(scale, np.float32), f"step{index}"),
                numpy_helper.from_array(np.asarray(0, np.uint8), f"zero{index}"),
            ]
            # it ends at 0 and 255: relu is part of it
            value = f"bytes{index}"
            nodes.append(helper.make_node("QuantizeLinear", [end, f"step{index}", f"zero{index}"], [value]))
    inputs, outputs = layers[0][0].shape[1], len(layers[-1][0])
    made = helper.make_graph(
        nodes,
        "numeral",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", outputs])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized
