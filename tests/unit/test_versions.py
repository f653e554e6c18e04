"""What tells that a job has been done before: the version of the code, and that of the data."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grimp
import pytest

from service import versions
from service.data import datasets, sources
from service.spec import DatasetSpec
from tests.conftest import mnist_folder
from tests.unit.conftest import Files, write

UNDECIDING = {"service.errors", "service.mistakes"}  # they say what is wrong; no figure depends on them


@pytest.fixture(autouse=True)
def _anew() -> None:
    versions.code_version.cache_clear()


def test_the_code_version_names_package_sources_and_torch() -> None:
    package, _, rest = versions.code_version().partition("+")
    digest, _, torch = rest.partition(".torch")
    assert (package, torch) == (version("numeral"), version("torch"))
    assert len(digest) == versions.DIGEST_CHARACTERS
    assert int(digest, 16) >= 0
    assert versions.names_torch(versions.code_version())
    assert len(versions.code_version()) <= 64, "the column is no wider"


def test_it_changes_with_a_source_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    for name, file in versions.sources():
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copies.append(copy)
    before = versions.code_version()
    monkeypatch.setattr(versions, "_installed", lambda _: tmp_path)
    versions.code_version.cache_clear()
    assert versions.code_version() == before, "it tells what the sources are, not where they lie"
    for copy in copies:
        content = copy.read_bytes()
        copy.write_bytes(content + b"#")
        versions.code_version.cache_clear()
        assert versions.code_version() != before, copy
        copy.write_bytes(content)


def test_without_torch_it_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_numeral(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return version(name)

    whole = versions.code_version()
    versions.code_version.cache_clear()
    monkeypatch.setattr(versions, "version", only_numeral)
    assert not versions.names_torch(versions.code_version())
    assert whole.startswith(versions.code_version() + ".torch")


def test_the_engine_is_all_that_training_imports() -> None:
    graph = grimp.build_graph("service", "worker")
    needed = graph.find_upstream_modules("worker.committee") - UNDECIDING
    covered = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name, _ in versions.sources()
    }
    assert needed <= covered
    assert {"worker.committee", "worker.budget"} <= covered


def test_the_data_version_is_what_a_job_would_write_down(tmp_path: Path) -> None:
    for spec in (DatasetSpec(), DatasetSpec(examples=500, validation=10)):
        told = versions.data_version(spec, cache_dir=tmp_path / "none", data_dir=None)
        assert told == datasets.load(spec, cache_dir=tmp_path, data_dir=mnist_folder()).sha256
    told_of = {
        versions.data_version(
            DatasetSpec(name="simulated", examples=examples, noise=noise), cache_dir=tmp_path, data_dir=None
        )
        for examples, noise in ((100, 0.5), (101, 0.5), (100, 0.6))
    }
    assert len(told_of) == 3
    assert None not in told_of


def test_of_files_it_is_what_the_cache_holds(
    files: Files, torchvision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DatasetSpec.model_construct(name="kmnist")
    cache = tmp_path / "cache"
    assert versions.data_version(spec, cache_dir=cache, data_dir=None) is None, "there is nothing yet"
    fetched = sources.fetch("kmnist", cache_dir=cache, data_dir=None)
    assert versions.data_version(spec, cache_dir=cache, data_dir=None) == fetched.digest
    sums = (cache / "kmnist" / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == fetched.digest
    folder = write(tmp_path / "data", files)
    assert versions.data_version(spec, cache_dir=cache, data_dir=folder) is None, "it would have to be read"
