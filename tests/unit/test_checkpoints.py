import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from service import checkpoints
from service.checkpoints import CorruptCheckpoint, Snapshot
from service.spec import TrainingSpec

SPEC = TrainingSpec.model_validate({"network": {"hidden_widths": [5]}, "seed": 7})


def snapshot(step: int = 3) -> Snapshot:
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in checkpoints.shapes(SPEC).items()
    }
    state = {"optimizer.0.exp_avg": np.ones((5, 784), np.float32), "optimizer.0.step": np.array(3.0)}
    return Snapshot(step, 0.5, weights, state, {"loss": 1.25, "outcome": None})


def weights_bytes() -> bytes:
    return checkpoints.encode_weights(snapshot(), SPEC, preprocessing="digits-1")


def equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_arrays_of_every_shape_and_order_come_back() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10, dtype=np.int64)[::3],
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.uint8),
    }
    decoded, metadata = checkpoints.decode(checkpoints.encode(arrays, {"a": [1, "é"]}))
    assert metadata == {"a": [1, "é"]}
    assert equal(decoded, arrays)
    assert {name: array.dtype for name, array in decoded.items()} == {
        name: array.dtype for name, array in arrays.items()
    }


def test_equal_content_gives_equal_bytes() -> None:
    one, two = np.ones(3, np.float32), np.zeros(2, np.float32)
    first = checkpoints.encode({"a": one, "b": two}, {"x": 1, "y": 2})
    assert first == checkpoints.encode({"b": two, "a": one}, {"y": 2, "x": 1})
    assert checkpoints.sha256(first) != checkpoints.sha256(checkpoints.encode({"a": one}, {}))


def test_metadata_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        checkpoints.encode({}, {"loss": float("nan")})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 20,
        b"not a checkpoint at all",
        weights_bytes()[:-1],
        weights_bytes() + b"x",
        safetensors.numpy.save({"a": np.ones(2)}),
        safetensors.numpy.save({"a": np.ones(2)}, {"numeral": "{"}),
        safetensors.numpy.save({"a": np.ones(2)}, {"numeral": "[]"}),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpoint):
        checkpoints.decode_weights(data)


def test_a_weights_file_holds_its_spec() -> None:
    spec, arrays, metadata = checkpoints.decode_weights(weights_bytes())
    assert spec == SPEC
    assert equal(arrays, snapshot().weights)
    assert metadata == {
        "format": 1,
        "kind": "weights",
        "spec": json.loads(SPEC.canonical_json()),
        "step": 3,
        "epoch": 0.5,
        "preprocessing": "digits-1",
    }


@pytest.mark.parametrize(
    ("arrays", "changed"),
    [
        ({"layers.0.weight": np.zeros((784, 5), np.float32)}, {}),
        ({"layers.1.bias": np.zeros(10)}, {}),
        ({"layers.2.bias": np.zeros(10, np.float32)}, {}),
        ({}, {"kind": "state"}),
        ({}, {"format": 2}),
        ({}, {"spec": {"epochs": 0}}),
        ({}, {"spec": None}),
        ({}, {"step": None}),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    arrays: dict[str, NDArray[Any]], changed: dict[str, Any]
) -> None:
    _, metadata = checkpoints.decode(weights_bytes())
    data = checkpoints.encode({**snapshot().weights, **arrays}, {**metadata, **changed})
    with pytest.raises(CorruptCheckpoint):
        checkpoints.decode_weights(data)


def test_a_snapshot_comes_back_from_its_two_files() -> None:
    weights = weights_bytes()
    state = checkpoints.encode_state(snapshot(), SPEC, weights_sha256=checkpoints.sha256(weights))
    found, wanted = checkpoints.decode_snapshot(weights, state), snapshot()
    assert (found.step, found.epoch, found.progress) == (wanted.step, wanted.epoch, wanted.progress)
    assert equal(found.weights, wanted.weights)
    assert equal(found.state, wanted.state)


def test_a_state_of_other_weights_is_refused() -> None:
    state = checkpoints.encode_state(snapshot(), SPEC, weights_sha256="0" * 64)
    with pytest.raises(CorruptCheckpoint, match="other weights"):
        checkpoints.decode_snapshot(weights_bytes(), state)
