"""Bytes of an image file -> grey levels. What is hostile, too large or no picture is refused here."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia

T = TypeVar("T", bound=np.generic)

Grey = NDArray[np.uint8]  # height x width
Colours = NDArray[np.uint8]  # height x width x (red, green, blue)

SIDE = 640  # a larger picture is averaged down to this: a digit needs no more
COLOURED_ABOVE = 24  # levels between the channels of a pixel
ONE_COLOUR_WITHIN = 24
VISIBLE_ABOVE = 64  # of alpha
VARIED_ABOVE = 16

MAX_DECODED = 96 * 1024**2  # bytes that pictures take while they are decoded, all of a process together
_PER_ROW, _PER_ROW_OF_DATA = (
    40,
    3,
)  # bytes that a row costs beside its pixels, and copies of one as the file has it
_PER_PIXEL = {
    "1": 2,
    "L": 1,
    "P": 9,
    "LA": 8,
    "RGBA": 8,
    "RGB": 4,
    "CMYK": 8,
}  # with what is made of them at once
_PER_PIXEL_OF_OTHERS, _PER_PIXEL_OF_WEBP = 8, 16
_PER_PIXEL_PROGRESSIVE = 2  # of each channel: all coefficients of a JPEG before the first pixel

_OPENERS: dict[str, type[ImageFile]] = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WebP": WebPImageFile}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "ICO"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\3\4", "ZIP"),
)


@dataclass(frozen=True)
class Picture:
    """Grey levels, a large picture's averaged down, and the picture's own width and height, turned as its EXIF
    says."""

    grey: Grey
    width: int
    height: int

    @classmethod
    def of(cls, grey: Grey) -> "Picture":
        """Of pixels that no file holds."""
        return cls(_shrunk(grey, SIDE), grey.shape[1], grey.shape[0])


def decode(image: bytes, *, max_pixels: int, side: int = SIDE) -> Picture:
    """A PNG, JPEG or WebP file, told by its first bytes, averaged down to `side` pixels where it is larger.

    Raises UnsupportedMedia (`unsupported_image`), PayloadTooLarge (`image_too_large`: width x height over
    `max_pixels`, found before anything is decoded) and Invalid (`corrupt_image`, `several_frames`).
    """
    kind = kind_of(image)
    opener = _OPENERS.get(kind)
    if opener is None:
        raise UnsupportedMedia(f"found {kind}: send PNG, JPEG or WebP", code="unsupported_image")
    try:
        return _decode(opener, image, max_pixels, side)
    except ServiceError:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise Invalid(f"this {kind} cannot be decoded: {error}", code="corrupt_image") from error


def is_read(data: bytes) -> bool:
    """Whether bytes begin as a file that `decode` takes."""
    return data[:1] in (b"\x89", b"\xff", b"R") and kind_of(data) in _OPENERS


def kind_of(image: bytes) -> str:
    """PNG, JPEG or WebP, which are read, or what else the first bytes say."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "WebP"
    if image[4:8] == b"ftyp":
        return "HEIC, AVIF or video"
    for magic, kind in _MAGIC:
        if image.startswith(magic):
            return kind
    if not image:
        return "nothing"
    return "text" if image[:64].isascii() and b"\0" not in image[:64] else "unknown bytes"


class _Room:
    """The memory that pictures have while they are decoded: who asks for more than is left waits, in turn."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Raises PayloadTooLarge for more than there is."""
        if size > MAX_DECODED:
            raise PayloadTooLarge(
                f"decoding this picture takes {size / 1e6:,.0f} MB of memory, the limit is {MAX_DECODED / 1e6:,.0f}: "
                "send it smaller, or as a JPEG that is not progressive",
                code="image_too_large",
            )
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify()


_ROOM = _Room(MAX_DECODED)


def _decode(opener: type[ImageFile], image: bytes, max_pixels: int, side: int) -> Picture:
    # The plugins are called without Image.open, whose limit is a global of the process and a warning.
    if opener is not WebPImageFile:
        return _opened(opener, image, max_pixels, side)
    size = _webp_size(image)  # its plugin reserves the whole canvas when it opens a file
    _check_size(size, max_pixels)
    with _ROOM.taken(size[0] * size[1] * _PER_PIXEL_OF_WEBP):
        return _opened(opener, image, max_pixels, side)


def _opened(opener: type[ImageFile], image: bytes, max_pixels: int, side: int) -> Picture:
    picture = opener(BytesIO(image))
    size = picture.size
    _check_size(size, max_pixels)
    if getattr(picture, "n_frames", 1) > 1:
        raise Invalid("this picture is animated: send one frame", code="several_frames")
    picture.draft(None, (side, side))  # JPEG alone can be decoded smaller
    has_room = opener is WebPImageFile
    with contextlib.nullcontext() if has_room else _ROOM.taken(_memory(picture, size)):
        picture.load()
        small = _simple(_reduced(picture, side))
        del picture  # before its room is another's
    with contextlib.suppress(Exception):  # damaged metadata spoils no picture
        if small.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # lies on its side
            size = size[::-1]
        ImageOps.exif_transpose(small, in_place=True)
    return Picture(_grey(small, side), *size)


