"""Any image -> what the network sees: 28 x 28 grey levels, white ink on black, as MNIST has it.

The recipe for a picture that is not MNIST-like already follows LeCun et al. (1998, section III.A): the
ink's bounding box fits a square of 20 x 20, which lies in 28 x 28 by its centre of mass.
"""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import FieldError, Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia

PREPROCESSING_VERSION = "1"  # stored with each model; raised when the same picture gives other pixels

Mode = Literal["auto", "mnist", "none"]
Scale = Literal["byte", "unit"]
DigitWarning = Literal["blank", "low_contrast", "touches_edge"]
Grey = NDArray[np.uint8]  # height x width

SIDE, BOX = 28, 20
CENTRE = 14  # mean centre of mass of MNIST's 60,000 images, counted from 0; it is 14.0 both ways
WORKING_SIDE = 1024  # a larger picture is first averaged down to about this
BLANK_BELOW = 16  # grey levels between background and strongest ink
LOW_CONTRAST_BELOW = 64
MAX_FIELD_ERRORS = 20

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
class Digit:
    """One picture as the network sees it: uint8 (784,), rows from the top, white ink on black."""

    pixels: NDArray[np.uint8]
    warnings: tuple[DigitWarning, ...]


def read(image: bytes, *, mode: Mode = "auto", max_pixels: int) -> Digit:
    """A PNG, JPEG or WebP file, told by its first bytes, as a digit; see `prepare` for `mode`.

    Raises UnsupportedMedia (`unsupported_image`), PayloadTooLarge (`image_too_large`: width x height over
    `max_pixels`, found before anything is decoded) and Invalid (`corrupt_image`, `several_frames`).
    """
    kind = kind_of(image)
    opener = _OPENERS.get(kind)
    if opener is None:
        raise UnsupportedMedia(f"found {kind}: send PNG, JPEG or WebP", code="unsupported_image")
    try:
        grey = _decode(opener, image, max_pixels)
    except ServiceError:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise Invalid(f"this {kind} cannot be decoded: {error}", code="corrupt_image") from error
    return prepare(grey, mode=mode)


def prepare(grey: Grey, *, mode: Mode = "auto") -> Digit:
    """A grey picture of any size, uint8 (height, width), as a digit.

    auto takes 28 x 28 with a dark border untouched and with a light border inverted, and normalises all
    else; mnist always normalises; none only resizes to 28 x 28.
    """
    if mode == "none":
        return _digit(grey, _resized(grey, SIDE, SIDE).round().astype(np.uint8))
    background = int(np.median(_border(grey)))
    flipped = 255 - grey if background > 127 else grey
    level = min(background, 255 - background)
    ink = flipped - np.minimum(flipped, level)
    if ink.max() < BLANK_BELOW:
        return Digit(np.zeros(SIDE * SIDE, dtype=np.uint8), ("blank",))
    if mode == "auto" and grey.shape == (SIDE, SIDE):
        return _digit(ink, flipped)
    return _digit(ink, _normalised(ink))


def from_pixels(images: Sequence[object], *, scale: Scale = "byte") -> NDArray[np.float32]:
    """JSON pixels, each image 784 numbers or 28 rows of 28, as float32 (n, 784) from 0 to 255, unrounded.

    Raises Invalid (`bad_pixels`), which points at each image that is wrong and says how.
    """
    top = 255.0 if scale == "byte" else 1.0
    pixels = np.zeros((len(images), SIDE * SIDE), dtype=np.float64)
    mistakes: list[FieldError] = []
    for index, image in enumerate(images):
        mistake = _fill(pixels[index], image, top)
        if mistake:
            mistakes.append(FieldError(f"#/images/{index}", mistake))
            if len(mistakes) == MAX_FIELD_ERRORS:
                break
    if mistakes:
        raise Invalid("these are not pixels of digits", code="bad_pixels", errors=mistakes)
    return (pixels * (255.0 / top)).astype(np.float32)


