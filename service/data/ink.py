"""Grey levels -> ink on nothing: the paper is flattened, the polarity found, specks and ruled lines dropped.

The paper's level at each place is the picture's morphological closing, at a size that no stroke reaches: shadows, hard
edges included, are larger and stay. Written light on dark, the picture is inverted first.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.data.pictures import Grey, border, padded, quantile

Polarity = Literal["dark_on_light", "light_on_dark"]
Mask = NDArray[np.uint8]  # height x width, 0 or 1

PAPER_SIDE = 256  # the paper is estimated at this size
WIDEST_STROKE = 0.35  # of the picture's longer side
DARKEST_PAPER = 40  # in a deeper shadow noise would become ink
BLANK_BELOW = 6  # grey levels between paper and strongest ink
STRONG_SHARE = 0.0005  # of all pixels: fewer are specks
NOISE_ABOVE = 1.0  # grey levels: less is left as it is
NOISE_FACTOR = 5.0  # ink stands so many deviations above the noise
SPECK_AREA, SPECK_EXTENT = 0.04, 0.2  # of the largest shape's
FRAME_SHARE = 0.2  # of the longer side: a stroke does not lie along the edge for so long
SHEET_SHARE, SHEET_FILLED = 0.25, 0.9  # of the picture, and of its convex hull
LINE_SHARE = 0.6  # of the picture that a ruled line crosses
LINE_WIDTH = 0.02  # of the picture's longer side, at most
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Ink:
    """`level`: 0 is paper, 255 the strongest there can be; `solid`: where it counts as ink; `threshold`: the level
    that parts the two; `contrast`: grey levels of the picture between ink and paper."""

    level: Grey
    solid: Mask
    threshold: int
    contrast: int
    polarity: Polarity


def find(grey: Grey) -> Ink | None:
    """The ink of a picture; none if it is blank. Of a light sheet on something dark, what is written on the sheet."""
    found = _find(grey)
    sheet = None if found is None else _sheet(found)
    if sheet is None:
        return found
    x, y, width, height = cv2.boundingRect(sheet)
    window = slice(y, y + height), slice(x, x + width)
    on_it = sheet[window].view(np.bool_)
    paper = int(quantile(grey[window][on_it]))
    written = _find(np.where(on_it, grey[window], np.uint8(paper)))
    if written is None or written.polarity != "dark_on_light":
        return found
    level, solid = np.zeros_like(grey), np.zeros_like(grey)
    level[window], solid[window] = written.level * on_it, written.solid * on_it
    return replace(written, level=level, solid=solid) if solid.any() else found


def _sheet(found: Ink) -> Mask | None:
    """Where a sheet of paper lies, if that is what was taken for light ink: large, and all but holes filled."""
    if found.polarity == "dark_on_light":
        return None
    outlines, _ = cv2.findContours(found.solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    area = cv2.contourArea(hull)
    if area < SHEET_SHARE * found.solid.size or cv2.contourArea(outline) < SHEET_FILLED * area:
        return None
    sheet = np.zeros_like(found.solid)
    cv2.fillConvexPoly(sheet, hull, 1)
    if cv2.countNonZero(sheet & found.solid) < 0.85 * cv2.countNonZero(sheet):
        return None  # such as a 0
    margin = 2 * max(1, max(sheet.shape) // 80) + 1
    inner = _morphed(padded(sheet, 1), cv2.MORPH_ERODE, _rectangle(margin, margin))[1:-1, 1:-1]
    return np.ascontiguousarray(inner)


def _find(grey: Grey) -> Ink | None:
    clean = _clean(grey)
    if clean is None:
        smooth = _denoised(grey)
        polarity, paper = _paper(smooth)
    else:
        smooth, (polarity, paper) = grey, clean
    if polarity == "light_on_dark":
        smooth = ~smooth
    level, noise = _flattened(smooth, paper, polarity), 0.0
    if clean is None:
        level, noise = _unlifted(level)
        level = _without_frame(level)
    strongest = _strongest(level)
    if strongest < max(BLANK_BELOW, NOISE_FACTOR * noise):
        return None
    threshold = max(_threshold(level, strongest), round(min(NOISE_FACTOR * noise, strongest / 2)))
    solid = (level > threshold).astype(np.uint8)
    solid = _without_clutter(_without_lines(solid))
    inked = solid.view(np.bool_)
    contrast = round(quantile(cv2.subtract(paper, smooth)[inked]))
    return Ink(level, solid, threshold, contrast, polarity)


def _clean(grey: Grey) -> tuple[Polarity, Grey] | None:
    """As `_paper` has it, of a picture that a program drew: one level all along the border, and of at least half of the
    picture. Nothing need be estimated there."""
    edge = border(grey)
    paper = np.full_like(grey, edge[0])
    if (edge != edge[0]).any() or 2 * np.count_nonzero(grey == paper) < grey.size:
        return None
    is_dark = cv2.subtract(paper, grey).sum() >= cv2.subtract(grey, paper).sum()
    return ("dark_on_light", paper) if is_dark else ("light_on_dark", ~paper)


def otsu(levels: NDArray[np.uint8]) -> int:
    """The level that best parts dark (at most it) from light (Otsu 1979): largest variance between both."""
    counts = np.bincount(levels.ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    sums = (counts * _LEVELS).cumsum()
    total = below[-1]
    both = below * (total - below)
    between = np.zeros(256)
    np.divide((sums[-1] * below / total - sums) ** 2, both, out=between, where=both > 0)
    return int(between.argmax())


def _denoised(grey: Grey) -> Grey:
    side = max(grey.shape)
    if min(grey.shape) < 8:
        return grey
    away = cv2.absdiff(grey, cv2.medianBlur(grey, 3))
    if quantile(away[::3]) < NOISE_ABOVE:
        return grey
    sigma = min(max(side / 250, 0.7), 2.0)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.uint8)


def _unlifted(level: Grey) -> tuple[Grey, float]:
    """With the paper at 0, and its noise: a closing lies above noisy paper. The standard deviation is told by what is
    less than the paper, for no ink is."""
    sample = level[::3, ::3] if level.size > 10_000 else level
    paper = int(quantile(border(level)))
    below = sample[sample < paper]
    noise = 1.4826 * quantile(paper - below) if below.size else 0.0
    return (np.maximum(level, paper) - np.uint8(paper)), noise


def _paper(grey: Grey) -> tuple[Polarity, Grey]:
    """How it is written, and the level of the paper at each place, inverted where that is dark."""
    small = _small(grey)
    reach = max(3, round(WIDEST_STROKE * max(small.shape)))
    kernel = _rectangle(reach, reach)
    inverted = 255 - small
    on_light, on_dark = (_morphed(each, cv2.MORPH_CLOSE, kernel) for each in (small, inverted))
    is_dark = _standing_out(small, on_light) >= _standing_out(inverted, on_dark)
    polarity: Polarity = "dark_on_light" if is_dark else "light_on_dark"
    paper = on_light if is_dark else on_dark
    if paper.shape != grey.shape:
        smooth = cv2.blur(paper, (3, 3))
        paper = np.asarray(cv2.resize(smooth, grey.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return polarity, paper


def _standing_out(grey: Grey, paper: Grey) -> float:
    """How much darker than the border what would be the ink is. The hole of a 0 is as light as the paper around."""
    level = cv2.subtract(paper, grey)
    inked = level > max(level.max() / 2, 1)
    if not inked.any():
        return -255.0
    return quantile(border(grey), 0.25) - quantile(grey[inked])


def _small(grey: Grey) -> Grey:
    scale = PAPER_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _flattened(grey: Grey, paper: Grey, polarity: Polarity) -> Grey:
    """Ink's level: light falls on dark ink by the same share as on the paper around it."""
    if polarity == "light_on_dark":
        return np.asarray(cv2.subtract(paper, grey), np.uint8)
    return np.asarray(
        cv2.divide(cv2.subtract(paper, grey), np.maximum(paper, DARKEST_PAPER), scale=255), np.uint8
    )


