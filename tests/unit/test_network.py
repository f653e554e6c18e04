import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service import checkpoints, network
from service.checkpoints import Snapshot
from service.seeds import derived_seed
from service.spec import TrainingSpec


def spec_of(**fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate(fields)


def wide(initializer: str, **fields: Any) -> torch.Tensor:
    built = network.build(spec_of(network={"hidden_widths": [400], "initializer": initializer, **fields}))
    layer = built.layers[0]
    assert isinstance(layer, nn.Linear)
    assert not layer.bias.any()
    return layer.weight.detach()


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.integers(1, 60), max_size=6), name=st.sampled_from(["mnist", "simulated"]))
def test_the_spec_counts_the_parameters_of_the_network(widths: list[int], name: str) -> None:
    spec = spec_of(dataset={"name": name}, network={"hidden_widths": widths}, batch_size="full")
    assert network.parameter_count(network.build(spec)) == spec.parameter_count


def test_arrays_have_the_names_and_shapes_of_a_checkpoint() -> None:
    for name in ("mnist", "simulated"):
        spec = spec_of(dataset={"name": name}, network={"hidden_widths": [7, 3]})
        arrays = network.arrays_of(network.build(spec))
        assert {key: array.shape for key, array in arrays.items()} == checkpoints.shapes(spec)
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_the_seed_alone_decides_the_first_weights() -> None:
    torch.manual_seed(1)
    first = network.arrays_of(network.build(spec_of(seed=5)))
    torch.manual_seed(2)
    again = network.arrays_of(network.build(spec_of(seed=5)))
    other = network.arrays_of(network.build(spec_of(seed=5 + 2**32)))  # torch's generator sees 32 bits
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["layers.0.weight"], other["layers.0.weight"])


def test_derived_seeds_differ_by_purpose_and_count() -> None:
    drawn = {
        derived_seed(seed, purpose, count)
        for seed, purpose, count in itertools.product(range(20), ("order", "dropout"), range(20))
    }
    assert len(drawn) == 800
    assert all(0 <= seed < 2**63 for seed in drawn)


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        ("glorot_uniform", math.sqrt(6 / (784 + 400))),
        ("kaiming_uniform", math.sqrt(6 / 784)),
        ("uniform", 0.05),
    ],
)
def test_uniform_initializers(initializer: str, bound: float) -> None:
    weight = wide(initializer)
    assert 0.999 * bound < weight.abs().max().item() <= bound
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * bound)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [
        ("glorot_normal", math.sqrt(2 / (784 + 400))),
        ("kaiming_normal", math.sqrt(2 / 784)),
        ("normal", 0.05),
    ],
)
def test_normal_initializers(initializer: str, deviation: float) -> None:
    weight = wide(initializer)
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * deviation)
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    share = (weight.abs() < deviation).float().mean().item()
    assert share == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)


def test_initializer_scale() -> None:
    assert wide("uniform", initializer_scale=0.2).abs().max().item() == pytest.approx(0.2, rel=0.001)
    assert wide("normal", initializer_scale=0.2).std().item() == pytest.approx(0.2, rel=0.01)


def test_orthogonal_rows() -> None:
    weight = wide("orthogonal")
    torch.testing.assert_close(weight @ weight.T, torch.eye(400), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("activation", "at_two", "at_minus_one"),
    [
        ("relu", 2, 0),
        ("leaky_relu", 2, -0.01),
        ("tanh", math.tanh(2), math.tanh(-1)),
        ("scaled_tanh", 1.7159 * math.tanh(1.3332), 1.7159 * math.tanh(-0.6666)),
        ("sigmoid", 1 / (1 + math.exp(-2)), 1 / (1 + math.e)),
        ("gelu", 1.954597694, -0.158808009),
        ("silu", 2 / (1 + math.exp(-2)), -1 / (1 + math.e)),
        ("identity", 2, -1),
    ],
)
def test_activations(activation: Any, at_two: float, at_minus_one: float) -> None:
    values = network.ACTIVATIONS[activation](torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(values, torch.tensor([at_two, at_minus_one], dtype=torch.float32))


IMAGES = np.random.default_rng(0).integers(0, 256, (300, 784), dtype=np.uint8)


def normalized(kind: str, images: Any = IMAGES) -> torch.Tensor:
    built = network.build(spec_of(network={"input_normalization": kind}), images)
    return built.normalize(torch.from_numpy(images))


def test_normalization_of_images() -> None:
    unit = torch.from_numpy(IMAGES).float() / 255
    torch.testing.assert_close(normalized("none"), unit, rtol=0, atol=0)
    torch.testing.assert_close(normalized("auto"), unit, rtol=0, atol=0)
    torch.testing.assert_close(normalized("symmetric"), 2 * unit - 1)
    standard = normalized("standardize")
    assert standard.mean().item() == pytest.approx(0, abs=1e-4)
    assert standard.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_float_pixels_are_on_the_same_scale_as_bytes() -> None:
    built = network.build(spec_of())
    torch.testing.assert_close(built(torch.from_numpy(IMAGES)), built(torch.from_numpy(IMAGES).float()))


def test_normalization_of_features_is_that_of_flux() -> None:
    features = np.random.default_rng(0).uniform(0, math.pi, (500, 1)).astype(np.float32)
    built = network.build(spec_of(dataset={"name": "simulated"}), features)
    expected = (features - features.mean()) / (features.std() + 1e-5)
    torch.testing.assert_close(built.normalize(torch.from_numpy(features)), torch.from_numpy(expected))


@pytest.mark.parametrize("value", [0.1, 0.0])
def test_a_constant_feature_is_not_divided_by_zero(value: float) -> None:
    features = np.full((50, 1), value, np.float32)
    built = network.build(spec_of(dataset={"name": "simulated"}), features)
    assert built.normalize(torch.from_numpy(features)).abs().max().item() < 1e-6
    assert built.input.std.tolist() == [1]
    assert torch.isfinite(normalized("standardize", np.full((9, 784), 3, np.uint8))).all()


def test_dropout_keeps_the_mean_and_repeats_with_its_seed() -> None:
    spec = spec_of(
        network={"hidden_widths": [4000], "activation": "identity"}, regularization={"dropout": 0.4}
    )
    built = network.build(spec)
    values = torch.ones(3, 4000)
    built.seed_dropout(1)
    first = built._drop(values)
    built.seed_dropout(1)
    torch.testing.assert_close(built._drop(values), first, rtol=0, atol=0)
    assert (first == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    assert first.mean().item() == pytest.approx(1, abs=0.05)
    built.eval()
    x = torch.from_numpy(IMAGES[:4])
    torch.testing.assert_close(built(x), built(x), rtol=0, atol=0)


def test_a_checkpoint_alone_rebuilds_the_network() -> None:
    spec = spec_of(
        network={"hidden_widths": [9, 8], "activation": "gelu", "input_normalization": "standardize"}
    )
    built = network.build(spec, IMAGES).eval()
    data = checkpoints.encode_weights(
        Snapshot(0, 0.0, network.arrays_of(built), {}, {}), spec, preprocessing="1"
    )
    images = torch.from_numpy(IMAGES)
    torch.testing.assert_close(network.rebuild(data)(images), built(images), rtol=0, atol=0)