def is_blank(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of (n, 784), from 0 to 255, hold no ink: as of numbers from 0 to 1 that were sent as bytes."""
    spread: NDArray[Any] = np.ptp(pixels, axis=1)
    return spread < BLANK_BELOW


def _fill(row: NDArray[np.float64], image: object, top: float) -> str | None:
    """Puts an image into its row; the mistake if there is one."""
    numbers = _flat(image)
    if isinstance(numbers, str):
        return numbers
    if not set(map(type, numbers)) <= {int, float}:
        at, value = next(pair for pair in enumerate(numbers) if type(pair[1]) not in (int, float))
        return f"pixel {at} is {_said(value)}, expected a number"
    try:
        row[:] = numbers
    except OverflowError:
        return f"has a number beyond all range, expected 0 to {top:g}"
    wrong = ~((row >= 0) & (row <= top))  # NaN fails both
    if wrong.any():
        at = int(wrong.argmax())
        hint = ', or set "scale": "byte"' if top == 1 and 1 < row[at] <= 255 else ""
        return f"pixel {at} is {row[at]:g}, expected 0 to {top:g}{hint}"
    return None


def _flat(image: object) -> Sequence[Any] | str:
    expected = f"expected {SIDE * SIDE} or {SIDE} rows of {SIDE}"
    if not isinstance(image, list | tuple):
        return f"is {_said(image)}, {expected} numbers"
    if {list, tuple}.isdisjoint(map(type, image)):
        return image if len(image) == SIDE * SIDE else f"got {len(image)}, {expected}"
    if len(image) != SIDE:
        return f"got {len(image)} rows, {expected}"
    for index, row in enumerate(image):
        if not isinstance(row, list | tuple) or len(row) != SIDE:
            length = len(row) if isinstance(row, list | tuple) else _said(row)
            return f"row {index} has {length}, {expected}"
    return list(itertools.chain.from_iterable(image))


def _said(value: object) -> str:
    names = {bool: "a boolean", str: "text", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")


# From bytes to grey


def is_read(data: bytes) -> bool:
    """Whether bytes begin as a file that `read` takes."""
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


def _decode(opener: type[ImageFile], image: bytes, max_pixels: int) -> Grey:
    # The plugins are called without Image.open, whose limit is a global of the process and a warning.
    if opener is WebPImageFile:  # its plugin reserves the whole canvas when it opens a file
        _check_size(_webp_size(image), max_pixels)
    with opener(BytesIO(image)) as picture:
        _check_size(picture.size, max_pixels)
        if getattr(picture, "n_frames", 1) > 1:
            raise Invalid("this picture is animated: send one frame", code="several_frames")
        picture.load()
        small = _shrunk(_simple(picture))
    with contextlib.suppress(Exception):  # damaged metadata spoils no picture
        ImageOps.exif_transpose(small, in_place=True)
    return _flattened(small) if small.mode == "RGBA" else np.asarray(small)


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


def _simple(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit grey, or as RGBA where there is transparency."""
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip
        levels = np.asarray(picture).clip(0, 65535)
        grey = Image.fromarray((levels // 257).astype(np.uint8))
        grey.info = picture.info
        return grey
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return (picture.convert("RGB") if picture.mode == "CMYK" else picture).convert("L")


def _shrunk(picture: Image.Image) -> Image.Image:
    factor = max(picture.size) // WORKING_SIDE
    return picture.reduce(factor) if factor > 1 else picture


def _flattened(picture: Image.Image) -> Grey:
    """Alpha as ink where all that is visible has one colour, else the picture on white paper."""
    pixels = np.asarray(picture)
    alpha = pixels[..., 3]
    visible = pixels[alpha >= 64, :3]
    if len(visible) and np.ptp(alpha) >= BLANK_BELOW and np.ptp(visible, axis=0).max() <= 24:
        return alpha
    paper = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(paper, picture).convert("L"))


# From grey to MNIST


def _digit(ink: Grey, pixels: Grey) -> Digit:
    warnings: list[DigitWarning] = []
    contrast = int(np.ptp(ink))
    if contrast < BLANK_BELOW:
        warnings.append("blank")
    elif contrast < LOW_CONTRAST_BELOW:
        warnings.append("low_contrast")
    if contrast >= BLANK_BELOW and (_border(ink) > _otsu(ink)).any():
        warnings.append("touches_edge")
    return Digit(np.ascontiguousarray(pixels).reshape(SIDE * SIDE), tuple(warnings))


def _normalised(ink: Grey) -> Grey:
    solid = ink > _otsu(ink)
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(box.shape)
    fitted = _resized(box, *(max(1, round(side * scale)) for side in box.shape))
    fitted *= 255 / fitted.max()
    top, left = (_offset(fitted.sum(axis=axis)) for axis in (1, 0))
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted.round()
    return canvas


def _offset(profile: NDArray[np.float32]) -> int:
    """Where to put ink with these sums so that its centre of mass comes to the middle, all of it inside."""
    mean = float(profile @ np.arange(len(profile)) / profile.sum())
    return min(max(round(CENTRE - mean), 0), SIDE - len(profile))


def _resized(grey: Grey, height: int, width: int) -> NDArray[np.float32]:
    """The mean over each new pixel's area, unrounded; interpolated where the picture grows."""
    shrinks = grey.shape[0] >= height and grey.shape[1] >= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(grey.astype(np.float32)).resize((width, height), method))


def _border(grey: Grey) -> Grey:
    return np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))


def _otsu(grey: Grey) -> int:
    """The level that best parts dark (at most it) from light (Otsu 1979): largest variance between both."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    sums = (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * above)
    return int(np.nan_to_num(between, nan=0.0, posinf=0.0).argmax())
