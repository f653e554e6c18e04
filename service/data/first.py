"""Preprocessing version 1, of models that were trained for it: a plain threshold, crop and fit.

After LeCun et al. (1998, section III.A): the ink's bounding box fits a square of 20 x 20, which lies in 28 x 28 by its
centre of mass. It knows no shadows, no ruled lines and no thin strokes; see `service.data.digits` for what came after.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.data.ink import otsu
from service.data.pictures import Grey, border

Odd = Literal["blank", "low_contrast", "touches_edge"]

SIDE, BOX, CENTRE = 28, 20, 14
BLANK_BELOW, LOW_CONTRAST_BELOW = 16, 64


def prepare(grey: Grey, mode: str) -> tuple[Grey, list[Odd]]:
    """uint8 (28, 28) of a grey picture, and what is odd about it."""
    if mode == "none":
        return resized(grey, SIDE, SIDE).round().astype(np.uint8), _warnings(grey)
    background = int(np.median(border(grey)))
    flipped = 255 - grey if background > 127 else grey
    ink = flipped - np.minimum(flipped, min(background, 255 - background))
    if ink.max() < BLANK_BELOW:
        return np.zeros((SIDE, SIDE), dtype=np.uint8), ["blank"]
    as_it_is = mode == "auto" and grey.shape == (SIDE, SIDE)
    return flipped if as_it_is else _normalised(ink), _warnings(ink)


def resized(grey: Grey, height: int, width: int) -> NDArray[np.float32]:
    """The mean over each new pixel's area, unrounded; interpolated where the picture grows."""
    shrinks = grey.shape[0] >= height and grey.shape[1] >= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(grey.astype(np.float32)).resize((width, height), method))


def _warnings(ink: Grey) -> list[Odd]:
    contrast = int(np.ptp(ink))
    if contrast < BLANK_BELOW:
        return ["blank"]
    found: list[Odd] = ["low_contrast"] if contrast < LOW_CONTRAST_BELOW else []
    if (border(ink) > otsu(ink)).any():
        found.append("touches_edge")
    return found


def _normalised(ink: Grey) -> Grey:
    solid = ink > otsu(ink)
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(box.shape)
    fitted = resized(box, *(max(1, round(side * scale)) for side in box.shape))
    fitted *= 255 / fitted.max()
    return centred(fitted)


def centred(fitted: NDArray[np.float32]) -> Grey:
    """In 28 x 28 by whole pixels, so that the centre of mass comes to the middle, all of it inside."""
    top, left = (_offset(fitted.sum(axis=axis)) for axis in (1, 0))
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted.round()
    return canvas


def _offset(profile: NDArray[np.float32]) -> int:
    mean = float(profile @ np.arange(len(profile)) / profile.sum())
    return min(max(round(CENTRE - mean), 0), SIDE - len(profile))