def _memory(picture: ImageFile, size: tuple[int, int]) -> int:
    """Bytes that it takes at most to decode a picture of a file of that size and to bring it down."""
    width, height = picture.size
    per_pixel = _PER_PIXEL.get(picture.mode, _PER_PIXEL_OF_OTHERS)
    pixels = height * (width * per_pixel + _PER_ROW) + width * per_pixel * _PER_ROW_OF_DATA
    if not picture.info.get("progressive"):
        return pixels
    return pixels + size[0] * size[1] * len(picture.getbands()) * _PER_PIXEL_PROGRESSIVE


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PayloadTooLarge(
            f"the picture has {width} x {height} = {width * height:,} pixels, the limit is {max_pixels:,}",
            code="image_too_large",
        )
    if width * height == 0:
        raise ValueError("it has no pixels")


def _webp_size(image: bytes) -> tuple[int, int]:
    """Width and height from the first chunk (RFC 9649, sections 2.5 to 2.7)."""

    def number(start: int, stop: int) -> int:
        return int.from_bytes(image[start:stop], "little")

    match image[12:16]:
        case b"VP8X":
            return number(24, 27) + 1, number(27, 30) + 1
        case b"VP8L":
            return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    raise ValueError("it has no picture")


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    """Averaged down by a whole number, to less than twice that side."""
    factor = max(picture.size) // side
    if factor < 2:
        return picture
    if picture.mode in ("1", "P") or picture.mode.startswith("I"):
        picture = _simple(picture)
    return picture.reduce(factor)


def _simple(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit grey, as RGB, or as RGBA where there is transparency."""
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip
        levels = np.asarray(picture).clip(0, 65535)
        grey = Image.fromarray((levels // 257).astype(np.uint8))
        grey.info = picture.info
        return grey
    if picture.mode == "L" and "transparency" not in picture.info:
        return picture
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("1", "F") else "RGB")


def _grey(picture: Image.Image, side: int) -> Grey:
    pixels = np.asarray(picture)
    if picture.mode == "RGB":
        return _of_colours(_shrunk(pixels, side))
    return _shrunk(_flattened(picture, pixels) if picture.mode == "RGBA" else pixels, side)


def _shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _flattened(picture: Image.Image, pixels: NDArray[np.uint8]) -> Grey:
    """Alpha as ink where all that is visible has one colour, else the picture on white paper."""
    alpha = pixels[..., 3]
    visible = pixels[alpha >= VISIBLE_ABOVE, :3]
    if len(visible) and np.ptp(alpha) >= VARIED_ABOVE and np.ptp(visible, axis=0).max() <= ONE_COLOUR_WITHIN:
        return np.ascontiguousarray(alpha)
    paper = Image.new("RGBA", picture.size, "white")
    return _of_colours(np.asarray(Image.alpha_composite(paper, picture).convert("RGB")))


def _of_colours(colours: Colours) -> Grey:
    """Luma, or of a picture with colours the channel in which each pixel differs most from the paper: a yellow pen is
    bright in all but blue."""
    channels = cv2.split(np.ascontiguousarray(colours))
    most = cv2.max(cv2.max(channels[0], channels[1]), channels[2])
    least = cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    if cv2.subtract(most, least).max() < COLOURED_ABOVE:
        return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), np.uint8)
    paper = np.median(border(colours), axis=0)
    if paper.max() <= 127:
        return np.asarray(most, np.uint8)
    tinted = [
        cv2.convertScaleAbs(each, alpha=255 / max(level, 64.0))
        for each, level in zip(channels, paper, strict=True)
    ]
    return np.asarray(cv2.min(cv2.min(tinted[0], tinted[1]), tinted[2]), np.uint8)


def border(pixels: NDArray[T]) -> NDArray[T]:
    """The outermost pixels, one after another."""
    return np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def quantile(levels: NDArray[Any], share: float = 0.5) -> float:
    """As `numpy.quantile` has it, and `numpy.median`, which take ten times as long for few levels."""
    ordered = np.sort(levels, axis=None, kind="stable")  # which counts levels of one byte
    place = (len(ordered) - 1) * share
    below = int(place)
    low = float(ordered[below])
    return low if place == below else low + (place - below) * (float(ordered[below + 1]) - low)


def padded(levels: NDArray[Any], room: int, value: int = 0) -> NDArray[Any]:
    """With so many pixels of a value around; numpy's own takes ten times as long for small pictures."""
    return np.asarray(cv2.copyMakeBorder(levels, room, room, room, room, cv2.BORDER_CONSTANT, value=value))
