"""Any image -> what the network sees: 28 x 28 grey levels, white ink on black, as MNIST has it.

A picture that is not MNIST-like already is treated as MNIST's were (LeCun et al. 1998, section III.A): its ink fits a
square of 20 x 20, which lies in 28 x 28 by its centre of mass. What ink is, `service.data.ink` says; which of it is
the digit, `service.data.layout`. Strokes far thinner or thicker than MNIST's are brought towards its own.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.data import first, ink, layout
from service.data.first import BLANK_BELOW as BLANK_BELOW
from service.data.first import BOX, CENTRE, centred, resized
from service.data.first import LOW_CONTRAST_BELOW as LOW_CONTRAST_BELOW
from service.data.first import SIDE as SIDE
from service.data.ink import Ink, Polarity
from service.data.layout import Shape
from service.data.pictures import Grey, Picture, border, decode, padded, quantile
from service.errors import FieldError, Invalid

PREPROCESSING_VERSION = "4"  # stored with each model; raised when the same picture gives other pixels

Mode = Literal["auto", "mnist", "none"]
Scale = Literal["byte", "unit"]
DigitWarning = Literal["blank", "low_contrast", "several_digits", "touches_edge"]
Box = tuple[int, int, int, int]  # left, top, width, height

PIXELS = SIDE * SIDE
MAX_FIELD_ERRORS = 20
DARK, INK_ABOVE = 8, 64  # levels of a border without ink, and of ink, in what is MNIST-like
MAX_DIGITS = 100  # in one picture
SHEET_SIDE = 1024  # a picture of several digits is averaged down to this

FINE = 8  # a digit is drawn so many times finer before it is averaged down to its 20 x 20
THIN, THICK = 1.9, 3.6  # width of strokes, in MNIST's pixels, that are left as they are
SOFT = 0.4  # standard deviation of the blur before, in MNIST's pixels


@dataclass(frozen=True)
class Digit:
    """One picture as the network sees it: uint8 (784,), rows from the top, white ink on black.

    `box` is where the digit stands in the picture's own pixels, turned as its EXIF says; None where there is none.
    """

    pixels: NDArray[np.uint8]
    warnings: tuple[DigitWarning, ...]
    box: Box | None = None
    polarity: Polarity | None = None


def read(
    image: bytes, *, mode: Mode = "auto", max_pixels: int, version: str = PREPROCESSING_VERSION
) -> Digit:
    """A PNG, JPEG or WebP file as a digit; see `prepare` for `mode`. Raises what `pictures.decode` does."""
    return VERSIONS[version](decode(image, max_pixels=max_pixels), mode)


def prepare(grey: Grey, *, mode: Mode = "auto", version: str = PREPROCESSING_VERSION) -> Digit:
    """A grey picture of any size, uint8 (height, width), as a digit.

    auto takes what is MNIST-like untouched, moved where it lies elsewhere and inverted where its border is light, and
    normalises all else; mnist always normalises; none only resizes to 28 x 28.
    """
    return VERSIONS[version](Picture.of(grey), mode)


def read_all(image: bytes, *, max_pixels: int) -> list[list[Digit]]:
    """Every digit in a PNG, JPEG or WebP file, line by line in reading order.

    Raises what `pictures.decode` does, and Invalid (`too_many_digits`)."""
    picture = decode(image, max_pixels=max_pixels, side=SHEET_SIDE)
    found = ink.find(picture.grey)
    if found is None:
        return []
    lines = layout.lines(found.solid)
    count = sum(map(len, lines))
    if count > MAX_DIGITS:
        raise Invalid(
            f"the picture holds {count} shapes, the limit is {MAX_DIGITS}: send a part of it",
            code="too_many_digits",
        )
    return [[_drawn(picture, found, shape, several=shape.crowded) for shape in line] for line in lines]


def from_pixels(images: Sequence[object], *, scale: Scale = "byte") -> NDArray[np.float32]:
    """JSON pixels, each image 784 numbers or 28 rows of 28, as float32 (n, 784) from 0 to 255, unrounded.

    Raises Invalid (`bad_pixels`), which points at each image that is wrong and says how.
    """
    top = 255.0 if scale == "byte" else 1.0
    pixels = np.zeros((len(images), PIXELS), dtype=np.float64)
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
    expected = f"expected {PIXELS} or {SIDE} rows of {SIDE}"
    if not isinstance(image, list | tuple):
        return f"is {_said(image)}, {expected} numbers"
    if {list, tuple}.isdisjoint(map(type, image)):
        return image if len(image) == PIXELS else f"got {len(image)}, {expected}"
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


# From a picture to MNIST


def _fourth(picture: Picture, mode: Mode) -> Digit:
    return _prepared(picture, mode, placed)


def _third(picture: Picture, mode: Mode) -> Digit:
    def placed_whole(pixels: Grey) -> Grey | None:
        is_taken = _is_there(_off(pixels)) or not border(pixels > DARK).any()
        return placed(pixels) if is_taken else None

    return _prepared(picture, mode, placed_whole)


def _second(picture: Picture, mode: Mode) -> Digit:
    return _prepared(picture, mode, lambda pixels: pixels if _is_there(_off(pixels)) else None)


def _prepared(picture: Picture, mode: Mode, place: Callable[[Grey], Grey | None]) -> Digit:
    """`place` gives what is to be taken as it is, of ink on black."""
    grey = picture.grey
    if mode == "none":
        return _as_it_is(picture, resized(grey, SIDE, SIDE).round().astype(np.uint8), grey, None)
    if mode == "auto" and grey.shape == (SIDE, SIDE):
        paper = quantile(border(grey))
        light = paper > 127
        pixels = 255 - grey if light else grey
        taken = place(pixels) if min(paper, 255 - paper) <= DARK else None
        if taken is not None:
            return _as_it_is(picture, taken, pixels, "dark_on_light" if light else "light_on_dark")
    found = ink.find(grey)
    if found is None:
        return Digit(np.zeros(PIXELS, dtype=np.uint8), ("blank",))
    shape, several = layout.alone(found.solid)
    return _drawn(picture, found, shape, several=several)


def _first(picture: Picture, mode: Mode) -> Digit:
    pixels, warnings = first.prepare(picture.grey, mode)
    return Digit(pixels.reshape(PIXELS), tuple(warnings))


VERSIONS: dict[str, Callable[[Picture, Mode], Digit]] = {"1": _first, "2": _second, "3": _third, "4": _fourth}
MOVING = frozenset(("3", "4"))  # versions that move what lies elsewhere in 28 x 28


def placed(pixels: Grey) -> Grey | None:
    """Ink on black, uint8 (28, 28), where MNIST has it, if it is as large as there; None if it is not. What lies about
    there stays as it is, as every picture of MNIST does. What lies elsewhere is moved by whole pixels: to draw it anew would
    take twenty times as long and blur it, and what the picture's edge has cut off would be stretched besides."""
    off = _off(pixels)
    if off is None or _is_there(off):
        return None if off is None else pixels
    left, top, width, height = cv2.boundingRect((pixels > DARK).view(np.uint8))
    x, y = (
        min(max(round(at - by), 0), SIDE - side)
        for at, by, side in zip((left, top), off, (width, height), strict=True)
    )
    moved = np.zeros_like(pixels)
    moved[y : y + height, x : x + width] = pixels[top : top + height, left : left + width]
    return moved


