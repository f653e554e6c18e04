"""What a network said of each test example: enough to list its mistakes and to hold it against another.

Kept beside a report as safetensors bytes. No torch here, so that the API can read them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import checkpoints
from service.checkpoints import Arrays, CorruptCheckpoint

FORMAT = 1
KIND = "answers"
PIXELS_KEPT = 2000  # misclassified examples whose images go along, those of the highest loss

_TYPES: dict[str, tuple[Any, int]] = {  # dtype and number of axes
    "log_probabilities": (np.float32, 2),
    "predicted": (np.uint8, 1),
    "targets": (np.uint8, 1),
    "kept": (np.int32, 1),
    "pixels": (np.uint8, 2),
}


@dataclass(frozen=True, eq=False)
class Answers:
    """Of n test examples of a classification, in the order of the test set.

    log_probabilities (n, classes) float32; predicted (n,) uint8, the first of the largest logits (the
    logarithm's rounding may make two of them equal); targets (n,) uint8; kept (m,) int32, which of the
    misclassified have their image here, and pixels (m, 784) uint8 are those images."""

    log_probabilities: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    targets: NDArray[np.uint8]
    kept: NDArray[np.int32]
    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether each was read right."""
        return np.equal(self.predicted, self.targets)

    @property
    def accuracy(self) -> float:
        """Share that was read right."""
        return int(self.correct.sum()) / len(self)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """(n,) probability of the predicted class."""
        return np.exp(self._picked(self.predicted))

    @cached_property
    def loss(self) -> NDArray[np.float32]:
        """(n,) cross-entropy, -log p(true class), whatever loss the network was trained with."""
        return -self._picked(self.targets)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """(n, classes)."""
        return np.exp(self.log_probabilities)

    def misclassified(self, *, true: int | None = None, predicted: int | None = None) -> NDArray[np.int64]:
        """Indices of the examples read wrong, of a true and a predicted class where given; by loss, largest
        first, and by index among equals."""
        chosen = ~self.correct
        if true is not None:
            chosen &= self.targets == true
        if predicted is not None:
            chosen &= self.predicted == predicted
        indices = np.flatnonzero(chosen)
        return indices[np.argsort(-self.loss[indices], kind="stable")]

    def pixels_of(self, index: int) -> NDArray[np.uint8] | None:
        """(784,) the image of an example; None if it was not kept."""
        place = self._place_of.get(index)
        return None if place is None else self.pixels[place]

    @cached_property
    def _place_of(self) -> dict[int, int]:
        return {index: place for place, index in enumerate(self.kept.tolist())}

    def _picked(self, classes: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = np.arange(len(self))
        picked: NDArray[np.float32] = self.log_probabilities[rows, classes]
        return picked


def of_logits(logits: NDArray[np.float32], targets: NDArray[Any], images: NDArray[np.uint8]) -> Answers:
    """The answers of a network: logits (n, classes), class labels (n,), and images (n, 784) of which those
    read worst are kept."""
    bare = Answers(
        log_softmax(logits).astype(np.float32),
        logits.argmax(axis=1).astype(np.uint8),
        targets.astype(np.uint8),
        np.empty(0, np.int32),
        images[:0],
    )
    kept = bare.misclassified()[:PIXELS_KEPT].astype(np.int32)
    return Answers(bare.log_probabilities, bare.predicted, bare.targets, kept, images[kept])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """a_k - log of the sum over classes j of exp(a_j), in double precision, along the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def encode(answers: Answers) -> bytes:
    """Safetensors bytes; equal answers give equal bytes."""
    arrays = {name: getattr(answers, name) for name in _TYPES}
    return checkpoints.encode(arrays, {"format": FORMAT, "kind": KIND})


def decode(data: bytes) -> Answers:
    """The answers of `encode`. Raises CorruptCheckpoint for anything else."""
    arrays, metadata = checkpoints.decode(data)
    if (metadata.get("format"), metadata.get("kind")) != (FORMAT, KIND):
        raise CorruptCheckpoint(f"these are no answers of format {FORMAT}: {metadata}")
    if not _fits(arrays):
        raise CorruptCheckpoint("the arrays do not have the names, shapes and types of answers")
    return Answers(**arrays)


def _fits(arrays: Arrays) -> bool:
    if {name: (array.dtype.type, array.ndim) for name, array in arrays.items()} != _TYPES:
        return False
    examples = {len(arrays[name]) for name in ("log_probabilities", "predicted", "targets")}
    return len(examples) == 1 and len(arrays["kept"]) == len(arrays["pixels"])
