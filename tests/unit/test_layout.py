"""Several digits in one picture: found, joined, parted, and in reading order."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.data import layout


def sheet(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (200, 400)) -> NDArray[np.uint8]:
    """Frames as they would enclose digits: left, top, width, height."""
    solid = np.zeros(size, np.uint8)
    for left, top, width, height in boxes:
        cv2.rectangle(solid, (left, top), (left + width - 1, top + height - 1), 1, 4)
    return solid


def order(solid: NDArray[np.uint8]) -> list[list[int]]:
    return [[shape.left for shape in line] for line in layout.lines(solid)]


def test_a_line_is_read_from_the_left() -> None:
    assert [
        len(line) for line in layout.lines(sheet((250, 60, 40, 60), (20, 50, 40, 60), (130, 55, 30, 70)))
    ] == [3]
    (line,) = order(sheet((250, 60, 40, 60), (20, 50, 40, 60), (130, 55, 30, 70)))
    assert line == sorted(line)


def test_lines_are_read_from_the_top_even_where_they_slant() -> None:
    upper = [(20 + 60 * n, 10 + 15 * n, 36, 40) for n in range(6)]
    lower = [(20 + 60 * n, 80 + 15 * n, 36, 40) for n in range(6)]
    found = layout.lines(sheet(*lower, *upper))
    assert [len(line) for line in found] == [6, 6]
    assert found[0][0].top < found[1][0].top
    assert found[0][5].top > found[1][0].top  # the upper line's end lies below the lower one's start


def test_sizes_may_differ() -> None:
    assert [
        len(line) for line in layout.lines(sheet((20, 20, 70, 120), (120, 70, 30, 50), (180, 30, 60, 110)))
    ] == [3]


def five(bar: int = 6) -> NDArray[np.uint8]:
    """A five whose top bar floats above and beside its body."""
    solid = np.zeros((200, 300), np.uint8)
    cv2.ellipse(solid, (60, 120), (30, 30), 0, -90, 150, 1, 6)
    cv2.line(solid, (50, 60), (50, 90), 1, 6)
    cv2.line(solid, (50, 90), (60, 90), 1, 6)
    cv2.line(solid, (54 + bar, 52), (95, 50), 1, 6)
    return solid


def test_the_loose_bar_of_a_five_belongs_to_it() -> None:
    assert len(cv2.connectedComponentsWithStats(five())[2]) == 3
    ((shape,),) = layout.lines(five())
    assert shape.top <= 50
    shape, several = layout.alone(five())
    assert not several
    assert shape.height > 95


def test_touching_digits_are_parted_where_the_ink_is_thin() -> None:
    solid = sheet((20, 50, 50, 80), (90, 50, 50, 80))
    cv2.line(solid, (66, 90), (94, 90), 1, 4)
    (line,) = layout.lines(solid)
    assert [shape.crowded for shape in line] == [False, False]
    assert line[0].left + line[0].width <= line[1].left


def test_what_cannot_be_parted_is_said_to_be_crowded() -> None:
    solid = np.zeros((200, 400), np.uint8)
    solid[60:140, 40:240] = 1
    ((shape,),) = layout.lines(solid)
    assert shape.crowded


def test_dots_and_dashes_between_digits_are_no_digits() -> None:
    solid = sheet((20, 50, 40, 60), (120, 50, 40, 60))
    cv2.circle(solid, (90, 105), 5, 1, -1)
    cv2.line(solid, (180, 80), (205, 80), 1, 5)
    assert [len(line) for line in layout.lines(solid)] == [2]


@pytest.mark.parametrize(
    "boxes", [[(20, 50, 40, 60), (120, 50, 40, 60)], [(20, 50, 60, 60), (110, 50, 60, 70)]]
)
def test_one_digit_beside_another_is_told(boxes: Sequence[tuple[int, int, int, int]]) -> None:
    _, several = layout.alone(sheet(*boxes))
    assert several


def test_a_stroke_is_measured() -> None:
    for width in (2, 4, 9, 20):
        solid = np.zeros((100, 100), np.uint8)
        solid[10:90, 40 : 40 + width] = 1
        assert layout.Shape(0, 0, solid).stroke == pytest.approx(width, rel=0.2, abs=0.5)
