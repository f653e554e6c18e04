"""Loss and accuracy of a run, as the lecture's "Deep Classification" plots them against epochs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from service.plots.picture import MUTED, WIDTH, Picture, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["step", "epoch"]

# dark to light, and each with its own dashes and marker, so that grey print tells them apart
_LINES: dict[str, dict[str, Any]] = {
    "training": {"color": "#17375e", "linestyle": "-", "marker": "o", "linewidth": 1.8},
    "validation": {"color": "#3f8f8c", "linestyle": (0, (1.2, 1.4)), "marker": "^", "linewidth": 2.0},
    "test": {"color": "#e0762a", "linestyle": (0, (5, 1.6)), "marker": "s", "linewidth": 1.8},
}
MARKED_POINTS = 40  # more of them would run together
ERRORS_SHOWN = 3  # the accuracy axis reaches down to so many times the last error
_SIZE = (WIDTH, 3.8)
_HEADER = ("series", "step", "epoch", "value")


class Point(NamedTuple):
    """One value of a series."""

    step: int
    epoch: float
    value: float


Series = Mapping[str, Sequence[Point]]


def loss(
    series: Series, *, heading: str = "Cross-entropy loss", axis: Axis = "step", logarithmic: bool = False
) -> Picture:
    """Each series against the step or epoch, labelled at its end. `series` by name, of `training`,
    `validation` and `test`, at least one of them with a point. A logarithmic axis leaves out what is not over
    0; where nothing is, the axis is linear."""
    positive = [value for value in _values(series) if value > 0]

    def paint(figure: "Figure") -> None:
        axes = _axes(figure)
        if logarithmic and positive:
            logarithmic_axis(axes, positive)
        _lines(axes, series, axis)
        if axes.get_yscale() == "linear":
            _begin_at_zero(axes, series)
        _label_ends(axes, series, lambda value: f"{value:.3g}")

    return Picture(heading, _SIZE, paint, _HEADER, lambda: _rows(series))


def accuracy(series: Series, *, axis: Axis = "step") -> Picture:
    """As `loss`, of shares from 0 to 1. The axis begins at three times the last error, so that the end of the
    run fills it; what lies below is told in words."""

    def paint(figure: "Figure") -> None:
        from matplotlib.ticker import PercentFormatter

        axes = _axes(figure)
        _lines(axes, series, axis)
        low, high = _accuracy_limits(series)
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        _label_ends(axes, series, _percent)
        below = [
            f"{name} {_percent(points[0].value)}" for name, points in _given(series) if points[0].value < low
        ]
        if below:
            axes.set_title(
                f"not shown: the first of {', '.join(below)}", fontsize=9, color=MUTED, loc="right"
            )

    return Picture("Accuracy", _SIZE, paint, _HEADER, lambda: _rows(series))


def _given(series: Series) -> list[tuple[str, Sequence[Point]]]:
    return [(name, series[name]) for name in _LINES if series.get(name)]


def _values(series: Series) -> list[float]:
    return [point.value for _, points in _given(series) for point in points]


def _rows(series: Series) -> Iterable[Row]:
    return ((name, *point) for name, points in _given(series) for point in points)


def _at(point: Point, axis: Axis) -> float:
    return point.step if axis == "step" else point.epoch


def _axes(figure: "Figure") -> "Axes":
    width, height = _SIZE
    left = 0.95  # room for "100.00 %"
    return figure.add_axes(
        (left / width, 0.6 / height, (width - 1.75 - left) / width, (height - 1.25) / height)
    )


def _lines(axes: "Axes", series: Series, axis: Axis) -> None:
    for name, points in _given(series):
        marked = len(points) <= MARKED_POINTS
        axes.plot(
            [_at(point, axis) for point in points],
            [point.value for point in points],
            label=name,
            markersize=4 if marked else 0,
            **_LINES[name],
        )
    axes.set_xlabel("Iterations" if axis == "step" else "Epochs")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}" if abs(value) < 1e6 else f"{value:.3g}")
    axes.margins(x=0.02)
    places = {_at(point, axis) for _, points in _given(series) for point in points}
    if len(places) == 1:
        axes.set_xticks(list(places))


def logarithmic_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic, with ticks that suit the values, all over 0 and at least one."""
    from matplotlib.ticker import LogLocator

    is_long = max(values) > 500 * min(values)
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if is_long else (1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda _value, _: "")


def _begin_at_zero(axes: "Axes", series: Series) -> None:
    values = _values(series)
    if 0 <= min(values) < 0.3 * max(values):
        axes.set_ylim(bottom=0)


def _accuracy_limits(series: Series) -> tuple[float, float]:
    """Bottom and top of the axis."""
    values = _values(series)
    last_error = max(1 - points[-1].value for _, points in _given(series))
    low = max(min(values), 1 - ERRORS_SHOWN * last_error)
    margin = max(0.06 * (max(values) - low), 0.1 * (1 - low), 0.0005)
    low = max(low - margin, 0.0) if low == min(values) else max(low, 0.0)
    return low, min(max(values) + margin, 1 + 0.3 * margin)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _label_ends(axes: "Axes", series: Series, words: Callable[[float], str]) -> None:
    """Name and last value of each line beside its end, moved apart where ends lie close."""
    ends = [(name, points[-1].value) for name, points in _given(series)]
    axes.get_ylim()  # settles the limits
    to_share = axes.transScale + axes.transLimits
    # what a logarithmic axis has no place for lies below it, at minus infinity
    shares = [max(0.0, float(to_share.transform((1.0, value))[1])) for _, value in ends]
    for (name, value), share, height in zip(ends, shares, _apart(shares, gap=0.085), strict=True):
        axes.annotate(
            f"{name} {words(value)}",
            (1.0, share),
            xycoords="axes fraction",
            xytext=(1.035, height),
            textcoords="axes fraction",
            va="center",
            color=_LINES[name]["color"],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _LINES[name]["color"],
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _apart(heights: Sequence[float], *, gap: float) -> list[float]:
    """The heights, in their order from below, moved as little as needed to lie `gap` from each other."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    moved = list(heights)
    for before, place in pairwise(order):
        moved[place] = max(moved[place], moved[before] + gap)
    excess = sum(moved) - sum(heights)
    return [height - excess / len(moved) for height in moved]
