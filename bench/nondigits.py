"""Pictures that are no digits, drawn from a seed and brought to MNIST's look as an upload would be."""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.data import digits
from service.data.digits import SIDE

# what a person takes for a digit as well, in some hand or font: 0 0 0 0 1 1 1 1 5 5 2 2 8 6 6 9 9
LOOKALIKES = "OoDQIilSsZzBbGgq|"
LETTERS = "".join(
    letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if letter not in LOOKALIKES
)
HERSHEY = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
CANVAS = 112
Grey = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Grey]


def drawn(kind: str, count: int, *, seed: int = 0) -> list[digits.Digit]:
    """So many of a kind, as `digits.prepare` hands them to the network."""
    generator = np.random.default_rng([seed, *kind.encode()])
    return [digits.prepare(KINDS[kind](generator)) for _ in range(count)]


def _letter(generator: np.random.Generator, letters: str) -> Grey:
    letter = letters[generator.integers(len(letters))]
    picture = (_hershey if generator.random() < 0.5 else _dejavu)(generator, letter)
    return _turned(picture, generator.uniform(-10, 10))


def _hershey(generator: np.random.Generator, letter: str) -> Grey:
    picture = np.zeros((CANVAS, CANVAS), np.uint8)
    font, width = HERSHEY[generator.integers(len(HERSHEY))], int(generator.integers(3, 9))
    cv2.putText(picture, letter, (30, 80), font, 2.2, 255, width, cv2.LINE_AA)
    return picture


def _dejavu(generator: np.random.Generator, letter: str) -> Grey:
    picture = Image.new("L", (CANVAS, CANVAS))
    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique")
    font = _font(names[generator.integers(len(names))])
    ImageDraw.Draw(picture).text((30, 15), letter, 255, font)
    return np.array(picture)


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", 60)


def _turned(picture: Grey, degrees: float) -> Grey:
    turn = cv2.getRotationMatrix2D((CANVAS / 2, CANVAS / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (CANVAS, CANVAS)), np.uint8)


def _uniform_noise(generator: np.random.Generator) -> Grey:
    return generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def _smoothed_noise(generator: np.random.Generator) -> Grey:
    noise = generator.normal(size=(SIDE, SIDE))
    smooth = cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.7, 3.0))
    return _stretched(smooth)


def _blank_paper(generator: np.random.Generator) -> Grey:
    level, grain = generator.integers(0, 256), generator.uniform(0, 2)
    return np.clip(level + generator.normal(0, grain, (CANVAS, CANVAS)), 0, 255).astype(np.uint8)


def _texture(generator: np.random.Generator) -> Grey:
    """Clouds: a spectrum that falls as natural pictures' do."""
    rows, columns = np.meshgrid(np.fft.fftfreq(CANVAS), np.fft.fftfreq(CANVAS))
    falls = np.maximum(np.hypot(rows, columns), 1 / CANVAS) ** -generator.uniform(1.0, 2.0)
    spectrum = np.fft.fft2(generator.normal(size=(CANVAS, CANVAS))) * falls
    return _stretched(np.fft.ifft2(spectrum).real)


