from typing import Any, get_args

import numpy as np
import pytest
import torch

from service import checkpoints, network
from service.serving.explanation import DERIVATIVES, explained
from service.serving.inference import ACTIVATIONS, NumpyNetwork
from service.spec import Activation, TrainingSpec

IMAGE = np.random.default_rng(1).integers(0, 256, 784, dtype=np.uint8)


def pair(**fields: Any) -> tuple[network.MultiLayerPerceptron, NumpyNetwork]:
    spec = TrainingSpec.model_validate(fields)
    built = network.build(spec).eval()
    return built, NumpyNetwork(spec, network.arrays_of(built))


@pytest.mark.parametrize("activation", get_args(Activation))
def test_saliency_is_the_gradient_that_torch_finds(activation: str) -> None:
    built, ours = pair(network={"hidden_widths": [30, 20], "activation": activation}, seed=4)
    inputs = torch.from_numpy(IMAGE[np.newaxis].astype(np.float32)).requires_grad_()
    for label in (None, 3):
        found = explained(ours, IMAGE, label)
        logarithm = torch.log_softmax(built(inputs), dim=1)[0, found.label]
        torch_saliency = 255 * torch.autograd.grad(logarithm, inputs)[0][0].numpy()
        np.testing.assert_allclose(found.saliency, torch_saliency, rtol=2e-3, atol=2e-4)
    assert explained(ours, IMAGE).label == ours.logits(IMAGE[np.newaxis])[0].argmax()


def test_hidden_layers_are_what_the_network_computes() -> None:
    _, ours = pair(network={"hidden_widths": [30, 20], "activation": "tanh"}, seed=4)
    first, second = explained(ours, IMAGE).hidden
    assert (len(first), len(second)) == (30, 20)
    weight, bias = ours.layers[0][-1]
    np.testing.assert_allclose(weight @ second + bias, ours.logits(IMAGE[np.newaxis])[0], atol=1e-4)
    assert abs(second).max() <= 1


def test_without_hidden_layers_the_gradient_is_a_row_of_weights_less_their_mean() -> None:
    _, ours = pair(network={"hidden_widths": []}, seed=4)
    found = explained(ours, IMAGE, 7)
    weight, _ = ours.layers[0][0]
    np.testing.assert_allclose(found.saliency, 255 * (weight[7] - found.probabilities @ weight), atol=1e-5)
    assert found.hidden == []


def test_a_committee_is_explained_as_a_whole() -> None:
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": [12]}, "committee": {"members": 3}})
    generator = np.random.default_rng(2)
    arrays = {
        name: generator.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in checkpoints.shapes(spec).items()
    }
    for name in arrays:
        if name.endswith("input.mean"):
            arrays[name][:] = 0
        if name.endswith("input.std"):
            arrays[name][:] = 1
    ours = NumpyNetwork(spec, arrays)
    found = explained(ours, IMAGE, 2)
    pixel = int(abs(found.saliency).argmax())
    changed = np.repeat(IMAGE[np.newaxis].astype(np.float64), 2, axis=0)
    changed[:, pixel] += (-2, 2)
    low, high = np.log(ours.probabilities(changed)[:, 2].astype(np.float64))
    assert found.saliency[pixel] / 255 == pytest.approx((high - low) / 4, rel=0.05)


def test_every_activation_has_its_derivative() -> None:
    assert DERIVATIVES.keys() == ACTIVATIONS.keys()
