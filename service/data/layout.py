"""One picture's ink -> the digits in it: parts that belong together are joined, those that touch are parted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from service.data.ink import Mask, labelled
from service.data.pictures import padded

MAX_PARTS = 400  # the largest are looked at
SMALL_BELOW = 0.35  # of the typical height: no digit, unless it is part of one
WIDE_ABOVE = 1.35  # width by height: two digits that touch
DIGIT_WIDTH = 0.7  # of the typical height
CUT_STROKES = 1.6  # ink in a column where two digits may be parted, by the stroke's width


@dataclass(frozen=True)
class Shape:
    """Ink that belongs together, cropped to its box. `crowded`: it looks like several digits that cannot be parted."""

    left: int
    top: int
    solid: Mask
    crowded: bool = False

    @property
    def width(self) -> int:
        return int(self.solid.shape[1])

    @property
    def height(self) -> int:
        return int(self.solid.shape[0])

    @property
    def middle(self) -> float:
        return self.top + self.height / 2

    @cached_property
    def area(self) -> int:
        return int(cv2.countNonZero(self.solid))

    @cached_property
    def stroke(self) -> float:
        """How wide its strokes are on the mean, in pixels: across a bar the mean distance to its edge is a quarter of
        its width, and half a pixel for the grid."""
        distance = cv2.distanceTransform(padded(self.solid, 1), cv2.DIST_L2, 3)
        return max(1.0, 4 * float(distance.sum()) / max(1, self.area) - 2)


def alone(solid: Mask) -> tuple[Shape, bool]:
    """The one digit that a picture is about, and whether there are others beside it."""
    found = joined(solid)
    main = max(found, key=lambda shape: shape.area)
    rivals = [shape for shape in found if shape is main or shape.height >= 0.5 * main.height]
    if len(rivals) == 1:
        near = [shape for shape in found if shape is main or _belongs(shape, main)]
        return union(near), main.width > 1.6 * main.height
    whole = union(rivals)
    gap = max(_gap(main, other) for other in rivals if other is not main)
    if whole.width <= 1.15 * whole.height and gap <= 0.15 * whole.height:
        return whole, False  # one digit whose strokes do not meet
    return main, True


def _belongs(part: Shape, main: Shape) -> bool:
    """Whether a small shape is a loose stroke of the one digit that there is."""
    longer = max(part.width, part.height)
    return longer >= 0.2 * main.height and _gap(part, main) <= 0.4 * main.height


def lines(solid: Mask) -> list[list[Shape]]:
    """Every digit in reading order: lines from the top, each from the left."""
    found = joined(solid)
    typical = _typical([shape.height for shape in found])
    digits = [shape for shape in found if shape.height >= SMALL_BELOW * typical]
    return _in_lines([part for shape in digits for part in _parted(shape, typical)])


def joined(solid: Mask) -> list[Shape]:
    """The shapes of a mask; a digit's loose parts are one."""
    x, y, width, height = cv2.boundingRect(solid)  # labels cost more than all else here
    crop = np.ascontiguousarray(solid[y : y + height, x : x + width])
    labels, stats = labelled(crop)
    order = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:MAX_PARTS]
    groups = _groups(stats[order])
    shapes = [union([_component(labels, stats, order[index]) for index in group]) for group in groups]
    return [Shape(shape.left + x, shape.top + y, shape.solid) for shape in shapes]


def union(shapes: Sequence[Shape]) -> Shape:
    """All of them as one."""
    if len(shapes) == 1:
        return shapes[0]
    left, top = min(shape.left for shape in shapes), min(shape.top for shape in shapes)
    right = max(shape.left + shape.width for shape in shapes)
    bottom = max(shape.top + shape.height for shape in shapes)
    solid = np.zeros((bottom - top, right - left), np.uint8)
    for shape in shapes:
        y, x = shape.top - top, shape.left - left
        solid[y : y + shape.height, x : x + shape.width] |= shape.solid
    return Shape(left, top, solid)


def _component(labels: NDArray[np.int32], stats: NDArray[np.int32], label: int) -> Shape:
    left, top, width, height = (int(value) for value in stats[label, :4])
    crop = labels[top : top + height, left : left + width]
    return Shape(left, top, (crop == label).astype(np.uint8))


