"""A dataset that somebody uploaded: images with their labels, to train on and to test with, as bytes that say what they
are. Equal content gives equal bytes, so that their SHA-256 is its name."""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

KEY, FORMAT = "numeral", "dataset 1"
CLASSES = 10


class Malformed(Exception):
    """The bytes or the arrays are no dataset; says why."""


@dataclass(frozen=True, eq=False)
class Uploaded:
    """Images as uint8 (n, 784), white ink on black, and labels from 0 to 9 as int64 (n,); to test with perhaps none."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    @classmethod
    def of(
        cls, train: tuple[NDArray[Any], NDArray[Any]], test: tuple[NDArray[Any], NDArray[Any]] | None = None
    ) -> Self:
        """From images and labels. Raises Malformed."""
        parts = {"train": train, "test": (train[0][:0], train[1][:0]) if test is None else test}
        for name, (images, labels) in parts.items():
            if len(images) != len(labels):
                raise Malformed(
                    f"{name} has {len(images):,} images and {len(labels):,} labels: give one for each"
                )
            if len(labels) and not 0 <= labels.min() <= labels.max() < CLASSES:
                wrong = labels[(labels < 0) | (labels >= CLASSES)][0]
                raise Malformed(f"{name} has the label {wrong}: they are 0 to {CLASSES - 1}")
        if len(train[0]) == 0:
            raise Malformed("there is nothing to train on: give at least one image for it")
        return cls(
            *(
                part.astype(kind)
                for name in parts
                for part, kind in zip(parts[name], (np.uint8, np.int64), strict=True)
            )
        )

    @cached_property
    def bytes(self) -> bytes:
        """As they are stored."""
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        labels = {name: array.astype(np.uint8) for name, array in arrays.items() if name.endswith("labels")}
        ordered = {name: np.ascontiguousarray(array) for name, array in sorted((arrays | labels).items())}
        return safetensors.numpy.save(ordered, {KEY: FORMAT})

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes).hexdigest()

    @property
    def classes(self) -> dict[str, list[int]]:
        """How many examples of each label there are."""
        return {
            "train": np.bincount(self.train_labels, minlength=CLASSES).tolist(),
            "test": np.bincount(self.test_labels, minlength=CLASSES).tolist(),
        }


def decode(data: bytes) -> Uploaded:
    """The dataset of `Uploaded.bytes`. Raises Malformed."""
    try:
        arrays = safetensors.numpy.load(data)
        parts = [(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test")]
    except (safetensors.SafetensorError, KeyError) as error:
        raise Malformed(f"this is not a stored dataset: {error}") from error
    return Uploaded.of(*((images, labels.astype(np.int64)) for images, labels in parts))
