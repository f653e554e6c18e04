"""A network as an ONNX file, for whatever runs those: the answers of the service, without the service.

The graph takes what the network sees and gives its logits and, of a classification, the calibrated probabilities. What
makes that of a picture (`service.data.digits`) is no part of it; its version is among the file's metadata. No torch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

from service.checkpoints import Weights
from service.serving.inference import GELU_SCALE, Layers, NumpyNetwork
from service.spec import Activation, TrainingSpec

OPSET, IR_VERSION = 17, 8  # as old as holds the operators, for whatever reads it
MAX_PARAMETERS = 500_000_000  # a protocol buffer holds 2 GiB


class TooLarge(ValueError):
    """No ONNX file holds such a network."""


class _Graph:
    """Nodes in the order in which they run, and the constants that they take."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def then(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """The name of what a further node gives."""
        name = to or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def to_onnx(weights: Weights, *, temperature: float = 1.0, facts: Mapping[str, str] | None = None) -> bytes:
    """The ONNX model of a weights file: `pixels` float32 (n, 784) from 0 to 255 to `logits` and `probabilities`,
    (n, classes); of a regression `features` to `outputs`. Logits are divided by `temperature` before they become
    probabilities. `facts` go along as metadata. The same arguments give the same bytes. Raises TooLarge."""
    spec = weights.spec
    if spec.parameter_count > MAX_PARAMETERS:
        raise TooLarge(
            f"{spec.parameter_count:,} parameters are over the {MAX_PARAMETERS:,} that a file holds"
        )
    classifies = spec.task_name == "classification"
    given, told = ("pixels", ["logits", "probabilities"]) if classifies else ("features", ["outputs"])
    graph = _Graph()
    _answered(graph, NumpyNetwork(spec, weights.arrays).layers, spec, given, told[0])
    if classifies:
        softened = graph.then("Div", told[0], graph.constant(temperature))
        graph.then("Softmax", softened, to=told[1], axis=1)
    inputs, *_, outputs = spec.layer_widths
    made = helper.make_graph(
        graph.nodes,
        "numeral",
        [_value(given, inputs)],
        [_value(name, outputs) for name in told],
        graph.constants,
    )
    return _file(made, facts or {})


def _answered(graph: _Graph, networks: Iterable[Layers], spec: TrainingSpec, given: str, to: str) -> None:
    """Logits, or a regression's outputs; a committee's are the mean of its members' after log-softmax."""
    networks = list(networks)
    if len(networks) == 1:
        _forward(graph, networks[0], spec.network.activation, given, to)
        return
    told = [
        graph.then("LogSoftmax", _forward(graph, layers, spec.network.activation, given, None), axis=1)
        for layers in networks
    ]
    graph.then("Mean", *told, to=to)


def _forward(graph: _Graph, layers: Layers, activation: Activation, value: str, to: str | None) -> str:
    *hidden, last = layers
    for weight, bias in hidden:
        summed = graph.then("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1)
        value = ACTIVATIONS[activation](graph, summed)
    weight, bias = last
    return graph.then("Gemm", value, graph.constant(weight), graph.constant(bias), to=to, transB=1)


def _scaled_tanh(graph: _Graph, value: str) -> str:
    bent = graph.then("Tanh", graph.then("Mul", value, graph.constant(0.6666)))
    return graph.then("Mul", bent, graph.constant(1.7159))


def _gelu(graph: _Graph, value: str) -> str:
    """In its tanh form, of operators that every version has."""
    cube = graph.then("Mul", graph.then("Mul", value, value), value)
    inner = graph.then("Add", value, graph.then("Mul", cube, graph.constant(0.044715)))
    bent = graph.then("Tanh", graph.then("Mul", inner, graph.constant(GELU_SCALE)))
    half = graph.then("Mul", value, graph.constant(0.5))
    return graph.then("Mul", half, graph.then("Add", bent, graph.constant(1)))


ACTIVATIONS: dict[Activation, Callable[[_Graph, str], str]] = {
    "relu": lambda graph, value: graph.then("Relu", value),
    "leaky_relu": lambda graph, value: graph.then("LeakyRelu", value, alpha=0.01),
    "tanh": lambda graph, value: graph.then("Tanh", value),
    "scaled_tanh": _scaled_tanh,
    "sigmoid": lambda graph, value: graph.then("Sigmoid", value),
    "gelu": _gelu,
    "silu": lambda graph, value: graph.then("Mul", value, graph.then("Sigmoid", value)),
    "identity": lambda graph, value: graph.then("Identity", value),
}


def _value(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])


def _file(graph: Any, facts: Mapping[str, str]) -> bytes:
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="numeral",
    )
    for key, value in sorted(facts.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
