"""Images of 28 x 28 beside each other: samples, variants, mistakes and the weights of first layers.

All tiles of a picture are one image in one pair of axes: an axes each, as the lecture's code has it, takes
ten times as long to draw.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.plots.picture import MUTED, WIDTH, Picture, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SIDE = 28
PIXELS = tuple(f"pixel{place}" for place in range(SIDE * SIDE))
MAX_TILES = 100
GAP = 5  # pixels between tiles
BAND = 0.27  # inches above a tile, for its title
LARGEST_TILE = 1.0  # inches
MARGIN = 0.2  # inches
LETTER = 0.1  # inches, of a heading
TOP = 0.45  # inches, for the heading

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Mistakes:
    """Test images that a network reads wrong, in the order in which they are shown: (m,) `index` in the test
    set, class `true` and `predicted`, and `loss`; `pixels` uint8 (m, 784), white ink on black."""

    index: NDArray[Any]
    true: NDArray[Any]
    predicted: NDArray[Any]
    loss: NDArray[Any]
    pixels: Pixels


@dataclass(frozen=True)
class _Grid:
    """Where tiles lie, in pixels of the tiles; y downwards."""

    count: int
    columns: int
    heading: str
    titled: bool = True
    left: float = 0.0  # inches for the titles of rows
    right: float = 0.0  # inches for a scale

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    @property
    def band(self) -> int:
        """Pixels above a tile."""
        return round(BAND / self.scale) if self.titled else GAP

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels down and across, without the band of the first row."""
        return self.rows * (SIDE + self.band) - self.band, self._across

    @property
    def _across(self) -> int:
        return self.columns * (SIDE + GAP) - GAP

    @property
    def scale(self) -> float:
        """Inches a pixel."""
        room = WIDTH - 2 * MARGIN - self.left - self.right
        return min(LARGEST_TILE / SIDE, room / self._across)

    @property
    def size(self) -> tuple[float, float]:
        """Inches across and down, of the whole picture."""
        height, width = self.shape
        across = max(width * self.scale + self.left + self.right, LETTER * len(self.heading)) + 2 * MARGIN
        return across, (height + self.band) * self.scale + TOP + MARGIN

    def corner(self, place: int) -> tuple[int, int]:
        """Left and upper edge of a tile."""
        row, column = divmod(place, self.columns)
        return column * (SIDE + GAP), row * (SIDE + self.band)

    def mosaic(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """The tiles (n, 784) in one image, masked between them."""
        image = np.zeros(self.shape, tiles.dtype)
        between = np.ones(self.shape, np.bool_)
        for place, tile in enumerate(tiles):
            x, y = self.corner(place)
            image[y : y + SIDE, x : x + SIDE] = tile.reshape(SIDE, SIDE)
            between[y : y + SIDE, x : x + SIDE] = False
        masked: NDArray[Any] = np.ma.array(image, mask=between)
        return masked

    def axes(self, figure: "Figure") -> "Axes":
        across, down = self.size
        height, width = self.shape
        axes = figure.add_axes(
            (
                (MARGIN + self.left) / across,
                MARGIN / down,
                width * self.scale / across,
                height * self.scale / down,
            )
        )
        axes.set_axis_off()
        return axes


def samples(pixels: Pixels, labels: Sequence[int], index: Sequence[int], *, heading: str) -> Picture:
    """Images (n, 784) uint8, white ink on black, drawn as dark ink on white, each under its label; `index` says
    which example of the dataset each is. At least one."""
    grid = _Grid(len(pixels), math.ceil(math.sqrt(len(pixels))), heading)
    rows = _labelled(pixels, zip(index, labels, strict=True))
    paint = _painter(grid, pixels, [str(label) for label in labels])
    return Picture(heading, grid.size, paint, ("index", "label", *PIXELS), rows)


def augmented(
    originals: Pixels,
    variants: Sequence[Pixels],
    labels: Sequence[int],
    index: Sequence[int],
    *,
    heading: str,
) -> Picture:
    """A row of originals (n, 784) uint8 and beneath it a row of each of their variants, of the same shape."""
    images = [originals, *variants]
    grid = _Grid(len(originals) * len(images), len(originals), heading, titled=False, left=0.75)
    names = ["original", *(f"variant {number}" for number in range(1, len(images)))]

    def paint(figure: "Figure") -> None:
        axes = _ink(grid, figure, np.concatenate(images))
        for row, name in enumerate(names):
            _, y = grid.corner(row * grid.columns)
            axes.text(-0.1 / grid.scale, y + SIDE / 2, name, ha="right", va="center", fontsize=9)

    def rows() -> Iterable[Row]:
        for number, image in enumerate(images):
            for place, label, tile in zip(index, labels, image, strict=True):
                yield (place, label, number, *tile)

    return Picture(heading, grid.size, paint, ("index", "label", "variant", *PIXELS), rows)


def misclassified(
    mistakes: Mistakes, count: int, *, true: int | None = None, predicted: int | None = None
) -> Picture:
    """The mistakes, titled "4 as 9": true as predicted. They are those of largest loss of `count` altogether,
    of these classes where given; all may be none."""
    found = _counted(count, true, predicted)
    shown = len(mistakes.index)
    header = ("index", "true", "predicted", "loss", *PIXELS)
    if not shown:
        return _words(found, "Their images are not kept." if count else "There is nothing to show.", header)
    heading = found if shown == count else f"{found}, the {shown:,} of largest loss"
    grid = _Grid(shown, math.ceil(math.sqrt(shown)), heading)
    titles = [f"{wanted} as {said}" for wanted, said in zip(mistakes.true, mistakes.predicted, strict=True)]
    facts = zip(mistakes.index, mistakes.true, mistakes.predicted, mistakes.loss, strict=True)
    paint = _painter(grid, mistakes.pixels, titles)
    return Picture(heading, grid.size, paint, header, _labelled(mistakes.pixels, facts))


def weights(matrix: NDArray[np.float32], *, limit: int = MAX_TILES, members: int | None = None) -> Picture:
    """The rows of a first layer's weights (units, 784) as tiles, those of largest Euclidean norm first and at
    most `limit`. Of a committee of so many `members` they are the first one's, and the heading says so. Dark blue
    is negative, light yellow positive, so that grey tells the sign too; the scale is symmetric about zero and spans
    all but one in a thousand of the weights shown."""
    norms = np.linalg.norm(matrix, axis=1)
    shown = np.argsort(-norms, kind="stable")[:limit]
    tiles = matrix[shown]
    bound = float(np.quantile(np.abs(tiles), 0.999)) or 1.0
    count = f"all {len(matrix):,}" if len(shown) == len(matrix) else f"{len(shown):,} of {len(matrix):,}"
    whose = "" if members is None else f" of the first of {members} members"
    heading = f"First-layer weights{whose}: {count} units, largest norm first"
    grid = _Grid(len(shown), math.ceil(math.sqrt(len(shown))), heading, right=0.8)

    def paint(figure: "Figure") -> None:
        axes = grid.axes(figure)
        image = axes.imshow(grid.mosaic(tiles), cmap=_signed(), vmin=-bound, vmax=bound, interpolation="none")
        _titled(grid, axes, [str(unit) for unit in shown], color=MUTED)
        _scale(grid, figure, image)

    return Picture(
        heading,
        grid.size,
        paint,
        ("unit", "norm", *(name.replace("pixel", "weight") for name in PIXELS)),
        _labelled(tiles, zip(shown, norms[shown], strict=True)),
    )


def _labelled(tiles: NDArray[Any], facts: Iterable[Row]) -> Callable[[], Iterable[Row]]:
    kept = list(facts)
    return lambda: ((*fact, *tile) for fact, tile in zip(kept, tiles, strict=True))


def _painter(grid: _Grid, pixels: Pixels, titles: Sequence[str]) -> "Callable[[Figure], None]":
    def paint(figure: "Figure") -> None:
        _titled(grid, _ink(grid, figure, pixels), titles)

    return paint


def _ink(grid: _Grid, figure: "Figure", pixels: Pixels) -> "Axes":
    """Tiles as dark ink on white, each in a faint frame."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    axes = grid.axes(figure)
    axes.imshow(grid.mosaic(pixels), cmap="gray_r", vmin=0, vmax=255, interpolation="none")
    corners = (grid.corner(place) for place in range(len(pixels)))
    frames = [Rectangle((x - 0.5, y - 0.5), SIDE, SIDE) for x, y in corners]
    axes.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor="0.82", linewidth=0.6, clip_on=False)
    )
    return axes


def _titled(grid: _Grid, axes: "Axes", titles: Sequence[str], *, color: str | None = None) -> None:
    for place, title in enumerate(titles):
        x, y = grid.corner(place)
        axes.text(x + SIDE / 2, y - 2, title, ha="center", va="bottom", fontsize=9.5, color=color)


def _signed() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "signed", ["#081d58", "#3d5a8c", "#8f9499", "#dfb85c", "#fff3c4"]
    ).with_extremes(bad="white")


def _scale(grid: _Grid, figure: "Figure", image: "AxesImage") -> None:
    across, down = grid.size
    height = min(grid.shape[0] * grid.scale, 3.0)
    left = MARGIN + grid.shape[1] * grid.scale + 0.15
    axes = figure.add_axes((left / across, MARGIN / down, 0.12 / across, height / down))
    figure.colorbar(image, cax=axes, extend="both").outline.set_visible(False)
    axes.tick_params(labelsize=9)


def _counted(count: int, true: int | None, predicted: int | None) -> str:
    """Such as `28 test images of class 4 read as class 9`."""
    images = {0: "No test images", 1: "1 test image"}.get(count, f"{count:,} test images")
    of = "" if true is None else f" of class {true}"
    return f"{images}{of} misread" if predicted is None else f"{images}{of} read as class {predicted}"


def _words(heading: str, sentence: str, header: tuple[str, ...]) -> Picture:
    """A picture that says in words that there is nothing to show."""

    def paint(figure: "Figure") -> None:
        figure.text(0.5, 0.4, sentence, ha="center", va="center", color=MUTED)

    return Picture(heading, (WIDTH, 1.6), paint, header, tuple)