def _off(pixels: Grey) -> tuple[float, float] | None:
    """How far to the right of MNIST's and below it the centre of the ink's mass is; None if the ink is not about as
    large."""
    _, _, width, height = cv2.boundingRect((pixels > INK_ABOVE).view(np.uint8))
    if not 14 <= max(width, height) <= 23:
        return None
    moments = cv2.moments(pixels)
    return moments["m10"] / moments["m00"] - CENTRE, moments["m01"] / moments["m00"] - CENTRE


def _is_there(off: tuple[float, float] | None) -> bool:
    return off is not None and max(map(abs, off)) <= 2


def _as_it_is(picture: Picture, pixels: Grey, levels: Grey, polarity: Polarity | None) -> Digit:
    warnings: list[DigitWarning] = []
    contrast = int(np.ptp(levels))
    if contrast < BLANK_BELOW:
        warnings.append("blank")
    elif contrast < LOW_CONTRAST_BELOW:
        warnings.append("low_contrast")
    solid = (levels > ink.otsu(levels)).astype(np.uint8)
    if contrast >= BLANK_BELOW and border(solid).any():
        warnings.append("touches_edge")
    box = _box(picture, *cv2.boundingRect(solid)) if polarity else (0, 0, picture.width, picture.height)
    return Digit(np.ascontiguousarray(pixels).reshape(PIXELS), tuple(warnings), box, polarity)


