"""MNIST's digits as somebody would post them: drawn, scanned, photographed. Everything follows from a seed.

A digit's outline is enlarged from its 28 x 28 pixels, given another stroke where the kind asks for one, and laid on
paper of its own size and colour; what a kind is about comes on top. `several` lays many digits on one sheet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]
Share = NDArray[np.float32]  # 0 to 1: how much of a pixel is ink, or how much light falls on it

FINE = 8  # an outline has so many pixels for one of MNIST's


@dataclass(frozen=True)
class Sheet:
    """How a digit is posted; pairs are the limits of an even draw."""

    side: tuple[int, int] = (60, 600)
    filled: tuple[float, float] = (0.5, 0.9)  # the digit's height by the picture's
    off_centre: float = 0.3  # of the room that is left
    ink: tuple[int, int] = (0, 60)
    paper: tuple[int, int] = (225, 255)
    grown: tuple[float, float] | None = None  # MNIST's pixels that the stroke gains on each side
    hairline: tuple[int, int] | None = None  # picture's pixels that the stroke is wide
    turned: float = 0.0  # degrees at most
    shadow: float = 0.0  # share of light that it takes at most
    noise: float = 0.0  # standard deviation, of 255
    blur: float = 0.0  # standard deviation by the digit's height
    ruled: str = ""  # lines or grid
    quality: int | None = None  # of JPEG
    coloured: bool = False
    transparent: bool = False


KINDS: dict[str, Sheet] = {
    "black on white": Sheet(ink=(0, 0), paper=(255, 255)),
    "white on black": Sheet(ink=(255, 255), paper=(0, 0)),
    "20 to 48 pixels": Sheet(side=(20, 48), filled=(0.7, 0.95)),
    "600 to 2,000 pixels": Sheet(side=(600, 2000)),
    "off-centre": Sheet(filled=(0.15, 0.4), off_centre=1.0, side=(150, 800)),
    "shadowed": Sheet(shadow=0.6, noise=3),
    "noisy": Sheet(noise=35),
    "JPEG": Sheet(quality=20),
    "transparent": Sheet(transparent=True),
    "thick": Sheet(grown=(0.4, 1.0)),
    "thin": Sheet(hairline=(2, 3), side=(200, 900)),
    "rotated": Sheet(turned=12.0),
    "ruled paper": Sheet(ruled="lines", noise=3),
    "grid paper": Sheet(ruled="grid", noise=3),
    "coloured pen": Sheet(coloured=True, quality=80),
    "photo": Sheet(
        side=(300, 1600), filled=(0.25, 0.8), off_centre=0.8, paper=(150, 225), ink=(20, 80), turned=8.0,
        shadow=0.5, noise=8, blur=0.01, quality=60,
    ),
}  # fmt: skip


def posted(pixels: Grey, kind: str, seed: int) -> bytes:
    """A digit, uint8 (784,), as an image file of one of `KINDS`."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    sheet = KINDS[kind]
    side = int(np.exp(rng.uniform(*np.log(sheet.side)))) if sheet.side[0] < sheet.side[1] else sheet.side[0]
    height = max(14, round(side * rng.uniform(*sheet.filled)))
    share = _inked(pixels, height, sheet, rng)
    canvas = np.zeros((side, side), np.float32)
    rows, columns = (min(length, side) for length in share.shape)
    top, left = (_place(side - length, sheet.off_centre, rng) for length in (rows, columns))
    canvas[top : top + rows, left : left + columns] = share[:rows, :columns]
    return _on_paper(canvas, sheet, rng, height)


