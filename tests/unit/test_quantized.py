"""A network of bytes answers as its float32 self does."""

from dataclasses import asdict
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.checkpoints import Arrays, shapes
from service.serving import quantized
from service.serving.inference import NumpyNetwork, layers_of
from service.serving.quantized import QuantizedNetwork, Trial
from service.spec import TrainingSpec

RANDOM = np.random.default_rng(0)


def images(count: int) -> NDArray[np.uint8]:
    ink = RANDOM.integers(0, 256, (count, 784)) * (RANDOM.random((count, 784)) < 0.2)
    return ink.astype(np.uint8)


def spec_of(**network: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"network": {"hidden_widths": [60, 40], **network}})


def arrays_of(spec: TrainingSpec) -> Arrays:
    arrays = {
        name: RANDOM.normal(0, (2 / shape[-1]) ** 0.5, shape).astype(np.float32)
        for name, shape in shapes(spec).items()
    }
    arrays["input.mean"][:], arrays["input.std"][:] = 0.13, 0.31
    return arrays


SPEC = spec_of()
ARRAYS = arrays_of(SPEC)
PEAKS = quantized.tried(SPEC, ARRAYS, images(300), images(300), np.zeros(300)).peaks


def test_logits_are_those_of_float32_but_for_the_rounding() -> None:
    pixels = images(200)
    exact = NumpyNetwork(SPEC, ARRAYS).logits(pixels)
    found = QuantizedNetwork(SPEC, ARRAYS, PEAKS).logits(pixels)
    assert found.dtype == np.float32
    assert np.abs(found - exact).mean() < 0.02 * exact.std()


def test_it_is_the_arithmetic_that_its_description_says() -> None:
    pixels = images(20)
    values, step = pixels.astype(np.int64), 1.0
    for index, (weight, bias) in enumerate(layers_of(SPEC, ARRAYS)):
        rows = np.abs(weight).max(axis=1) / 127
        sums = values @ np.rint(weight / rows[:, None]).astype(np.int64).T
        outputs = sums * (rows * step) + bias
        if index < len(PEAKS):
            step = PEAKS[index] / 255
            values = np.rint(outputs / step).clip(0, 255).astype(np.int64)
    found = QuantizedNetwork(SPEC, ARRAYS, PEAKS).logits(pixels)
    # a sum that lies between two bytes may be rounded to either
    np.testing.assert_allclose(found, outputs, atol=0.02 * outputs.std())


def test_an_answer_does_not_depend_on_the_rest_of_its_batch() -> None:
    network, pixels = QuantizedNetwork(SPEC, ARRAYS, PEAKS), images(100)
    whole = network.logits(pixels)
    for rows in (slice(0, 1), slice(40, 47), slice(99, 100)):
        np.testing.assert_array_equal(network.logits(pixels[rows]), whole[rows])


def test_floats_are_rounded_to_bytes() -> None:
    network, pixels = QuantizedNetwork(SPEC, ARRAYS, PEAKS), images(10)
    near = pixels.astype(np.float64) + RANDOM.uniform(-0.4, 0.4, pixels.shape)
    np.testing.assert_array_equal(network.logits(near.clip(0, 255)), network.logits(pixels))


def test_a_trial_says_how_it_did() -> None:
    pixels = images(400)
    labels = NumpyNetwork(SPEC, ARRAYS).logits(pixels).argmax(axis=1)
    labels[:100] = (labels[:100] + 1) % 10
    trial = quantized.tried(SPEC, ARRAYS, images(400), pixels, labels)
    assert trial.images == 400
    assert trial.exact_accuracy == 0.75
    assert trial.agreement > 0.9
    assert abs(trial.accuracy - 0.75) <= 1 - trial.agreement
    assert Trial.of(asdict(trial)) == trial


@pytest.mark.parametrize(
    ("agreement", "accuracy", "is_good"), [(0.999, 0.99, True), (0.9989, 0.99, False), (1, 0.9897, False)]
)
def test_what_is_good_enough(agreement: float, accuracy: float, is_good: bool) -> None:
    assert Trial((1.0,), 10_000, agreement, accuracy, 0.99).is_good == is_good


def test_which_networks_can_be_so() -> None:
    assert quantized.is_quantizable(SPEC)
    for other in (
        spec_of(activation="tanh"),
        spec_of(hidden_widths=[]),
        TrainingSpec.model_validate({"committee": {"members": 2}}),
        TrainingSpec.model_validate({"dataset": {"name": "simulated"}, "network": {"hidden_widths": [9]}}),
    ):
        assert not quantized.is_quantizable(other)


def test_a_dead_layer_and_weights_of_zero() -> None:
    arrays = {**ARRAYS, "layers.0.weight": np.zeros((60, 784), np.float32)}
    arrays["layers.0.bias"] = np.full(60, -1, np.float32)
    trial = quantized.tried(SPEC, arrays, images(50), images(50), np.zeros(50))
    assert trial.agreement == 1
    assert np.isfinite(QuantizedNetwork(SPEC, arrays, trial.peaks).logits(images(5))).all()


@pytest.mark.parametrize("is_signed", [True, False])
def test_the_file_is_one_that_onnx_runtime_reads_by_itself(is_signed: bool) -> None:
    data = quantized.graph(layers_of(SPEC, ARRAYS), PEAKS, is_signed=is_signed)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(uint8)", ["n", 784])
    assert (made.name, made.type, made.shape) == ("logits", "tensor(float)", ["n", 10])
    # where int8 is added exactly both are the same network; uint8 is everywhere
    if quantized.adds_exactly() or not is_signed:
        pixels = images(20)
        expected = QuantizedNetwork(SPEC, ARRAYS, PEAKS).logits(pixels)
        np.testing.assert_array_equal(session.run(None, {"pixels": pixels})[0], expected)


def test_sums_beyond_sixteen_bits_are_kept() -> None:
    """Weights of one sign and bright pixels: x86 without VNNI loses what int8 makes of them."""
    arrays = {**ARRAYS, "layers.0.weight": np.full((60, 784), 0.02, np.float32)}
    arrays["layers.0.weight"][::2] *= -1
    pixels = np.full((4, 784), 255, np.uint8)
    trial = quantized.tried(SPEC, arrays, pixels, pixels, np.zeros(4))
    exact = NumpyNetwork(SPEC, arrays).logits(pixels)
    np.testing.assert_allclose(
        QuantizedNetwork(SPEC, arrays, trial.peaks).logits(pixels), exact, rtol=0.05, atol=0.05 * exact.std()
    )
