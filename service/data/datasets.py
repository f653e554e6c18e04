"""Datasets as arrays: `load` takes the files of a dataset, or draws the simulated one, and splits it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.catalog import DatasetName
from service.data import simulated
from service.data.sources import decode, fetch
from service.spec import DatasetSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """What a job learns from, in read-only arrays.

    A classification has images as uint8 (n, 784), white ink on black, and labels as int64 (n,); a
    regression has both as float32 (n, 1). `sha256` identifies the data: for files see
    `sources.Fetched.digest`, for `simulated` it is taken over the bytes of the drawn arrays, little-endian,
    before the split.
    """

    name: DatasetName
    train_inputs: Array
    train_targets: Array
    validation_inputs: Array
    validation_targets: Array
    test_inputs: Array
    test_targets: Array
    sha256: str


def load(spec: DatasetSpec, *, cache_dir: Path, data_dir: Path | None) -> Dataset:
    """The dataset of a spec: its first `examples` training examples, of which `validation` are held out.

    Those held out are chosen by `numpy.random.default_rng(split_seed)`; both parts keep their order. Test
    examples are never touched by a spec. For `simulated` the test set is the lecture's grid with the true
    function and no noise, so that a test loss is the squared distance from the truth. Raises
    sources.DatasetUnavailable.
    """
    if spec.name == "simulated":
        inputs, targets, test_inputs, test_targets = drawn = _simulated(spec)
        digest = hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in drawn)).hexdigest()
    else:
        fetched = fetch(spec.name, cache_dir=cache_dir, data_dir=data_dir)
        inputs, targets, test_inputs, test_targets = (
            file.values for file in decode(spec.name, fetched.files)
        )
        digest = fetched.digest
    return Dataset(
        spec.name,
        *_split(inputs[: spec.total_examples], targets[: spec.total_examples], spec),
        test_inputs,
        test_targets,
        digest,
    )


def held_out(spec: DatasetSpec) -> NDArray[np.bool_]:
    """Which of the training examples are held out for validation, (total_examples,)."""
    held = np.zeros(spec.total_examples, dtype=np.bool_)
    shuffled = np.random.default_rng(spec.split_seed).permutation(spec.total_examples)
    held[shuffled[: spec.validation]] = True
    return held


def _simulated(spec: DatasetSpec) -> tuple[Array, Array, Array, Array]:
    x, y = simulated.simulate(spec.total_examples, spec.noise_deviation, seed=spec.draw_seed or 0)
    grid = simulated.grid()
    parts = [_frozen(part.astype(np.float32)) for part in (x, y, grid, simulated.true_function(grid))]
    return parts[0], parts[1], parts[2], parts[3]


def _split(inputs: Array, targets: Array, spec: DatasetSpec) -> tuple[Array, Array, Array, Array]:
    if not spec.validation:
        return inputs, targets, inputs[:0], targets[:0]
    held = held_out(spec)
    parts = inputs[~held], targets[~held], inputs[held], targets[held]
    return _frozen(parts[0]), _frozen(parts[1]), _frozen(parts[2]), _frozen(parts[3])


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array
