"""A regression on one feature: its points, the true function, and the curves fitted on the way."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from service.plots.picture import WIDTH, Picture, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH = "#d1361f"
CURVES = 12
_SIZE = (WIDTH, 4.6)


class Curve(NamedTuple):
    """What a network says over the grid after `step` iterations; `outputs` (n,) float."""

    step: int
    epoch: float
    outputs: NDArray[Any]


def scattered(
    x: NDArray[Any], y: NDArray[Any], grid: NDArray[Any], truth: NDArray[Any], *, heading: str
) -> Picture:
    """Points (n,) about the true function (m,) over the grid (m,)."""

    def paint(figure: "Figure") -> None:
        axes = _axes(figure, x, y, grid, truth)
        axes.legend(loc="upper right")

    def rows() -> Iterable[Row]:
        yield from (("point", *pair) for pair in zip(x, y, strict=True))
        yield from (("true", *pair) for pair in zip(grid, truth, strict=True))

    return Picture(heading, _SIZE, paint, ("series", "x", "y"), rows)


def fitted(
    curves: Sequence[Curve],
    x: NDArray[Any],
    y: NDArray[Any],
    grid: NDArray[Any],
    truth: NDArray[Any],
    *,
    heading: str,
) -> Picture:
    """The curves over the grid (m,) by rising step, light to dark as training goes on and each labelled where
    its share of the run stands on the x axis (lecture notes, "First Example"), with the points (n,) and the
    true function (m,). At least one curve; of more than CURVES the labels would hide each other."""

    def paint(figure: "Figure") -> None:
        axes = _axes(figure, x, y, grid, truth)
        for number, curve in enumerate(curves):
            _curve(axes, curve, grid, last=curves[-1].step, above=number % 2 == 0)
        axes.legend(loc="upper right")

    def rows() -> Iterable[Row]:
        for curve in curves:
            for at, value in zip(grid, curve.outputs, strict=True):
                yield (curve.step, curve.epoch, at, value)

    return Picture(heading, _SIZE, paint, ("step", "epoch", "x", "y"), rows)


def _axes(
    figure: "Figure", x: NDArray[Any], y: NDArray[Any], grid: NDArray[Any], truth: NDArray[Any]
) -> "Axes":
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.77))
    axes.scatter(x, y, s=5, color="0.66", alpha=0.55, linewidth=0, label="points")
    axes.plot(
        grid, truth, color=TRUTH, linewidth=2.4, linestyle=(0, (4, 1.8)), label="true function", zorder=5.5
    )
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.margins(x=0.01, y=0.03)
    return axes


def _curve(axes: "Axes", curve: Curve, grid: NDArray[Any], *, last: int, above: bool) -> None:
    from matplotlib import colormaps

    share = curve.step / last if last else 1.0
    color = colormaps["viridis_r"](0.25 + 0.75 * share)
    (line,) = axes.plot(grid, curve.outputs, color=color, linewidth=1.5, zorder=4 + share)
    line.set_gid(f"step-{curve.step}")
    place = max(min(round(share * len(grid)), len(grid)) - 1, 0)
    side = "left" if share < 0.1 else "right" if share > 0.9 else "center"
    axes.annotate(
        f"i={curve.step}",
        (float(grid[place]), float(curve.outputs[place])),
        xytext=(0, 6 if above else -6),
        textcoords="offset points",
        ha=side,
        va="bottom" if above else "top",
        color=color,
        fontsize=9.5,
        weight="bold",
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6},
        zorder=6,
    )
