"""Datasets as ZIPs, in each of the forms in which they are uploaded."""

import gzip
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.unit.conftest import idx_of

Part = tuple[NDArray[np.uint8], NDArray[Any]]


def examples(count: int, seed: int = 0) -> Part:
    """Images of noise, (n, 28, 28), with labels."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 28, 28), dtype=np.uint8), generator.integers(0, 10, count)


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def of_idx(train: Part, test: Part | None = None) -> bytes:
    files = {}
    for word, part in (("train", train), ("t10k", test)):
        if part is not None:
            files[f"data/{word}-images-idx3-ubyte"] = idx_of(part[0])
            files[f"data/{word}-labels-idx1-ubyte.gz"] = gzip.compress(idx_of(part[1].astype(np.uint8)))
    return zipped(files)


def of_arrays(**arrays: NDArray[Any]) -> bytes:
    files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[f"{name}.npy"] = buffer.getvalue()
    return zipped(files)


def png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def of_pictures(train: Part, test: Part | None = None) -> bytes:
    files = {}
    for word, part in (("train", train), ("test", test)):
        for number, (image, label) in enumerate(zip(*part, strict=True) if part is not None else ()):
            files[f"mine/{word}/{label}/{number}.png"] = png(image)
    return zipped(files)
