"""IDX files, the format of MNIST and its kin: decoded once, and read no further than they may reach.

An IDX file is a magic number (0, 0, type 8 for unsigned bytes, number of dimensions), the dimensions as
big-endian 32-bit integers, then the bytes in C order (LeCun, "The MNIST database").
"""

import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Malformed(Exception):
    """The file is not the IDX file that it should be; names the file and what is wrong with it."""


@dataclass(frozen=True)
class Decoded:
    """One IDX file, gzipped or not: images as uint8 (n, 784) or labels as int64 (n,), read-only."""

    sha256: str  # of the decompressed bytes
    values: NDArray[Any]


def decode(file: Path, count: int, *, transposed: bool) -> Decoded:
    """The images or labels, as its name tells, of a file that must hold `count` of them.

    Images must be of 28 x 28 and are turned upright if they lie `transposed`; labels must be 0 to 9. A file
    is decoded again only when it has changed. Raises Malformed; OSError if there is no such file.
    """
    stat = file.stat()
    return _decode_once(file, count, transposed, stat.st_mtime_ns, stat.st_size)


def images(data: bytes) -> NDArray[np.uint8]:
    """The images of a whole file, (n, 784), however many. Raises Malformed."""
    return _images(_parse(data, (None, 28, 28)), transposed=False)


def labels(data: bytes) -> NDArray[np.int64]:
    """The labels of a whole file, (n,), however many. Raises Malformed."""
    return _labels(_parse(data, (None,)))


def unpacked(data: bytes, limit: int) -> bytes:
    """The bytes of a file, gzipped or not: at most `limit` and one more. Raises Malformed."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as decompressed:
            return decompressed.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Malformed(f"cannot be decompressed: {error}") from error


def forget() -> None:
    """Lets go of every decoded file."""
    _decode_once.cache_clear()


@lru_cache(maxsize=8)
def _decode_once(file: Path, count: int, transposed: bool, mtime_ns: int, size: int) -> Decoded:
    """The decoded file; time and size are only there to notice that it changed."""
    del mtime_ns, size
    shape = (count, 28, 28) if "-images-" in file.name else (count,)
    try:
        data = _read(file, 4 + 4 * len(shape) + math.prod(shape) + 1)
        parsed = _parse(data, shape)
        values = _labels(parsed) if len(shape) == 1 else _images(parsed, transposed)
    except (Malformed, OSError, EOFError, zlib.error) as error:
        raise Malformed(f"{file.name}: {error}") from error
    values.setflags(write=False)
    return Decoded(hashlib.sha256(data).hexdigest(), values)


def _labels(parsed: NDArray[np.uint8]) -> NDArray[np.int64]:
    if parsed.max(initial=0) > 9:
        raise Malformed(f"label {parsed.max()} is not one of 0 to 9")
    return parsed.astype(np.int64)


def _images(parsed: NDArray[np.uint8], transposed: bool) -> NDArray[np.uint8]:
    upright = np.ascontiguousarray(parsed.swapaxes(1, 2)) if transposed else parsed
    return upright.reshape(len(parsed), 784)


def _read(file: Path, limit: int) -> bytes:
    """At most `limit` decompressed bytes, so that a hostile gzip file fills no memory."""
    with file.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not gzipped:
            return raw.read(limit)
        with gzip.GzipFile(fileobj=raw) as decompressed:
            return decompressed.read(limit)


def _parse(data: bytes, shape: tuple[int | None, ...]) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, which must be of just this shape; None stands for any number."""
    form = f">{len(shape)}I"
    start = 4 + struct.calcsize(form)
    magic = bytes((0, 0, 8, len(shape)))
    if data[:4] != magic:
        raise Malformed(
            f"begins with {data[:4].hex(' ') or 'nothing'}, where IDX has {magic.hex(' ')} "
            f"(unsigned bytes in {len(shape)} dimensions)"
        )
    if len(data) < start:
        raise Malformed(f"ends within its header, after {len(data)} bytes")
    dimensions = struct.unpack(form, data[4:start])
    if any(wanted not in (None, found) for wanted, found in zip(shape, dimensions, strict=True)):
        raise Malformed(f"holds {_times(dimensions)} values, expected {_times(shape)}")
    expected = start + math.prod(dimensions)
    if len(data) < expected:
        raise Malformed(f"truncated: ends after {len(data):,} of {expected:,} bytes")
    if len(data) > expected:
        raise Malformed(f"goes on after its {expected:,} bytes")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(dimensions)


def _times(shape: Iterable[int | None]) -> str:
    return " x ".join("n" if size is None else str(size) for size in shape)
