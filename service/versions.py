"""What a training job's outcome rests on beside its spec: the code that computes it, and the data.

A job of the same spec, the same data and the same code need not be trained again (`reuse=true`). What
cannot be told without loading or fetching a dataset is unknown here, and then it is trained.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.catalog import UPLOADED
from service.data import datasets
from service.spec import DatasetSpec

# The modules and packages that decide which weights and figures come out. What only carries them (store,
# queue, API) or is made from them afterwards (reports, pictures) is left out: it may change freely.
ENGINE = (
    *("service.catalog", "service.checkpoints", "service.data", "service.evaluation", "service.network"),
    *("service.normalization", "service.seeds", "service.spec", "worker.averaging", "worker.budget"),
    *(
        "worker.activations",
        "worker.batches",
        "worker.committee",
        "worker.crew",
        "worker.descent",
        "worker.device",
    ),
    *("worker.networks", "worker.optimizers", "worker.packed", "worker.stack", "worker.step"),
    *("worker.teacher", "worker.training"),
)
DIGEST_CHARACTERS = 12

# of a dataset whose files are pinned, as `sources.Fetched.digest` makes it
_PINNED = {"mnist": "474311efcf1fd213e64768801dc6195673bffb8385179d6c55cd8748b9e2e8ca"}


@cache
def code_version() -> str:
    """The version of the engine here, such as `0.1.0+3f2a9c81d0be.torch2.11.0`: the package's, which alone
    would lie while it is being worked on, a digest of the sources in ENGINE, and torch's.

    An API may have no torch beside it. Then the last part is missing: it is for the workers to say, see
    `service.store.jobs.trained_by`. The sources are read once, so a process that is to tell what it runs
    must ask when it starts."""
    engine = f"{version('numeral')}+{_sources_digest()}"
    try:
        return f"{engine}.torch{version('torch')}"
    except PackageNotFoundError:
        return engine


def names_torch(code: str) -> bool:
    """Whether a code version is a whole one, and can be compared."""
    return ".torch" in code


def data_version(spec: DatasetSpec, *, cache_dir: Path, data_dir: Path | None) -> str | None:
    """The `dataset_sha256` that a job of this spec would have if it began now; None if that cannot be told
    at once.

    `simulated` follows from the spec, and is drawn (a tenth of a second at most); files whose hashes are
    pinned can be no others; for the rest it is what the cache says that it holds. A `data_dir` goes before
    the cache and may hold anything: it would have to be read."""
    if spec.uploads:
        bare = spec.model_copy(update={"uploads": ()})
        own = "" if spec.name == UPLOADED else data_version(bare, cache_dir=cache_dir, data_dir=data_dir)
        return None if own is None else datasets.digest_with(own, spec)
    if spec.name == "simulated":
        return datasets.load(spec, cache_dir=cache_dir, data_dir=data_dir).sha256
    if spec.name in _PINNED:
        return _PINNED[spec.name]
    if data_dir is not None:
        return None
    try:  # a dataset's digest is that of this very text; see `sources`
        return hashlib.sha256((cache_dir / spec.name / "SHA256SUMS").read_bytes()).hexdigest()
    except OSError:
        return None


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for name, file in sources():
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:DIGEST_CHARACTERS]


def sources() -> Iterator[tuple[str, Path]]:
    """The source files of the engine, each with its name below the installed packages, in order."""
    for module in ENGINE:
        root = _installed(module.partition(".")[0])
        path = root.joinpath(*module.split("."))
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        yield from ((file.relative_to(root).as_posix(), file) for file in files)


def _installed(package: str) -> Path:
    """The folder that a package lies in; found without importing it, since the API never loads the worker."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is a part of this distribution"
    assert spec.origin is not None, f"{package} is a regular package"
    return Path(spec.origin).parent.parent
