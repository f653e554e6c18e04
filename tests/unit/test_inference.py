import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
import torch

from service import checkpoints, network
from service.checkpoints import Snapshot
from service.serving import inference
from service.serving.accelerated import AcceleratedNetwork
from service.serving.inference import NumpyNetwork
from service.spec import Activation, TrainingSpec

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 784), dtype=np.uint8)


def pair(train_inputs: Any = None, **fields: Any) -> tuple[network.MultiLayerPerceptron, NumpyNetwork]:
    spec = TrainingSpec.model_validate(fields)
    built = network.build(spec, train_inputs).eval()
    snapshot = Snapshot(0, 0.0, network.arrays_of(built), {}, {})
    data = checkpoints.encode_weights(snapshot, spec, preprocessing="1")
    return built, NumpyNetwork.from_checkpoint(data)


@torch.no_grad()
def expected(built: network.MultiLayerPerceptron, inputs: Any) -> Any:
    return built(torch.from_numpy(inputs)).numpy()


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("normalization", ["none", "symmetric", "standardize"])
def test_it_agrees_with_torch(activation: str, normalization: str) -> None:
    settings = {
        "hidden_widths": [60, 40, 20],
        "activation": activation,
        "input_normalization": normalization,
    }
    built, numpy_network = pair(IMAGES, network=settings)
    logits = numpy_network.logits(IMAGES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(built, IMAGES), rtol=0, atol=1e-5)
    probabilities = torch.softmax(torch.from_numpy(expected(built, IMAGES)), 1).numpy()
    np.testing.assert_allclose(numpy_network.probabilities(IMAGES), probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_activations_agree_with_torch_far_out(activation: Activation) -> None:
    values = np.concatenate([np.linspace(-200, 200, 4001), np.linspace(-3, 3, 601)]).astype(np.float32)
    found = inference.ACTIVATIONS[activation](values)
    wanted = network.ACTIVATIONS[activation](torch.from_numpy(values)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_linear_model_and_a_regression() -> None:
    built, numpy_network = pair(network={"hidden_widths": []})
    np.testing.assert_allclose(numpy_network.logits(IMAGES), expected(built, IMAGES), rtol=0, atol=1e-5)
    features = np.random.default_rng(1).uniform(0, 3, (50, 1)).astype(np.float32)
    built, numpy_network = pair(features, dataset={"name": "simulated"}, network={"hidden_widths": [9]})
    np.testing.assert_allclose(numpy_network.logits(features), expected(built, features), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="regression"):
        numpy_network.probabilities(features)


def test_a_committee_answers_by_the_mean_of_its_members_log_probabilities() -> None:
    spec = TrainingSpec.model_validate({"committee": {"members": 3}, "network": {"hidden_widths": [30]}})
    members = [network.build(one).eval() for one in spec.networks]
    arrays = checkpoints.of_members(map(network.arrays_of, members))
    data = checkpoints.encode_weights(Snapshot(0, 0.0, arrays, {}, {}), spec, preprocessing="1")
    rebuilt, served = network.rebuild(data), NumpyNetwork.from_checkpoint(data)
    assert isinstance(rebuilt, network.Committee)
    assert {name: array.shape for name, array in arrays.items()} == checkpoints.shapes(spec)
    assert network.parameter_count(rebuilt) == spec.parameter_count
    with torch.no_grad():
        logits = rebuilt(torch.from_numpy(IMAGES))
    wanted = np.mean([np.log(softmax64(expected(one, IMAGES))) for one in members], axis=0)
    np.testing.assert_allclose(logits.numpy(), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(served.logits(IMAGES), logits.numpy(), rtol=0, atol=1e-5)
    accelerated = AcceleratedNetwork(spec, arrays, "cpu")
    np.testing.assert_allclose(accelerated.logits(IMAGES), logits.numpy(), rtol=0, atol=1e-5)
    assert accelerated.logits(IMAGES[:0]).shape == (0, 10)
    np.testing.assert_allclose(served.probabilities(IMAGES), softmax64(wanted), rtol=0, atol=1e-5)
    first = checkpoints.decode_weights(data).first_layer
    np.testing.assert_array_equal(first, network.arrays_of(members[0])["layers.0.weight"])


def softmax64(logits: Any) -> Any:
    exponentials = np.exp(np.asarray(logits, np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_a_logarithm_of_nearly_nothing_is_finite() -> None:
    found = inference.log_softmax(np.array([[200, 0, -1e5]], np.float32))
    np.testing.assert_allclose(found, np.array([[0, -200, -100_200]], np.float32), rtol=1e-6)


def test_floats_are_on_the_scale_of_bytes_and_chunks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    _, numpy_network = pair()
    whole = numpy_network.logits(IMAGES)
    monkeypatch.setattr(inference, "CHUNK", 10)
    np.testing.assert_allclose(numpy_network.logits(IMAGES.astype(np.float64)), whole, rtol=0, atol=1e-5)
    assert numpy_network.logits(IMAGES[:0]).shape == (0, 10)


@pytest.mark.parametrize("shape", [(784,), (1, 28, 28), (2, 783)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    _, numpy_network = pair()
    with pytest.raises(ValueError, match="expected"):
        numpy_network.logits(np.zeros(shape))


def test_probabilities_of_huge_logits_do_not_overflow() -> None:
    found = inference.softmax(np.array([[1e30, 0, -1e30], [5, 5, 5]], np.float32))
    np.testing.assert_allclose(found, np.array([[1, 0, 0], [1 / 3] * 3], np.float32), rtol=1e-6)


def test_torch_is_not_imported() -> None:
    code = "import sys, service.serving.inference, service.checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
