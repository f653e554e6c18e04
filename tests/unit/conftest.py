"""Small datasets that lie in files, and commands that stand in for torchvision and npm."""

import gzip
import hashlib
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.catalog import CATALOG
from service.data import downloads, sources

TRAIN, TEST = 20, 10
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Files = dict[str, bytes]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks of these tests are too small for two, which only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def idx_of(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def small_files(seed: int = 0) -> Files:
    """The four files of a dataset with 20 and 10 examples, by their MNIST names."""
    generator = np.random.default_rng(seed)
    files = {}
    for name in NAMES:
        count = TRAIN if name.startswith("train") else TEST
        shape, top = ((count, 28, 28), 256) if "images" in name else ((count,), 10)
        files[name] = idx_of(generator.integers(0, top, shape, dtype=np.uint8))
    return files


def write(folder: Path, files: Files, *, gzipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def hashes(files: Files) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """A world in which every dataset is small, and these are the files that MNIST is known by."""
    made = small_files()
    for name in ("mnist", "fashion-mnist", "kmnist", "emnist-digits"):
        card = replace(CATALOG[name], train_examples=TRAIN, test_examples=TEST)
        monkeypatch.setitem(CATALOG, name, card)
    pinned = tuple(hashes(made)[name] for name in NAMES)
    monkeypatch.setitem(sources._LAYOUTS, "mnist", replace(sources._LAYOUTS["mnist"], pinned=pinned))
    stand_in(monkeypatch, "torchvision", failing("no route to torchvision"))
    stand_in(monkeypatch, "npm", failing("npm error code ENOTFOUND"))
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch, source: str, command: list[str]) -> None:
    """Runs this command wherever torchvision or npm would be asked."""
    monkeypatch.setattr(downloads, f"_{source}_command", lambda *_: command)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def failing(said: str) -> list[str]:
    return python(f"import sys; sys.exit({said!r})")


def copying(source: Path, raw: str) -> list[str]:
    """Stands in for torchvision: copies `source` to `raw`, and leaves a line in `source.log`."""
    code = (
        "import shutil, sys, time; open(sys.argv[1] + '.log', 'a').write('downloaded\\n'); time.sleep(0.3); "
        "shutil.copytree(sys.argv[1], sys.argv[2])"
    )
    return python(code, str(source), raw)


@pytest.fixture
def torchvision(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torchvision that delivers; the folder that it delivers from."""
    source = write(tmp_path / "mirror", files)

    def command(dataset: str, options: Sequence[str], folder: Path) -> list[str]:
        return copying(source, f"{dataset}/raw")

    monkeypatch.setattr(downloads, "_torchvision_command", command)
    return source


def no_litter(cache: Path) -> bool:
    return not list(cache.glob("*.part")) and not list(cache.glob(".*.part"))