def _strongest(level: Grey) -> int:
    """The level that a stroke's pixels reach, be it as thin as a hair."""
    count = max(3, round(STRONG_SHARE * level.size))
    above = np.bincount(level.ravel(), minlength=256)[::-1].cumsum()
    return 255 - int((above >= min(count, level.size)).argmax())


def _without_frame(level: Grey) -> Grey:
    """Without a strip of something else along the picture's edge, which may be stronger than the ink."""
    limit = _strongest(level) // 2
    if np.count_nonzero(border(level) > limit) < FRAME_SHARE * max(level.shape):
        return level
    labels, stats = labelled((level > limit).astype(np.uint8))
    framing = _framing(labels, stats, level.shape)
    framing[0] = False
    if framing[1:].all() and stats[1:, cv2.CC_STAT_AREA].sum() > 0.3 * level.size:
        return level
    width = 2 * max(1, max(level.shape) // 100) + 1
    frame = _morphed(framing[labels].astype(np.uint8), cv2.MORPH_DILATE, _rectangle(width, width))
    rest = level * (1 - frame)
    return rest if _strongest(rest) >= max(BLANK_BELOW, limit // 4) else level


def _threshold(level: Grey, strongest: int) -> int:
    """Otsu's, of what lies near ink: else a thin stroke would weigh nothing against the paper's noise."""
    strong = (level > strongest // 2).astype(np.uint8)
    reach = 2 * max(2, max(level.shape) // 100) + 1
    near = cv2.dilate(strong, _rectangle(reach, reach)).view(np.bool_)
    return otsu(level[near])


def _without_lines(solid: Mask) -> Mask:
    """Ruled lines and grids go; where a stroke crosses one it stays. Nothing but lines is what was drawn."""
    rest = solid
    for _ in range(2):  # along rows, then along columns
        rest = np.ascontiguousarray(_without_rows(rest).T)
    return rest if rest.any() else solid


def _without_rows(solid: Mask) -> Mask:
    height, width = solid.shape
    if min(height, width) < 40:
        return solid
    run = max(12, width // 24)
    runs = _morphed(solid, cv2.MORPH_OPEN, _rectangle(run, 1))
    widest = max(2.5, LINE_WIDTH * max(height, width))
    runs &= 1 - _morphed(
        runs, cv2.MORPH_OPEN, _rectangle(1, int(widest) + 2)
    )  # strokes are thicker than lines
    if cv2.countNonZero(cv2.reduce(runs, 0, cv2.REDUCE_MAX)) < LINE_SHARE * width:
        return solid
    reach = max(2 * run, width // 4)  # a stroke may hide so much of a line
    labels, stats = labelled(_morphed(runs, cv2.MORPH_CLOSE, _rectangle(reach, 5)))
    left, across = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_WIDTH]
    ruled = (left <= width // 40) & (left + across >= width - width // 40)  # a stroke seldom does
    ruled &= stats[:, cv2.CC_STAT_AREA] <= 1.5 * widest * across  # the ends of strokes may lie along it
    ruled &= stats[:, cv2.CC_STAT_HEIGHT] <= 0.12 * width
    ruled[0] = False
    if not ruled.any():
        return solid
    thickness = float(np.median(stats[ruled, cv2.CC_STAT_AREA] / across[ruled]))
    thick = 2 * int(np.ceil(thickness)) + 1
    line = _morphed(ruled[labels].astype(np.uint8), cv2.MORPH_DILATE, _rectangle(1, 3))
    crossing = _morphed(solid, cv2.MORPH_OPEN, _rectangle(1, thick))
    rest = solid & (1 - (line & (1 - crossing)))
    healed: Mask = rest | (_morphed(rest, cv2.MORPH_CLOSE, _rectangle(1, thick)) & solid)
    return healed


def _without_clutter(solid: Mask) -> Mask:
    """Specks go, and what runs along the picture's edge, such as a table beside the paper, if anything is left."""
    labels, stats = labelled(solid)
    if len(stats) <= 2:
        return solid
    area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    extent = stats[:, (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)].max(axis=1).astype(np.float64)
    area[0] = extent[0] = 0
    kept = ~_framing(labels, stats, solid.shape)
    kept[0] = False
    if not kept.any() or area[kept].max() < 0.1 * area.max():
        kept[1:] = True
    largest = np.argmax(np.where(kept, area, 0))
    kept &= (area >= SPECK_AREA * area[largest]) | (extent >= SPECK_EXTENT * extent[largest])
    kept &= area >= min(area[largest], max(1.0, 0.002 * area[largest]))
    rest: Mask = kept[labels].astype(np.uint8)
    return rest


def _framing(
    labels: NDArray[np.int32], stats: NDArray[np.int32], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which shapes lie along the edge for long, or cross the picture."""
    contact = np.bincount(border(labels), minlength=len(stats))
    across = (stats[:, cv2.CC_STAT_WIDTH] >= 0.95 * shape[1]) | (
        stats[:, cv2.CC_STAT_HEIGHT] >= 0.95 * shape[0]
    )
    framing: NDArray[np.bool_] = (contact > FRAME_SHARE * max(shape)) | ((contact > 0) & across)
    return framing


def labelled(solid: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which connected shape each pixel belongs to, 0 for none; and of each shape, 0 included, left, top, width, height
    and area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def _morphed(levels: Grey, operation: int, kernel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.morphologyEx(levels, operation, kernel), np.uint8)


def _rectangle(width: int, height: int) -> NDArray[np.uint8]:
    return np.ones((height, width), np.uint8)
