"""Pictures of many small images, read back from the figure and from the bytes."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image

from service import plots
from service.plots import Mistakes, Picture
from tests.unit.test_plots import lightness, table, texts

PIXELS = np.random.default_rng(0).integers(0, 256, (100, 784), dtype=np.uint8)


def mosaic(picture: Picture) -> tuple[Axes, AxesImage, np.ma.MaskedArray]:
    axes = picture.figure().axes[0]
    (image,) = (child for child in axes.get_children() if isinstance(child, AxesImage))
    array = image.get_array()
    assert isinstance(array, np.ma.MaskedArray)
    return axes, image, array


def tiles(picture: Picture, columns: int) -> NDArray[np.generic]:
    """The tiles that were drawn, in reading order."""
    _, _, array = mosaic(picture)
    corners = np.argwhere(
        ~np.ma.getmaskarray(array)
        & np.pad(np.ma.getmaskarray(array), 1, constant_values=True)[:-2, 1:-1]
        & np.pad(np.ma.getmaskarray(array), 1, constant_values=True)[1:-1, :-2]
    )
    assert len({x for _, x in corners.tolist()}) == min(columns, len(corners))
    return np.stack([np.asarray(array[y : y + 28, x : x + 28]).reshape(784) for y, x in corners.tolist()])


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 2), (16, 4), (100, 10)])
def test_a_sample_grid_shows_each_image_under_its_label(count: int, columns: int) -> None:
    labels = [number % 10 for number in range(count)]
    picture = plots.samples(PIXELS[:count], labels, list(range(count)), heading="mnist")
    assert np.array_equal(tiles(picture, columns), PIXELS[:count])
    axes, image, _ = mosaic(picture)
    assert [text.get_text() for text in axes.texts] == [str(label) for label in labels]
    assert np.asarray(image.to_rgba(np.array([[0, 255]])))[0, :, 0].tolist() == [1, 0]  # dark ink on white
    assert len(axes.collections[0].get_paths()) == count  # frames


def test_labels_stand_above_their_own_image() -> None:
    axes, _, array = mosaic(plots.samples(PIXELS[:4], [0, 1, 2, 3], [0, 1, 2, 3], heading="h"))
    places = [text.get_position() for text in axes.texts]
    assert [x for x, _ in places] == [14, 47, 14, 47]
    assert places[0][1] == places[1][1] < 0 < places[2][1] == places[3][1] < array.shape[0] - 28


def test_the_table_of_a_sample_grid() -> None:
    header, first, second = table(plots.samples(PIXELS[:2], [5, 0], [70, 8], heading="h"))
    assert header == ["index", "label", *(f"pixel{place}" for place in range(784))]
    assert first == ["70", "5", *map(str, PIXELS[0])]
    assert second[:2] == ["8", "0"]


def test_originals_above_and_variants_below() -> None:
    originals, variants = PIXELS[:8], [PIXELS[8:16], PIXELS[16:24]]
    picture = plots.augmented(originals, variants, [*range(8)], [*range(100, 108)], heading="mnist")
    assert np.array_equal(tiles(picture, 8), PIXELS[:24])
    assert texts(picture) == {"mnist", "original", "variant 1", "variant 2"}
    rows = table(picture)
    assert [row[:3] for row in rows[1:]] == [
        [str(100 + place), str(place), str(variant)] for variant in range(3) for place in range(8)
    ]
    assert rows[-1][3:] == [str(value) for value in PIXELS[23]]


def mistakes(count: int) -> Mistakes:
    return Mistakes(
        np.arange(count) * 7,
        np.full(count, 4, np.uint8),
        np.full(count, 9, np.uint8),
        np.linspace(5, 1, count, dtype=np.float32),
        PIXELS[:count],
    )


@pytest.mark.parametrize("count", [1, 16, 100])
def test_misclassified_images_say_true_as_predicted(count: int) -> None:
    picture = plots.misclassified(mistakes(count), count)
    assert np.array_equal(tiles(picture, math.ceil(math.sqrt(count))), PIXELS[:count])
    assert "4 as 9" in texts(picture)
    assert [row[:4] for row in table(picture)[:2]] == [
        ["index", "true", "predicted", "loss"],
        ["0", "4", "9", "5.0"],
    ]


def test_misclassified_says_how_many_of_which() -> None:
    def heading(shown: int, count: int, true: int | None, predicted: int | None) -> str:
        return plots.misclassified(mistakes(shown), count, true=true, predicted=predicted).heading

    assert heading(16, 1580, None, None) == "1,580 test images misread, the 16 of largest loss"
    assert heading(2, 2, 4, None) == "2 test images of class 4 misread"
    assert heading(2, 2, None, 9) == "2 test images read as class 9"
    assert heading(1, 1, 4, 9) == "1 test image of class 4 read as class 9"


def test_a_selection_without_any_says_so_in_words() -> None:
    picture = plots.misclassified(mistakes(0), 0, true=1, predicted=0)
    assert texts(picture) == {"No test images of class 1 read as class 0", "There is nothing to show."}
    assert len(table(picture)) == 1
    assert "Their images are not kept." in texts(plots.misclassified(mistakes(0), 3))


def test_weights_by_norm_on_a_symmetric_scale() -> None:
    matrix = np.zeros((120, 784), np.float32)
    matrix[:, 5] = np.arange(120)
    matrix[7, 6] = -500
    picture = plots.weights(matrix)
    shown = [7, *range(119, 20, -1)]
    assert np.array_equal(tiles(picture, 10), matrix[shown])
    axes, image, _ = mosaic(picture)
    assert [text.get_text() for text in axes.texts] == [str(unit) for unit in shown]
    low, high = image.get_clim()
    assert low is not None
    assert high == -low == pytest.approx(np.quantile(np.abs(matrix[shown]), 0.999))
    assert picture.heading == "First-layer weights: 100 of 120 units, largest norm first"
    header, first, *_ = table(picture)
    assert header[:3] == ["unit", "norm", "weight0"]
    assert [float(first[place]) for place in (0, 1, 7, 8)] == pytest.approx([7, math.hypot(7, 500), 7, -500])


def test_weights_keep_their_sign_in_grey() -> None:
    _, image, _ = mosaic(plots.weights(PIXELS[:3].astype(np.float32) - 128))
    low, high = image.get_clim()
    assert low is not None
    assert high is not None
    scale = np.asarray(image.to_rgba(np.linspace(low, high, 50)))
    shades = [lightness(color[:3]) for color in scale]
    assert all(before < after for before, after in pairwise(shades))


def test_weights_that_are_all_zero() -> None:
    picture = plots.weights(np.zeros((2, 784), np.float32), limit=1)
    assert picture.heading == "First-layer weights: 1 of 2 units, largest norm first"
    shared = plots.weights(np.zeros((2, 784), np.float32), members=5)
    assert shared.heading == "First-layer weights of the first of 5 members: all 2 units, largest norm first"
    assert picture.png()


def test_tiles_are_drawn_as_they_are() -> None:
    """The PNG is read back at the middle of each pixel of a tile."""
    picture = plots.samples(PIXELS[:1], [3], [0], heading="h")
    image = np.asarray(Image.open(io.BytesIO(picture.png())).convert("L"))
    axes = picture.figure().axes[0]
    seen = []
    for y, x in np.ndindex(28, 28):
        across, down = axes.transData.transform((x, y))
        seen.append(image[image.shape[0] - 1 - int(down), int(across)])
    assert np.abs(np.array(seen, int) - (255 - PIXELS[0].astype(int))).max() <= 1


@pytest.mark.parametrize("count", [1, 2, 16, 100])
def test_headings_and_titles_stay_within(count: int) -> None:
    picture = plots.misclassified(mistakes(count), 158_000, true=4)
    figure = picture.figure()
    figure.draw_without_rendering()
    tight = figure.get_tightbbox()
    assert min(tight.x0, tight.y0) >= 0
    assert tight.x1 <= picture.size[0]
    assert tight.y1 <= picture.size[1]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[place + 1 :])
