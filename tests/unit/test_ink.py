"""Grey levels -> ink: shadows, polarity, noise, specks, ruled lines."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.data import ink

Grey = NDArray[np.uint8]


def zero(paper: int = 230, level: int = 40, size: int = 300, width: int = 14) -> Grey:
    """A 0, whose hole is as light as the paper around it."""
    grey = np.full((size, size), paper, np.uint8)
    cv2.ellipse(grey, (size // 2, size // 2), (size // 6, size // 4), 0, 0, 360, level, width)
    return grey


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


TRUE = (zero() < 128).astype(np.uint8)


def solid(grey: Grey) -> NDArray[np.uint8]:
    found = ink.find(grey)
    assert found is not None
    return found.solid


def test_what_stands_on_plain_paper_is_found_to_the_pixel() -> None:
    assert (solid(zero()) == TRUE).all()


@pytest.mark.parametrize(
    ("paper", "level", "polarity"),
    [
        (230, 40, "dark_on_light"),
        (110, 30, "dark_on_light"),
        (0, 255, "light_on_dark"),
        (120, 240, "light_on_dark"),
    ],
)
def test_polarity_is_told_by_the_paper_around(paper: int, level: int, polarity: str) -> None:
    found = ink.find(zero(paper, level))
    assert found is not None
    assert found.polarity == polarity
    assert likeness(found.solid, TRUE) > 0.95
    assert abs(found.contrast - abs(paper - level)) <= 2


def shaded(grey: Grey, light: NDArray[np.float64]) -> Grey:
    return (grey * light).clip(0, 255).astype(np.uint8)


def test_shadows_are_no_ink() -> None:
    x = np.linspace(0, 1, 300)
    slope = shaded(zero(), np.broadcast_to(1 - 0.7 * x, (300, 300)))
    edge = shaded(zero(), np.broadcast_to(np.where(x < 0.45, 1.0, 0.4), (300, 300)))
    assert likeness(solid(slope), TRUE) > 0.85
    assert likeness(solid(edge), TRUE) > 0.85


def test_noise_is_no_ink() -> None:
    noise = np.random.default_rng(0).normal(0, 25, (300, 300))
    noisy = (zero() + noise).clip(0, 255).astype(np.uint8)
    assert likeness(solid(noisy), TRUE) > 0.8
    assert ink.find((200 + noise).clip(0, 255).astype(np.uint8)) is None


def test_specks_go_and_a_table_beside_the_paper() -> None:
    grey = zero()
    for x, y in np.random.default_rng(0).integers(5, 295, (20, 2)).tolist():
        cv2.circle(grey, (x, y), 1, 40, -1)
    grey[:, :12] = 70
    assert likeness(solid(grey), TRUE) > 0.9


@pytest.mark.parametrize("slope", [0, 4])
@pytest.mark.parametrize("level", [40, 150])
def test_ruled_lines_and_grids_go(slope: int, level: int) -> None:
    grey = zero()
    for start in range(7, 300, 37):
        cv2.line(grey, (0, start), (299, start + slope), level, 2)
        cv2.line(grey, (start, 0), (start - slope, 299), level, 2)
    grey[TRUE.astype(bool)] = 40
    assert likeness(solid(grey), TRUE) > 0.85


def test_a_hair_is_found_in_a_large_picture() -> None:
    grey = np.full((640, 640), 250, np.uint8)
    cv2.line(grey, (200, 100), (300, 500), 60, 1)
    found = solid(grey)
    assert np.ptp(np.nonzero(found)[0]) >= 398


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 3), (300, 200)])
def test_blank_paper_has_no_ink(level: int, shape: tuple[int, int]) -> None:
    assert ink.find(np.full(shape, level, np.uint8)) is None


def test_a_sheet_on_a_dark_table_is_not_the_ink() -> None:
    grey = np.full((500, 600), 40, np.uint8)
    cv2.fillPoly(grey, [np.array([(120, 60), (460, 90), (440, 440), (90, 410)], np.int32)], 225)
    grey[100:400, 150:450][TRUE.astype(bool)] = 60
    found = ink.find(grey)
    assert found is not None
    assert found.polarity == "dark_on_light"
    expected = np.zeros_like(grey)
    expected[100:400, 150:450] = TRUE
    assert likeness(found.solid, expected) > 0.9


def test_a_dark_strip_at_the_edge_does_not_hide_a_faint_line() -> None:
    grey = np.full((480, 640), 200, np.uint8)
    grey[:, :48] = 50
    cv2.line(grey, (300, 100), (340, 380), 150, 3)
    found = solid(grey)
    assert not found[:, :250].any()
    assert np.ptp(np.nonzero(found)[0]) >= 270
