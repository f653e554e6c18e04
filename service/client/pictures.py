"""Whatever a caller has for a picture, as bodies of prediction requests. numpy and Pillow are imported only where such an
object is given, and so is there."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 28
PIXELS = SIDE * SIDE
MOST_IMAGES = 1000  # of one request; the server's own limit, by default, is four times that
MOST_BYTES = 8 * 1024**2  # of the files of one request, unless one alone is larger


class Array(Protocol):
    """numpy's arrays, and what converts itself into one, such as a tensor of PyTorch."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Drawing(Protocol):
    """Pillow's images."""

    @property
    def mode(self) -> str: ...

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None: ...  # noqa: A002


@runtime_checkable
class Readable(Protocol):
    """A file that is open in binary mode."""

    def read(self) -> bytes: ...


Picture = bytes | bytearray | str | os.PathLike[str] | Readable | Drawing | Array
Kind = Literal["pixels", "byte", "unit", "file"]


@dataclass(frozen=True)
class Piece:
    """One image: a file as it is, 784 bytes of pixels, or 784 numbers of a scale."""

    kind: Kind
    data: Any


def bodies(images: Picture | Sequence[Picture]) -> Iterator[Mapping[str, Any]]:
    """The bodies of as many requests as it takes, in the order of the images, each as fields of a `Request`: pixels as
    bytes wherever they are whole numbers, files as they are. Raises ValueError and TypeError for what is no picture,
    and OSError for a file that cannot be read."""
    given: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    if not given:
        raise ValueError("there is no image: give one at least")
    pieces = (piece for image in given for piece in _pieces(image))
    for kind, alike in groupby(pieces, key=lambda piece: piece.kind):
        for some in _portions(piece.data for piece in alike):
            yield _body(kind, some)


def file_of(image: Picture) -> bytes:
    """A picture as the bytes of a file."""
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, Drawing):
        return _png(image)
    if isinstance(image, Readable):
        return _read(image)
    if not hasattr(image, "__array__"):
        raise TypeError(
            f"{type(image).__name__} is no picture: give a path, the bytes of a file, an open file, an array, or an "
            "image of Pillow"
        )
    from PIL import Image

    return _png(Image.fromarray(_bytes_of(image)))


def _pieces(image: Picture) -> Iterator[Piece]:
    if hasattr(image, "__array__") and not isinstance(image, Drawing):
        import numpy as np

        values = np.asarray(image)
        if _is_stack(values.shape):
            yield from _pixels(values.reshape(-1, PIXELS))
            return
    yield Piece("file", file_of(image))


def _is_stack(shape: Sequence[int]) -> bool:
    """Whether an array of this shape holds images as the network sees them: 784 numbers or 28 rows of 28, one or many,
    perhaps with a channel between. Any other is a picture of its own size."""
    if shape[-1:] == (PIXELS,):
        return len(shape) <= 2
    return tuple(shape[-2:]) == (SIDE, SIDE) and (len(shape) <= 3 or (len(shape) == 4 and shape[1] == 1))


def _pixels(rows: "NDArray[Any]") -> Iterator[Piece]:
    """Numbers up to 1 are shares of white, as PyTorch has them; others go to 255."""
    import numpy as np

    if rows.dtype.kind not in "biuf" or not np.isfinite(rows).all():
        raise ValueError("pixels must be finite numbers")
    is_unit = rows.dtype.kind in "bf" and rows.size > 0 and rows.max() <= 1
    greys = rows * 255.0 if is_unit else rows
    whole = np.rint(greys)
    if whole.size and not (whole.min() >= 0 and whole.max() <= 255):
        raise ValueError("pixels must lie between 0 and 255, or between 0 and 1")
    if np.abs(greys - whole).max(initial=0) < 1e-3:  # as float32 has them
        yield from (Piece("pixels", row.tobytes()) for row in whole.astype(np.uint8))
    else:
        yield from (Piece("unit" if is_unit else "byte", row.tolist()) for row in rows)


def _portions(data: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """As much at a time as one request should carry."""
    portion: list[Any] = []
    size = 0
    for one in data:
        length = len(one) if isinstance(one, bytes) else 0
        if len(portion) == MOST_IMAGES or (portion and size + length > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += length
    yield portion


def _body(kind: Kind, data: Sequence[Any]) -> Mapping[str, Any]:
    if kind == "pixels":
        return {"content": b"".join(data), "headers": {"Content-Type": "application/octet-stream"}}
    if kind != "file":
        return {"json": {"images": list(data), "scale": kind}}
    if len(data) == 1:
        return {"content": data[0]}
    return {"files": [("files", (f"image-{index}", one)) for index, one in enumerate(data)]}


def _bytes_of(image: Array) -> "NDArray[Any]":
    """A picture of any size as Pillow takes it: bytes, of floats those up to 1 as shares of white."""
    import numpy as np

    values: NDArray[Any] = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool or (values.dtype.kind == "f" and values.max(initial=0) <= 1):
        values = values * 255.0
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError("pixels must be finite numbers")
    if values.size and not (values.min() >= 0 and values.max() <= 255):
        raise ValueError("pixels must lie between 0 and 255, or between 0 and 1")
    whole: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return whole


def _read(file: Readable) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is open as text: open it with 'rb'")
    return data


def _png(image: Drawing) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
