"""What is read from an IDX file, and what is said of one that is not as it should be."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.data import idx
from service.data.datasets import load
from service.data.sources import DatasetUnavailable, fetch
from service.spec import DatasetSpec
from tests.unit.conftest import NAMES, TEST, TRAIN, Files, failing, idx_of, small_files, stand_in, write

BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: whole[:0], "begins with nothing"),
    "another magic": (
        lambda whole: b"\0\0\x0d\3" + whole[4:],
        "begins with 00 00 0d 03, where IDX has 00 00 08 03",
    ),
    "half a header": (lambda whole: whole[:9], "ends within its header, after 9 bytes"),
    "other dimensions": (
        lambda whole: whole[:8] + struct.pack(">II", 14, 56) + whole[16:],
        "holds 20 x 14 x 56 values, expected 20 x 28 x 28",
    ),
    "truncated": (lambda whole: whole[:-1], "truncated: ends after 15,695 of 15,696 bytes"),
    "too long": (lambda whole: whole + b"\0", "goes on after its 15,696 bytes"),
    "damaged gzip": (lambda whole: gzip.compress(whole)[:-9], "train-images-idx3-ubyte: "),
    "not gzip at all": (lambda whole: b"\x1f\x8b" + whole, "train-images-idx3-ubyte: "),
    "another's": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "is not that of mnist: its SHA-256 is"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_the_next_source_tried(
    torchvision: Path, files: Files, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, said = BAD[case]
    given = write(tmp_path / "given", {**files, NAMES[0]: damage(files[NAMES[0]])})
    fetched = fetch("mnist", cache_dir=tmp_path / "cache", data_dir=given)
    assert fetched.source == "torchvision"
    stand_in(monkeypatch, "torchvision", failing("gone"))
    with pytest.raises(DatasetUnavailable, match=NAMES[0]) as failure:
        fetch("mnist", cache_dir=tmp_path / "elsewhere", data_dir=given)
    assert said in failure.value.detail


def test_a_label_beyond_nine_is_refused(files: Files, tmp_path: Path) -> None:
    labels = idx_of(np.full(TRAIN, 10, dtype=np.uint8))
    write(tmp_path / "KMNIST" / "raw", {**files, NAMES[1]: labels})
    with pytest.raises(DatasetUnavailable, match="label 10 is not one of 0 to 9"):
        fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path)


def test_a_gzip_bomb_is_read_only_as_far_as_the_file_may_be(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1024**2))
    assert len(idx._read(bomb, 1000)) == 1000


@pytest.mark.parametrize("place", [".", "EMNIST/raw"])
def test_emnist_is_turned_upright(files: Files, tmp_path: Path, place: str) -> None:
    named = {f"emnist-digits-{name.replace('t10k', 'test')}": content for name, content in files.items()}
    write(tmp_path / place, named)
    data = load(DatasetSpec(name="emnist-digits"), cache_dir=tmp_path / "cache", data_dir=tmp_path)
    lying = np.frombuffer(files[NAMES[2]], np.uint8, offset=16).reshape(TEST, 28, 28)
    assert (data.test_inputs.reshape(TEST, 28, 28) == lying.transpose(0, 2, 1)).all()
    assert data.test_inputs.flags.c_contiguous


def test_a_file_that_changed_is_read_anew(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "KMNIST" / "raw", files)
    before = fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path)
    write(tmp_path / "KMNIST" / "raw", small_files(1))
    os.utime(tmp_path / "KMNIST" / "raw" / NAMES[0], ns=(0, 0))
    assert fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path).digest != before.digest