def several(
    images: Sequence[Grey], seed: int, *, height: int = 60, slant: float = 0.0, rows: int = 1
) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Digits in lines as a PNG, and where each stands: left, top, width, height."""
    rng = np.random.default_rng(seed)
    columns = -(-len(images) // rows)
    size = (int(height * (1.9 * rows + 1) + abs(slant) * columns * height), int(height * (columns + 1.2)))
    canvas, boxes = np.zeros(size, np.float32), []
    for index, pixels in enumerate(images):
        row, column = divmod(index, columns)
        share = outline(pixels, round(height * rng.uniform(0.8, 1.1)))
        top = int(
            height * (0.5 + 1.9 * row)
            + slant * column * height
            + (abs(slant) * columns * height if slant < 0 else 0)
        )
        left = int(height * (0.6 + column) + (height - share.shape[1]) / 2 * rng.uniform(0.4, 1.0))
        part = canvas[top : top + share.shape[0], left : left + share.shape[1]]
        np.maximum(part, share, out=part)
        boxes.append((left, top, share.shape[1], share.shape[0]))
    return _on_paper(canvas, Sheet(noise=4), rng, height), boxes


def outline(pixels: Grey, height: int, grown: float = 0.0) -> Share:
    """The digit as crisp ink, cropped to its box and `height` pixels high; its strokes gain `grown` of MNIST's pixels
    on each side."""
    square = np.pad(pixels.reshape(28, 28), 2)
    fine = cv2.resize(square, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_CUBIC)
    solid = (cv2.GaussianBlur(fine, (0, 0), FINE / 4) > 110).astype(np.uint8)
    if grown > 0:
        solid = (cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5) <= grown * FINE).astype(np.uint8)
    left, top, width, tall = cv2.boundingRect(solid)
    crop = solid[top : top + tall, left : left + width].astype(np.float32)
    wide = max(1, round(width * height / tall))
    method = cv2.INTER_AREA if height < tall else cv2.INTER_LINEAR
    return np.asarray(np.clip(cv2.resize(crop, (wide, height), interpolation=method), 0, 1), np.float32)


def hairline(pixels: Grey, height: int, width: int) -> Share:
    """The digit's skeleton drawn with a pen of `width` pixels, `height` high."""
    fine = cv2.resize(pixels.reshape(28, 28), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    spine = _thinned(np.pad(fine > 110, 1))
    ys, xs = np.nonzero(spine)
    scale = height / max(1, int(np.ptp(ys)))
    points = {(int(y), int(x)) for y, x in zip(ys, xs, strict=True)}
    size = (height + 2 * width, int(np.ptp(xs) * scale) + 2 * width + 1)
    canvas = np.zeros(size, np.uint8)

    def placed(y: int, x: int) -> tuple[int, int]:
        return round((x - xs.min()) * scale) + width, round((y - ys.min()) * scale) + width

    for y, x in points:
        for other in ((y, x), (y, x + 1), (y + 1, x - 1), (y + 1, x), (y + 1, x + 1)):
            if other in points:
                cv2.line(canvas, placed(y, x), placed(*other), 255, width, cv2.LINE_AA)
    return np.asarray(canvas / np.float32(255), np.float32)


def _inked(pixels: Grey, height: int, sheet: Sheet, rng: Generator) -> Share:
    if sheet.hairline is not None:
        share = hairline(pixels, height, int(rng.integers(*sheet.hairline, endpoint=True)))
    else:
        share = outline(pixels, height, rng.uniform(*sheet.grown) if sheet.grown else 0.0)
    if sheet.turned:
        share = _turned(share, rng.uniform(-sheet.turned, sheet.turned))
    return share


def _turned(share: Share, degrees: float) -> Share:
    room = round(0.2 * max(share.shape)) + 2
    padded = np.pad(share, room)
    centre = (padded.shape[1] / 2, padded.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(padded, turn, padded.shape[::-1], flags=cv2.INTER_LINEAR), np.float32)
    left, top, width, height = cv2.boundingRect((turned > 0.02).astype(np.uint8))
    return turned[top : top + height, left : left + width]


def _place(room: int, off_centre: float, rng: Generator) -> int:
    return max(0, round(room / 2 * (1 + off_centre * rng.uniform(-1, 1))))


def _on_paper(share: Share, sheet: Sheet, rng: Generator, height: int) -> bytes:
    if sheet.blur:
        share = np.asarray(cv2.GaussianBlur(share, (0, 0), max(0.3, sheet.blur * height)), np.float32)
    ink, paper = _colours(sheet, rng)
    if sheet.transparent:
        alpha = (share * 255).round().astype(np.uint8)
        layers = np.dstack([np.broadcast_to(ink.astype(np.uint8), (*share.shape, 3)), alpha])
        return encoded(Image.fromarray(np.ascontiguousarray(layers)))
    colours = paper + np.zeros((*share.shape, 1), np.float32)
    if sheet.ruled:
        lines = _lines(share.shape, sheet.ruled, rng, height)[..., None]
        colours = colours + lines * (_line_colour(rng) - colours)
    colours = colours + share[..., None] * (ink - colours)
    if sheet.shadow:
        colours *= _light(share.shape, sheet.shadow, rng)[..., None]
    if sheet.noise:
        colours = colours + rng.normal(0, sheet.noise, share.shape)[..., None]
    picture = Image.fromarray(colours.clip(0, 255).round().astype(np.uint8))
    if not (sheet.coloured or sheet.ruled):
        picture = picture.convert("L")
    return encoded(picture, "JPEG", quality=sheet.quality) if sheet.quality else encoded(picture)


def _colours(sheet: Sheet, rng: Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    ink = np.full(3, rng.integers(*sheet.ink, endpoint=True), np.float32)
    paper = np.full(3, rng.integers(*sheet.paper, endpoint=True), np.float32)
    if sheet.coloured:
        pens = ((200, 30, 40), (30, 60, 200), (20, 140, 60), (240, 120, 20), (130, 40, 160), (250, 220, 40))
        ink = np.array(pens[rng.integers(len(pens))], np.float32)
        paper = paper * np.array((1.0, rng.uniform(0.94, 1.0), rng.uniform(0.85, 1.0)), np.float32)
    return ink, paper


def _line_colour(rng: Generator) -> NDArray[Any]:
    colours = ((150, 180, 220), (170, 170, 170), (120, 150, 200), (210, 150, 150))
    return np.array(colours[rng.integers(len(colours))], np.float32)


def _lines(shape: tuple[int, ...], ruled: str, rng: Generator, height: int) -> Share:
    lines = np.zeros(shape, np.float32)
    width = max(1, round(height * rng.uniform(0.005, 0.02)))
    step = round(height * (rng.uniform(0.8, 1.3) if ruled == "lines" else rng.uniform(0.25, 0.6)))
    step = max(step, 3 * width, 6)
    slope = rng.uniform(-0.02, 0.02)
    for start in range(int(rng.integers(step)) - step, shape[0] + step, step):
        end = round(start + slope * shape[1])
        cv2.line(lines, (0, start), (shape[1], end), 1.0, width)
    for start in range(int(rng.integers(step)) - step, shape[1] + step, step) if ruled == "grid" else ():
        cv2.line(lines, (start, 0), (round(start - slope * shape[0]), shape[0]), 1.0, width)
    return lines


def _light(shape: tuple[int, ...], taken: float, rng: Generator) -> Share:
    """A slope of light, and for every second picture the edge of a shadow across it."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) / max(shape)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    light = 1 - taken * rng.uniform(0.3, 1) * (along - along.min()) / max(1e-6, np.ptp(along))
    if rng.random() < 0.5:
        angle, edge, soft = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3), rng.uniform(0.01, 0.1)
        beyond = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) - edge) / soft
        light = light * (1 - taken * rng.uniform(0.3, 0.8) / (1 + np.exp(-np.clip(beyond, -30, 30))))
    return np.asarray(light, np.float32)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """As an image file; PNG with the least compression, which is fastest."""
    file = BytesIO()
    picture.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {}), **options)
    return file.getvalue()


def _thinned(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Zhang and Suen (1984): peel the outline from two sides in turn until a skeleton is left."""
    while True:
        before = solid.sum()
        for first in (True, False):
            around = [np.roll(solid, step, (0, 1)) for step in _RING]
            count = sum(side.astype(np.int8) for side in around)
            turns = sum(
                (~one & two).astype(np.int8) for one, two in zip(around, around[1:] + around[:1], strict=True)
            )
            n, e, s, w = around[0], around[2], around[4], around[6]
            kept = (n & e & s) | (e & s & w) if first else (n & e & w) | (n & s & w)
            solid = solid & ~((count >= 2) & (count <= 6) & (turns == 1) & ~kept)
        if solid.sum() == before:
            return solid


_RING = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))  # from north, clockwise
