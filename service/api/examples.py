"""Examples of a dataset to look at. One dataset stays loaded, the last that was asked for, and none is ever
downloaded while a client waits."""

import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from service.catalog import DatasetName
from service.data import datasets, idx, sources
from service.data.sources import DatasetUnavailable, Fetched
from service.errors import Unavailable
from service.settings import Settings
from service.spec import DatasetSpec


class NotFetched(Unavailable):
    code, title = "dataset_unavailable", "The dataset is not on this machine"


class _WouldDownload(Exception):
    """The files are not here."""


@dataclass(frozen=True)
class Examples:
    """Some training images: `pixels` uint8 (n, 784), white ink on black, `labels` int64 (n,), and `index` (n,)
    says which they are in the dataset; they were chosen out of `total`."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    total: int


class Shelf:
    """Room for one dataset; `idx` itself keeps what it has decoded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._name: DatasetName | None = None

    def chosen(self, spec: DatasetSpec, *, seed: int, count: int) -> Examples:
        """`count` different images that the spec trains on, or all if they are fewer, chosen and ordered by
        the seed; never one that it holds out. Raises NotFetched."""
        pixels, labels = self._training(spec.name)
        learnt = np.flatnonzero(~datasets.held_out(spec))
        index = np.random.default_rng(seed).choice(learnt, min(count, len(learnt)), replace=False)
        return Examples(pixels[index], labels[index], index, len(learnt))

    def _training(self, name: DatasetName) -> tuple[NDArray[Any], NDArray[Any]]:
        """All training images and labels."""
        with self._lock:
            if name != self._name:
                idx.forget()
            self._name = name
            pixels, labels = sources.decode(name, _fetched(name, self._settings).files)[:2]
            return pixels.values, labels.values


def _fetched(name: DatasetName, settings: Settings) -> Fetched:
    """The files where they lie: in the operator's folder or in the cache, which is laid out like one."""
    for folder in (settings.data_dir, settings.cache_dir):
        if folder is None:
            continue
        # an empty cache of our own, so that nobody else's download is waited for
        with tempfile.TemporaryDirectory() as empty, suppress(_WouldDownload, DatasetUnavailable):
            return sources.fetch(name, cache_dir=Path(empty), data_dir=folder, report=_refuse)
    raise NotFetched(
        f"{name} is not on the machine that serves this: run `numeral data fetch {name}` there, "
        "or train on it once, and ask again",
        retry_after=30,
    )


def _refuse(_line: str) -> Never:
    raise _WouldDownload
