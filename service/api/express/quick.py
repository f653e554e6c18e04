"""Bodies that are read in microseconds: the plain ways in which pictures of 28 x 28 come, and no others.

Each reader gives None for whatever it is not sure of, a mistake included; such a body goes the long way, through
`uploads`, which reads every kind and says what is wrong. So nothing is told twice, and what both read gives the same
pixels and the same warnings."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simdjson
from numpy.typing import NDArray

from service.api.predictions.uploads import is_pixels_body
from service.data import digits
from service.data.digits import BLANK_BELOW, PIXELS, PREPROCESSING_VERSION, SIDE

PNG = b"\x89PNG\r\n\x1a\n"
# length and name of the header, then 28 x 28, 8 bits of grey, not interlaced
_GREY_28 = PNG + b"\0\0\0\rIHDR\0\0\0\x1c\0\0\0\x1c\x08\0\0\0\0"
_BRACKET = ord("[")
_DATA, _END = 41, b"\0\0\0\0IEND\xaeB`\x82"  # where the data of such a file begins, and its last chunk
_RANGES = {  # bits of numbers: of the least that is ink on black, and of the largest
    scale: (int(np.float64(top * BLANK_BELOW / 255).view(np.uint64)), int(np.float64(top).view(np.uint64)))
    for scale, top in (("byte", 255.0), ("unit", 1.0))
}
# to the long way whatever may be read in two ways: a text that ends nowhere, an escape, a parameter more
_FILE_OF_FORM = re.compile(
    rb'content-disposition: form-data; name="[^"\\\x00-\x1f]*"; filename="[^"\\\x00-\x1f]*"'
)
_TYPE_OF_FILE = re.compile(rb"content-type: [!-~]+")


@dataclass(slots=True)
class Pictures:
    """(n, 784) numbers from 0 to 255, the warnings of each, and which of them came as pictures."""

    pixels: NDArray[Any]
    warnings: Sequence[Sequence[str]]
    judged: Sequence[bool]


class Reader:
    """For one thread: its parser keeps the memory that it works in."""

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._parser = simdjson.Parser()

    def read(self, body: bytes, content_type: bytes, version: str = PREPROCESSING_VERSION) -> Pictures | None:
        """The pictures of a body for a model of a preprocessing version, or None."""
        if content_type == b"application/octet-stream":
            return self._raw(body)
        if content_type.startswith(b"multipart/form-data"):
            file = _only_file(body, content_type)
            return None if file is None else _png(file, version)
        if body[:1] == b"{":
            try:
                return self._json(body)
            except (ValueError, KeyError, TypeError, RuntimeError):
                return None
        return _png(body, version) if body.startswith(PNG) else None

    def _raw(self, body: bytes) -> Pictures | None:
        count, rest = divmod(len(body), PIXELS)
        if rest or not 0 < count <= self._max_images or not is_pixels_body(body):
            return None
        pixels = np.frombuffer(body, np.uint8).reshape(count, PIXELS)
        return Pictures(pixels, _blanks(pixels), (False,) * count)

    def _json(self, body: bytes) -> Pictures | None:
        """One or many pictures of 784 numbers in `images`, with or without `scale`. Raises a number of errors for
        what it does not read."""
        document: Any = self._parser.parse(body)
        images, keys = document["images"], len(document)
        scale = "byte" if keys == 1 else document["scale"]
        if keys > 2 or scale not in ("byte", "unit"):
            return None
        count = len(images)
        if not 0 < count <= self._max_images or _lists(body, count) != count + 1:
            return None
        buffer = images.as_buffer(of_type="d")
        numbers = np.frombuffer(buffer)
        if len(numbers) != count * PIXELS or (count > 1 and any(len(image) != PIXELS for image in images)):
            return None
        # of numbers that are not negative the bits rise as they do; the sign is the highest of the bits
        highest, (least, most) = int(np.maximum.reduce(np.frombuffer(buffer, np.uint64))), _RANGES[scale]
        if highest > most:
            return None
        pixels = (numbers * 255.0 if scale == "unit" else numbers).astype(np.float32).reshape(count, PIXELS)
        has_ink = count == 1 and highest >= least and numbers[0] == 0
        return Pictures(pixels, ((),) if has_ink else _blanks(pixels), (False,) * count)


def _lists(body: bytes, pictures: int) -> int:
    """How many lists begin in it, but no more than three for one picture. The parser flattens lists in lists: there have
    to be as many as pictures, and one more."""
    if pictures > 1:  # numpy counts six times as fast as bytes do
        return int(np.count_nonzero(np.frombuffer(body, np.uint8) == _BRACKET))
    outer = body.find(b"[")
    inner = body.find(b"[", outer + 1)  # to look for one is ten times as fast as to count
    return 2 if inner >= 0 and body.find(b"[", inner + 1) < 0 else 3


def _blanks(pixels: NDArray[Any]) -> Sequence[Sequence[str]]:
    if len(pixels) == 1 and np.maximum.reduce(pixels[0]) >= digits.BLANK_BELOW and not pixels[0, 0]:
        return ((),)
    spread = np.maximum.reduce(pixels, axis=1)
    if pixels[:, 0].any():  # else the least of each is 0
        spread = spread - np.minimum.reduce(pixels, axis=1)
    if np.minimum.reduce(spread) >= digits.BLANK_BELOW:
        return ((),) * len(pixels)
    return [("blank",) if blank else () for blank in spread < digits.BLANK_BELOW]


def _png(file: bytes, version: str) -> Pictures | None:
    """Of a file that holds a header, one piece of data and an end. A digit as large as MNIST's, on black, is
    moved at most."""
    if version not in digits.MOVING:
        return None
    length = int.from_bytes(file[33:37], "big")
    end = _DATA + length + 4
    if not file.startswith(_GREY_28) or file[37:_DATA] != b"IDAT" or file[end:] != _END:
        return None
    for start, stop in ((12, 29), (37, _DATA + length)):
        if zlib.crc32(file[start:stop]) != int.from_bytes(file[stop : stop + 4], "big"):
            return None
    # libpng takes no data that is damaged or short
    grey: Any = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if grey is None or grey.shape != (SIDE, SIDE) or grey.dtype != np.uint8:
        return None
    left, top, width, height = cv2.boundingRect(grey)  # of what is not black
    has_border = left > 0 and left + width < SIDE and top > 0 and top + height < SIDE
    placed = digits.placed(grey) if has_border else None  # whose ink is strong enough for no warning
    if placed is None:
        digit = digits.prepare(grey, version=version)
        return Pictures(digit.pixels.reshape(1, PIXELS), (digit.warnings,), (True,))
    return Pictures(placed.reshape(1, PIXELS), ((),), (True,))


def _only_file(body: bytes, content_type: bytes) -> bytes | None:
    """The file of a form that holds nothing else."""
    _, found, boundary = content_type.partition(b"boundary=")
    boundary = b"--" + boundary
    if not found or not boundary[2:].isascii() or b'"' in boundary or b";" in boundary or b" " in boundary:
        return None
    head = body.find(b"\r\n\r\n", 0, 1024)
    tail = b"\r\n" + boundary + b"--"
    stop = body.rfind(tail)
    if head < 0 or stop < head or body[stop + len(tail) :] not in (b"", b"\r\n"):
        return None
    if not body.startswith(boundary + b"\r\n") or body.count(boundary) != 2:
        return None
    lines = body[len(boundary) + 2 : head].split(b"\r\n")
    is_file = _FILE_OF_FORM.fullmatch(lines[0].lower()) is not None
    if not is_file or len(lines) > 2 or not all(_TYPE_OF_FILE.fullmatch(line.lower()) for line in lines[1:]):
        return None
    return body[head + 4 : stop]