def _face(generator: np.random.Generator) -> Grey:
    """A shaded oval with hair, eyes, nose and mouth, before a background."""
    picture = np.full((CANVAS, CANVAS), generator.integers(0, 256), np.float32)
    skin, dark = float(generator.integers(120, 230)), float(generator.integers(10, 90))
    middle = (int(56 + generator.integers(-6, 7)), int(60 + generator.integers(-6, 7)))
    axes = (int(generator.integers(26, 38)), int(generator.integers(34, 46)))
    cv2.ellipse(picture, (middle[0], middle[1] - 8), (axes[0] + 5, axes[1] + 2), 0, 0, 360, dark, -1)
    cv2.ellipse(picture, middle, axes, 0, 0, 360, skin, -1)
    for side in (-1, 1):
        eye = (middle[0] + side * axes[0] * 2 // 5, middle[1] - axes[1] // 5)
        cv2.ellipse(picture, eye, (5, 3), 0, 0, 360, dark, -1)
        cv2.line(picture, (eye[0] - 6, eye[1] - 8), (eye[0] + 6, eye[1] - 8), dark, 2)
    cv2.line(picture, middle, (middle[0] - 3, middle[1] + 9), skin * 0.7, 2)
    mouth = (middle[0], middle[1] + axes[1] // 2)
    cv2.ellipse(picture, mouth, (axes[0] // 2, 4), 0, 0, 180, dark, 2)
    light = 1 + 0.3 * np.linspace(-1, 1, CANVAS, dtype=np.float32) * generator.uniform(-1, 1)
    noisy = picture * light + generator.normal(0, 6, picture.shape)
    return np.clip(cv2.GaussianBlur(noisy, (0, 0), 1.5), 0, 255).astype(np.uint8)


def _shape(generator: np.random.Generator) -> Grey:
    """A square, triangle, diamond, pentagon, star, plus or cross, filled or in outline, or a disc: no ring and no
    stroke, which are a 0 and a 1."""
    picture = np.zeros((CANVAS, CANVAS), np.uint8)
    sort = int(generator.integers(8))
    if sort == 7:
        axes = (int(generator.integers(20, 40)), int(generator.integers(20, 40)))
        cv2.ellipse(picture, (56, 56), axes, generator.uniform(0, 180), 0, 360, 255, -1)
        return picture
    if sort >= 5:
        turn = np.deg2rad(45 * (sort - 5) + generator.uniform(-8, 8))
        reach = 36 * np.array([np.cos(turn), np.sin(turn)])
        for arm in (reach, reach[::-1] * [1, -1]):
            ends = [(56 + sign * arm).astype(int).tolist() for sign in (-1, 1)]
            cv2.line(picture, ends[0], ends[1], 255, int(generator.integers(5, 14)))
        return picture
    corners = (4, 3, 4, 5, 10)[sort]
    radii = np.where(np.arange(corners) % 2, 18, 40) if sort == 4 else np.full(corners, 40)
    first = (np.pi / 4, -np.pi / 2, 0.0, -np.pi / 2, -np.pi / 2)[sort] + generator.uniform(-0.15, 0.15)
    angles = first + 2 * np.pi * np.arange(corners) / corners
    points = np.stack([56 + radii * np.cos(angles), 56 + radii * np.sin(angles)], 1).astype(np.int32)
    if generator.random() < 0.5:
        cv2.fillPoly(picture, [points], 255)
    else:
        cv2.polylines(picture, [points], True, 255, int(generator.integers(4, 10)))
    return picture


def _scribble(generator: np.random.Generator) -> Grey:
    """One pen stroke through eight to twenty random points, smoothed."""
    knots = generator.uniform(15, 97, (int(generator.integers(8, 21)), 2))
    at = np.linspace(0, len(knots) - 1, 300)
    line = np.stack([np.interp(at, np.arange(len(knots)), knots[:, axis]) for axis in (0, 1)], 1)
    smooth = cv2.GaussianBlur(line, (1, 0), sigmaX=0.1, sigmaY=6.0)
    picture = np.zeros((CANVAS, CANVAS), np.uint8)
    cv2.polylines(picture, [smooth.astype(np.int32)], False, 255, int(generator.integers(3, 8)), cv2.LINE_AA)
    return picture


def _stretched(values: NDArray[Any]) -> Grey:
    low, high = values.min(), values.max()
    levels: Grey = ((values - low) * (255 / (high - low))).astype(np.uint8)
    return levels


KINDS: dict[str, Draw] = {
    "letters": functools.partial(_letter, letters=LETTERS),
    "letters like digits": functools.partial(_letter, letters=LOOKALIKES),
    "uniform noise": _uniform_noise,
    "smoothed noise": _smoothed_noise,
    "blank paper": _blank_paper,
    "textures": _texture,
    "faces": _face,
    "shapes": _shape,
    "scribbles": _scribble,
}
