"""Datasets as arrays: `load` takes the files of a dataset, or draws the simulated one, adds what was uploaded, and
splits it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.catalog import UPLOADED, DatasetName
from service.data import simulated
from service.data.sources import decode, fetch
from service.data.uploaded import Uploaded
from service.errors import Conflict
from service.spec import DatasetSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """What a job learns from, in read-only arrays.

    A classification has images as uint8 (n, 784), white ink on black, and labels as int64 (n,); a
    regression has both as float32 (n, 1). `sha256` identifies the data: for files see
    `sources.Fetched.digest`, for `simulated` it is taken over the bytes of the drawn arrays, little-endian,
    before the split; uploads go into it by theirs, see `digest_with`.
    """

    name: DatasetName
    train_inputs: Array
    train_targets: Array
    validation_inputs: Array
    validation_targets: Array
    test_inputs: Array
    test_targets: Array
    sha256: str


class WrongUploads(Conflict):
    """What is at hand is not what the spec was made for."""

    code = "wrong_uploads"


def load(
    spec: DatasetSpec, *, cache_dir: Path, data_dir: Path | None, uploads: Sequence[Uploaded] = ()
) -> Dataset:
    """The dataset of a spec: its first `examples` training examples, of which `validation` are held out, and those of
    `uploads`, which must be what the spec names. Where they lie is the caller's concern.

    Those held out are chosen by `numpy.random.default_rng(split_seed)`; both parts keep their order. Test
    examples are never touched by a spec. For `simulated` the test set is the lecture's grid with the true
    function and no noise, so that a test loss is the squared distance from the truth. Raises
    sources.DatasetUnavailable, and WrongUploads.
    """
    if [one.sha256 for one in uploads] != [one.sha256 for one in spec.uploads]:
        raise WrongUploads(
            f"the spec is for {', '.join(one.id for one in spec.uploads) or 'no uploads'}, and what came with it differs: "
            "train where the service keeps them"
        )
    if spec.name == "simulated":
        inputs, targets, test_inputs, test_targets = drawn = _simulated(spec)
        digest = hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in drawn)).hexdigest()
    elif spec.name == UPLOADED:
        inputs = targets = test_inputs = test_targets = np.empty(0)
        digest = ""
    else:
        fetched = fetch(spec.name, cache_dir=cache_dir, data_dir=data_dir)
        inputs, targets, test_inputs, test_targets = (
            file.values for file in decode(spec.name, fetched.files)
        )
        digest = fetched.digest
    inputs, targets = inputs[: spec.own_examples], targets[: spec.own_examples]
    if uploads:
        own = spec.own_examples > 0
        inputs = _joined([*([inputs] if own else []), *(one.train_images for one in uploads)])
        targets = _joined([*([targets] if own else []), *(one.train_labels for one in uploads)])
    if spec.name == UPLOADED:
        test_inputs = _joined([one.test_images for one in uploads])
        test_targets = _joined([one.test_labels for one in uploads])
    digest = digest_with(digest, spec)
    return Dataset(spec.name, *_split(inputs, targets, spec), test_inputs, test_targets, digest)


def digest_with(own: str, spec: DatasetSpec) -> str:
    """The digest of a dataset with the spec's uploads, from that without."""
    if not spec.uploads:
        return own
    lines = [own, *(one.sha256 for one in spec.uploads)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def held_out(spec: DatasetSpec) -> NDArray[np.bool_]:
    """Which of the training examples are held out for validation, (total_examples,)."""
    held = np.zeros(spec.total_examples, dtype=np.bool_)
    shuffled = np.random.default_rng(spec.split_seed).permutation(spec.split_examples)
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


def _joined(parts: Sequence[Array]) -> Array:
    return _frozen(np.concatenate(parts))


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array
