"""An ONNX file answers as the service does."""

from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.checkpoints import Weights, shapes
from service.serving import export
from service.serving.confidence import Predicted
from service.serving.export import to_onnx
from service.serving.inference import NumpyNetwork
from service.spec import Activation, TrainingSpec

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 784)).astype(np.float32)


def weights_of(**fields: Any) -> Weights:
    spec = TrainingSpec.model_validate(fields)
    random = np.random.default_rng(1)
    arrays = {
        name: random.normal(0, (2 / shape[-1]) ** 0.5, shape).astype(np.float32)
        for name, shape in shapes(spec).items()
    }
    for name, array in arrays.items():
        if name.endswith(("input.mean", "input.std")):
            array[:] = 0.13 if name.endswith("mean") else 0.31
    return Weights(spec, arrays, {})


def ran(data: bytes, inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    answers: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: inputs})
    return answers


@pytest.mark.parametrize("activation", get_args(Activation))
def test_it_agrees_with_the_service(activation: Activation) -> None:
    weights = weights_of(network={"hidden_widths": [60, 40], "activation": activation})
    logits, _ = ran(to_onnx(weights), IMAGES)
    np.testing.assert_allclose(logits, NumpyNetwork(*weights[:2]).logits(IMAGES), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("fields", [{"network": {"hidden_widths": []}}, {"committee": {"members": 3}}])
def test_probabilities_are_calibrated(fields: dict[str, Any]) -> None:
    weights = weights_of(**fields)
    network = NumpyNetwork(*weights[:2])
    for temperature in (1.0, 2.5):
        _, probabilities = ran(to_onnx(weights, temperature=temperature), IMAGES)
        wanted = Predicted(network.logits(IMAGES) / np.float32(temperature), IMAGES, None).probabilities
        np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-5)


def test_a_regression_has_outputs() -> None:
    weights = weights_of(dataset={"name": "simulated"}, network={"hidden_widths": [9], "activation": "tanh"})
    features = np.random.default_rng(2).uniform(0, 3, (50, 1)).astype(np.float32)
    (outputs,) = ran(to_onnx(weights), features)
    np.testing.assert_allclose(outputs, NumpyNetwork(*weights[:2]).logits(features), rtol=0, atol=1e-5)


def test_equal_networks_give_equal_files_that_tell_where_they_come_from() -> None:
    weights = weights_of(network={"hidden_widths": [5]})
    facts = {"model_id": "model_1", "preprocessing": "2", "spec_sha256": weights.spec.sha256}
    data = to_onnx(weights, facts=facts)
    assert to_onnx(weights, facts=dict(reversed(facts.items()))) == data
    assert {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props} == facts


def test_what_no_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_PARAMETERS", 1000)
    with pytest.raises(export.TooLarge, match="7,850 parameters"):
        to_onnx(weights_of(network={"hidden_widths": []}))
