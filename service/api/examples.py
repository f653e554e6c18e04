"""Examples of a dataset to look at. One dataset stays loaded, the last that was asked for, and none is ever
downloaded while a client waits."""

import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from service.catalog import UPLOADED, DatasetName
from service.data import datasets, idx, sources
from service.data.sources import DatasetUnavailable, Fetched
from service.data.uploaded import Uploaded
from service.errors import Unavailable
from service.settings import Settings
from service.spec import DatasetSpec, Upload
from service.store import datasets as uploads
from service.store.database import Database


class NotFetched(Unavailable):
    code, title = "dataset_unavailable", "The dataset is not on this machine"


class _WouldDownload(Exception):
    """The files are not here."""


Pairs = tuple[NDArray[Any], NDArray[Any]]  # images and labels


@dataclass(frozen=True)
class Examples:
    """Some training images: `pixels` uint8 (n, 784), white ink on black, `labels` int64 (n,), and `index` (n,)
    says which they are in what the spec trains on; they were chosen out of `total`."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    total: int


class Shelf:
    """Room for one dataset; `idx` itself keeps what it has decoded. What was uploaded is read each time."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db
        self._lock = threading.Lock()
        self._name: DatasetName | None = None

    def chosen(self, spec: DatasetSpec, *, seed: int, count: int) -> Examples:
        """`count` different images that the spec trains on, or all if they are fewer, chosen and ordered by
        the seed; never one that it holds out. Raises NotFetched, and what `uploads.content` does."""
        return _chosen(self._training(spec), np.flatnonzero(~datasets.held_out(spec)), seed, count)

    def uploaded(self, dataset_id: str, *, seed: int, count: int) -> Examples:
        """The same of what an uploaded dataset has to train on, all of it. Raises what `uploads.content` does."""
        found = uploads.content(self._db, dataset_id)
        images, labels = found.train_images, found.train_labels
        return _chosen([(images, labels)], np.arange(len(labels)), seed, count)

    def tested(self, spec: DatasetSpec) -> Pairs:
        """The test images and labels of the spec. Raises as `chosen` does."""
        if spec.name != UPLOADED:
            return self._files(spec.name)[1]
        found = [self._upload(one) for one in spec.uploads]
        return np.concatenate([one.test_images for one in found]), np.concatenate(
            [one.test_labels for one in found]
        )

    def _training(self, spec: DatasetSpec) -> Iterator[Pairs]:
        """Images and labels of each part that the spec trains on, in its order, before any is held out."""
        if spec.name != UPLOADED:
            images, labels = self._files(spec.name)[0]
            yield images[: spec.own_examples], labels[: spec.own_examples]
        for one in spec.uploads:
            found = self._upload(one)
            yield found.train_images, found.train_labels

    def _upload(self, one: Upload) -> Uploaded:
        return uploads.content(self._db, one.id)

    def _files(self, name: DatasetName) -> tuple[Pairs, Pairs]:
        """All images and labels to train on, and to test with."""
        with self._lock:
            if name != self._name:
                idx.forget()
            self._name = name
            images, labels, *test = (
                file.values for file in sources.decode(name, _fetched(name, self._settings).files)
            )
            return (images, labels), (test[0], test[1])


def _chosen(parts: Iterable[Pairs], learnt: NDArray[np.int64], seed: int, count: int) -> Examples:
    """Of all that the parts hold, one after the other, some of those with the numbers `learnt`."""
    index = np.random.default_rng(seed).choice(learnt, min(count, len(learnt)), replace=False)
    pixels, labels = np.zeros((len(index), 784), np.uint8), np.zeros(len(index), np.int64)
    first = 0
    for images, targets in parts:
        mine = (first <= index) & (index < first + len(targets))
        pixels[mine], labels[mine] = images[index[mine] - first], targets[index[mine] - first]
        first += len(targets)
    return Examples(pixels, labels, index, len(learnt))


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
