"""Checkpoints: safetensors bytes in and out, and their hashes. A weights file alone rebuilds the model.

A file's facts are canonical JSON under the one safetensors metadata key `numeral`: the library orders
several keys at random, and equal content must give equal bytes. No torch here, and no pickle anywhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from service.spec import TrainingSpec

FORMAT = 1
KEY = "numeral"

Arrays = Mapping[str, NDArray[Any]]


class CorruptCheckpoint(ValueError):
    """The bytes are not a checkpoint of ours, or are damaged."""


@dataclass(frozen=True)
class Snapshot:
    """A run at one step: the weights, and what else an exact resume needs.

    `weights` are those that were evaluated, named as in `shapes`, float32. `state` holds the optimiser's arrays
    (`optimizer.{parameter}.{key}`), the weights in training and their average where they are others (`trained.{name}`,
    `average.{name}`) and the best weights of early stopping (`best.{name}`). `progress` is
    JSON: the newest loss, early stopping's counters, the outcome. Random generators are not in it: each
    draw is a pure function of the seed and the step.
    """

    step: int
    epoch: float
    weights: Arrays
    state: Arrays
    progress: Mapping[str, Any]


class Weights(NamedTuple):
    """What a weights file holds."""

    spec: TrainingSpec
    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, Any]

    @property
    def first_layer(self) -> NDArray[np.float32]:
        """Weights (units, inputs) of the network's first layer; of a committee, of its first member's."""
        return of_network(self.arrays, self.spec, 0)["layers.0.weight"]


def encode(arrays: Arrays, metadata: Mapping[str, Any]) -> bytes:
    """Safetensors bytes of `arrays` and JSON-able `metadata`; the same content gives the same bytes.
    Raises ValueError for metadata that JSON cannot hold, NaN and infinity included."""
    # safetensors writes the raw buffer, so another memory order would come back scrambled
    tensors = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return safetensors.numpy.save(tensors, {KEY: text})


def decode(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and metadata of `encode`. Raises CorruptCheckpoint for anything else."""
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"this is not a readable checkpoint: {error}") from error
    if not isinstance(metadata, dict):
        raise CorruptCheckpoint("the checkpoint's metadata is not a JSON object")
    return arrays, metadata


def sha256(data: bytes) -> str:
    """SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def shapes(spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every float32 array of a weights file: `layers.{i}.weight` (out, in),
    `layers.{i}.bias` (out,), and `input.mean` and `input.std`, (1,) for images on the [0, 1] pixel scale
    or (d,) for a regression's features; of a committee `members.{i}.{name}` for each of its networks."""
    features = 1 if spec.task_name == "classification" else spec.layer_widths[0]
    found: dict[str, tuple[int, ...]] = {"input.mean": (features,), "input.std": (features,)}
    for index, (inputs, outputs) in enumerate(pairwise(spec.layer_widths)):
        found[f"layers.{index}.weight"] = (outputs, inputs)
        found[f"layers.{index}.bias"] = (outputs,)
    if spec.committee is None:
        return found
    return {
        f"{_member(index)}{name}": shape
        for index in range(spec.network_count)
        for name, shape in found.items()
    }


def of_network(arrays: Arrays, spec: TrainingSpec, index: int) -> Arrays:
    """Of a file's arrays, weights or state, those of `spec.networks[index]`, by the names that they have in a
    file of that network alone."""
    if spec.committee is None:
        return arrays
    prefix = _member(index)
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def of_members(members: Iterable[Arrays]) -> Arrays:
    """The arrays of a committee's file from those of each member, as `of_network` gives them back."""
    return {
        f"{_member(index)}{name}": array
        for index, arrays in enumerate(members)
        for name, array in arrays.items()
    }


def _member(index: int) -> str:
    return f"members.{index}."


def encode_weights(snapshot: Snapshot, spec: TrainingSpec, *, preprocessing: str) -> bytes:
    """A weights file. `preprocessing` is the version of what turns an upload into the network's input."""
    return encode(snapshot.weights, {**_facts("weights", snapshot, spec), "preprocessing": preprocessing})


def decode_weights(data: bytes) -> Weights:
    """Spec, arrays and metadata of a weights file. Raises CorruptCheckpoint, also when an array is
    missing, left over, or of another shape or dtype than the spec asks for."""
    arrays, metadata = decode(data)
    _require("weights", metadata)
    spec = _spec_of(metadata)
    expected = shapes(spec)
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise CorruptCheckpoint("the checkpoint's arrays do not have the names and shapes of its spec")
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise CorruptCheckpoint("the checkpoint's weights are not float32")
    return Weights(spec, arrays, metadata)


def encode_state(snapshot: Snapshot, spec: TrainingSpec, *, weights_sha256: str) -> bytes:
    """A resumable state file: what `decode_snapshot` needs beside the weights file of that hash."""
    facts = _facts("state", snapshot, spec)
    return encode(
        snapshot.state, {**facts, "progress": dict(snapshot.progress), "weights_sha256": weights_sha256}
    )


def decode_snapshot(weights: bytes, state: bytes) -> Snapshot:
    """The snapshot of a weights file and its state file. Raises CorruptCheckpoint, also when the two do
    not belong together."""
    model = decode_weights(weights)
    arrays, metadata = decode(state)
    _require("state", metadata)
    if metadata.get("weights_sha256") != sha256(weights):
        raise CorruptCheckpoint("the state belongs to other weights")
    return Snapshot(metadata["step"], metadata["epoch"], model.arrays, arrays, metadata.get("progress", {}))


def _facts(kind: str, snapshot: Snapshot, spec: TrainingSpec) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "spec": json.loads(spec.canonical_json()),
        "step": snapshot.step,
        "epoch": snapshot.epoch,
    }


def _require(kind: str, metadata: Mapping[str, Any]) -> None:
    if metadata.get("format") != FORMAT:
        raise CorruptCheckpoint(
            f"format {metadata.get('format')!r} is not read here: this is format {FORMAT}"
        )
    if metadata.get("kind") != kind:
        raise CorruptCheckpoint(f"this is a {metadata.get('kind')!r} file, not {kind!r}")
    if not isinstance(metadata.get("step"), int) or not isinstance(metadata.get("epoch"), int | float):
        raise CorruptCheckpoint("the checkpoint does not say of which step and epoch it is")


def _spec_of(metadata: Mapping[str, Any]) -> TrainingSpec:
    try:
        return TrainingSpec.model_validate(metadata["spec"])
    except (KeyError, ValidationError) as error:
        raise CorruptCheckpoint("the checkpoint's spec is missing or not valid") from error