def _typical(heights: Sequence[int]) -> float:
    tall = np.asarray(heights)
    return float(np.median(tall[tall >= 0.4 * tall.max()]))


def _groups(boxes: NDArray[np.int32]) -> list[list[int]]:
    """Which boxes belong together."""
    leader = list(range(len(boxes)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    if len(boxes) > 1:
        for one, two in np.argwhere(np.triu(_together(boxes), 1)).tolist():
            leader[max(find(one), find(two))] = min(find(one), find(two))
    groups: dict[int, list[int]] = {}
    for index in range(len(boxes)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def _together(boxes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(n, n): whether two boxes are parts of one digit."""
    left, top, width, height, area = (boxes[:, index].astype(np.float64) for index in range(5))
    typical = _typical(boxes[:, cv2.CC_STAT_HEIGHT].tolist())
    across = _overlap(left, left + width)
    down = _overlap(top, top + height)
    narrow, short = np.minimum.outer(width, width), np.minimum.outer(height, height)
    tall = np.maximum.outer(top + height, top + height) - np.minimum.outer(top, top)
    above = (across >= 0.4 * narrow) & (down >= -0.3 * typical) & (tall <= 1.4 * typical)
    gap = np.hypot(np.minimum(across, 0), np.minimum(down, 0))
    smaller = np.minimum.outer(area, area) <= 0.35 * np.maximum.outer(area, area)
    beside = smaller & (short <= 0.6 * typical) & (gap <= 0.15 * typical) & (tall <= 1.4 * typical)
    within = (across >= 0.6 * narrow) & (down >= 0.6 * short)
    together: NDArray[np.bool_] = above | beside | within
    return together


def _overlap(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    shared: NDArray[np.float64] = np.minimum.outer(end, end) - np.maximum.outer(start, start)
    return shared


def _gap(one: Shape, two: Shape) -> float:
    across = max(one.left, two.left) - min(one.left + one.width, two.left + two.width)
    down = max(one.top, two.top) - min(one.top + one.height, two.top + two.height)
    return float(np.hypot(max(across, 0), max(down, 0)))


def _parted(shape: Shape, typical: float) -> list[Shape]:
    """The digits of a shape that is too wide for one, cut where the least ink is."""
    if shape.width <= WIDE_ABOVE * max(shape.height, 0.7 * typical):
        return [shape]
    count = max(2, round(shape.width / (DIGIT_WIDTH * shape.height)))
    ink = shape.solid.sum(axis=0)
    step = shape.width / count
    cuts = []
    for index in range(1, count):
        start = round((index - 0.3) * step)
        near = ink[start : round((index + 0.3) * step)]
        cuts.append(start + int(near.argmin()))
        if near.min() > min(CUT_STROKES * shape.stroke, 0.4 * shape.height):
            return [Shape(shape.left, shape.top, shape.solid, crowded=True)]
    edges = [0, *cuts, shape.width]
    return [_cropped(shape, start, end) for start, end in pairwise(edges)]


def _cropped(shape: Shape, start: int, end: int) -> Shape:
    part = np.ascontiguousarray(shape.solid[:, start:end])
    left, top, width, height = cv2.boundingRect(part)
    crop = np.ascontiguousarray(part[top : top + height, left : left + width])
    return Shape(shape.left + start + left, shape.top + top, crop)


def _in_lines(shapes: Iterable[Shape]) -> list[list[Shape]]:
    """From the left, each shape continues the line whose last shape stands most nearly beside it."""
    found: list[list[Shape]] = []
    for shape in sorted(shapes, key=lambda shape: shape.left):
        beside = [(abs(line[-1].middle - shape.middle), line) for line in found if _beside(line[-1], shape)]
        if beside:
            min(beside, key=lambda pair: pair[0])[1].append(shape)
        else:
            found.append([shape])
    return sorted(found, key=lambda line: float(np.mean([shape.middle for shape in line])))


def _beside(one: Shape, two: Shape) -> bool:
    shared = min(one.top + one.height, two.top + two.height) - max(one.top, two.top)
    return shared >= 0.4 * min(one.height, two.height)
