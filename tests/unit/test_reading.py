"""Digits as somebody would post them are read nearly as well as MNIST's own pixels."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.data import datasets, digits
from service.data.datasets import Dataset
from service.settings import load as load_settings
from service.spec import DatasetSpec
from tests import renderings

COUNT = 25
FIT = 20_000  # training images that the small network is fitted to


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    """The real one."""
    cv2.setNumThreads(1)  # as the API
    settings = load_settings()
    return datasets.load(DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir)


@pytest.fixture(scope="module")
def nearest(mnist: Dataset) -> "Features":
    """A small network: random features, and one layer by least squares; about 95 % of the test set."""
    return Features(mnist)


class Features:
    """784 - 1000 random relu - 10, the last layer in closed form."""

    def __init__(self, mnist: Dataset) -> None:
        rng = np.random.default_rng(0)
        self._random = rng.normal(0, 1, (784, 1000)).astype(np.float32)
        hidden = self._hidden(mnist.train_inputs[:FIT])
        targets = np.eye(10, dtype=np.float32)[mnist.train_targets[:FIT]]
        gram = hidden.T @ hidden + 10 * np.eye(1000, dtype=np.float32)
        self._last = np.linalg.solve(gram, hidden.T @ targets)

    def right(self, pixels: NDArray[Any], targets: NDArray[Any]) -> float:
        """Share of (n, 784) read as their targets (n,)."""
        return float(((self._hidden(pixels) @ self._last).argmax(axis=1) == targets).mean())

    def _hidden(self, pixels: NDArray[Any]) -> NDArray[Any]:
        values = pixels.astype(np.float32) / 255
        hidden: NDArray[Any] = np.maximum(values @ self._random, 0) / 28
        return hidden


def test_mnists_images_are_taken_as_they_are(mnist: Dataset) -> None:
    for image in mnist.test_inputs[:2000]:
        assert (digits.prepare(image.reshape(28, 28)).pixels == image).all()


@pytest.mark.parametrize("kind", renderings.KINDS)
def test_posted_digits_are_read(kind: str, mnist: Dataset, nearest: Features) -> None:
    inputs, targets = mnist.test_inputs[:COUNT], mnist.test_targets[:COUNT]
    posted = [renderings.posted(image, kind, index) for index, image in enumerate(inputs)]
    pixels = np.stack([digits.read(file, max_pixels=10_000_000).pixels for file in posted])
    assert nearest.right(pixels, targets) >= nearest.right(inputs, targets) - 0.13