def _box(picture: Picture, left: int, top: int, width: int, height: int) -> Box:
    """In the picture's own pixels."""
    across, down = picture.width / picture.grey.shape[1], picture.height / picture.grey.shape[0]
    return round(left * across), round(top * down), round(width * across), round(height * down)


def _drawn(picture: Picture, found: Ink, shape: Shape, *, several: bool) -> Digit:
    warnings: list[DigitWarning] = []
    if found.contrast < LOW_CONTRAST_BELOW:
        warnings.append("low_contrast")
    if several:
        warnings.append("several_digits")
    rows, columns = picture.grey.shape
    if min(shape.left, shape.top, columns - shape.left - shape.width, rows - shape.top - shape.height) == 0:
        warnings.append("touches_edge")
    box = _box(picture, shape.left, shape.top, shape.width, shape.height)
    pixels = centred(_fitted(_fine(found, shape)))
    return Digit(pixels.reshape(PIXELS), tuple(warnings), box, found.polarity)


def _fine(found: Ink, shape: Shape) -> NDArray[np.uint8]:
    """The shape's ink, 0 or 1, with its longer side FINE times MNIST's."""
    scale = FINE * BOX / max(shape.width, shape.height)
    size = [max(1, round(side * scale)) for side in (shape.width, shape.height)]
    if scale <= 1:
        share = cv2.resize(shape.solid * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        lost = shape.stroke * scale < 2  # then half a pixel's ink must be enough to be seen
        return np.asarray(share > (30 if lost else 127), np.uint8)
    rows = slice(shape.top, shape.top + shape.height)
    columns = slice(shape.left, shape.left + shape.width)
    own = cv2.dilate(padded(shape.solid, 1), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    level = cv2.resize(found.level[rows, columns] * own, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(level > found.threshold, np.uint8)


def _fitted(solid: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 with a longer side of 20, up to 255, of a fine drawing."""
    solid = _with_stroke(solid)
    room = FINE
    soft = cv2.GaussianBlur(padded(solid * np.float32(255), room), (0, 0), SOFT * FINE)[
        room:-room, room:-room
    ]
    scale = BOX / max(soft.shape)
    size = [max(1, round(side * scale)) for side in soft.shape[::-1]]
    fitted = np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_AREA), np.float32)
    return fitted * np.float32(255 / fitted.max())


def _with_stroke(solid: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Strokes within MNIST's range of widths."""
    width = Shape(0, 0, solid).stroke / FINE
    if width < THIN:
        grown = FINE * (THIN - width) / 2
        around = padded(1 - solid, int(grown) + 2, 1)
        solid = (cv2.distanceTransform(around, cv2.DIST_L2, 5) <= grown).astype(np.uint8)
    elif width > THICK:
        shrunk = FINE * (width - THICK) / 2
        inside = cv2.distanceTransform(padded(solid, 1), cv2.DIST_L2, 5)
        solid = (inside > min(shrunk, 0.5 * float(inside.max()))).astype(np.uint8)
    left, top, wide, tall = cv2.boundingRect(solid)
    return solid[top : top + tall, left : left + wide]
