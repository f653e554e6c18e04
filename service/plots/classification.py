"""How a classifier errs: the confusion matrix and the reliability diagram."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.plots.picture import INK, MUTED, WIDTH, Picture, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

_SQUARE = (6.4, 6.0)


@dataclass(frozen=True)
class Bin:
    """Predictions of a confidence within [low, high): how many, and the means of being right and of the
    confidence; of an empty bin both are None."""

    low: float
    high: float
    count: int
    accuracy: float | None
    confidence: float | None


def confusion(matrix: NDArray[Any]) -> Picture:
    """Counts (k, k), rows true and columns predicted. Colour is for the errors alone, on a logarithmic scale:
    a single one can be seen and the diagonal, which is grey, drowns none."""
    counts = np.asarray(matrix)

    def paint(figure: "Figure") -> None:
        axes = figure.add_axes((0.11, 0.03, 0.83, 0.79))
        norm = _shade(axes, counts)
        for (row, column), count in np.ndenumerate(counts):
            is_dark = row != column and count > 0 and norm(count) > 0.65
            _count(axes, row, column, int(count), "white" if is_dark else INK)
        _frame(axes, len(counts))

    wrong = int(counts.sum() - np.trace(counts))
    heading = f"Confusion: {wrong:,} errors in {int(counts.sum()):,} test images"
    rows: Iterable[Row] = [
        (true, predicted, int(count)) for (true, predicted), count in np.ndenumerate(counts)
    ]
    return Picture(heading, _SQUARE, paint, ("true", "predicted", "count"), lambda: rows)


def _errors(counts: NDArray[Any]) -> NDArray[Any]:
    errors: NDArray[Any] = counts * ~np.eye(len(counts), dtype=np.bool_)
    return errors


def _shade(axes: "Axes", counts: NDArray[Any]) -> "LogNorm":
    """Tints the cells; the scale of the errors, 0 to 1 from light to dark."""
    from matplotlib.colors import LogNorm

    errors = _errors(counts)
    top = max(int(errors.max(initial=0)), 2)
    # from 0.3, so that a single error is already tinted
    norm = LogNorm(0.3, 1.6 * top)
    axes.imshow(np.ma.masked_equal(errors, 0), cmap="YlOrBr", norm=norm)
    diagonal = np.ma.masked_where(~np.eye(len(counts), dtype=np.bool_), np.zeros(counts.shape))
    axes.imshow(diagonal, cmap="gray", vmin=-13.3, vmax=1)
    return norm


def _count(axes: "Axes", row: int, column: int, count: int, color: str) -> None:
    if count == 0:
        axes.text(column, row, "·", ha="center", va="center", color="0.7")
        return
    weight = "bold" if row == column else "normal"
    axes.text(
        column,
        row,
        f"{count:,}",
        ha="center",
        va="center",
        fontsize=9.5,
        weight=weight,
        color=color,
    )


def _frame(axes: "Axes", classes: int) -> None:
    axes.set_xticks(range(classes), [str(label) for label in range(classes)])
    axes.set_yticks(range(classes), [str(label) for label in range(classes)])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for edge in np.arange(classes + 1) - 0.5:
        axes.axhline(float(edge), color="0.88", linewidth=0.6)
        axes.axvline(float(edge), color="0.88", linewidth=0.6)
    axes.set_xlim(-0.5, classes - 0.5)
    axes.set_ylim(classes - 0.5, -0.5)


def calibration(bins: Sequence[Bin], calibrated: Sequence[Bin] = ()) -> Picture:
    """Reliability diagram (DeGroot and Fienberg 1983): accuracy against confidence, bin by bin, and beneath it
    how many predictions each bin has, on a logarithmic axis. A point over the line is less sure than right. With
    `calibrated`, the bins of the same predictions by their calibrated confidence, there is a line for each."""
    filled, after = _filled(bins), _filled(calibrated)
    error = f"{_error(filled):.2f} %" + (f", calibrated {_error(after):.2f} %" if after else "")

    def paint(figure: "Figure") -> None:
        upper = figure.add_axes((0.12, 0.36, 0.84, 0.53))
        lower = figure.add_axes((0.12, 0.11, 0.84, 0.2), sharex=upper)
        _reliability(upper, {"as trained" if after else "test images": filled, "calibrated": after})
        _counts(lower, after or filled)

    columns: tuple[str, ...] = ("low", "high", "count", "accuracy", "confidence")
    rows = [_row(item) for item in bins]
    if after:
        columns = (*columns, *(f"calibrated_{name}" for name in columns[2:]))
        rows = [(*row, *_row(item)[2:]) for row, item in zip(rows, calibrated, strict=True)]
    return Picture(
        f"Calibration: expected calibration error {error}", (WIDTH, 5.4), paint, columns, lambda: rows
    )


def _filled(bins: Sequence[Bin]) -> list[Bin]:
    return [item for item in bins if item.count and item.accuracy is not None and item.confidence is not None]


def _error(filled: Sequence[Bin]) -> float:
    """In percent."""
    total = sum(item.count for item in filled)
    gaps = sum(item.count * abs((item.accuracy or 0) - (item.confidence or 0)) for item in filled)
    return 100 * gaps / total if total else 0.0


def _row(item: Bin) -> Row:
    return (item.low, item.high, item.count, item.accuracy, item.confidence)


def _reliability(axes: "Axes", lines: Mapping[str, Sequence[Bin]]) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    for (name, bins), color in zip(lines.items(), ("#17375e", "#c0504d"), strict=True):
        if not bins:
            continue
        axes.plot(
            [item.confidence or 0 for item in bins],
            [item.accuracy or 0 for item in bins],
            color=color,
            marker="o",
            markersize=5,
            label=name,
        )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper left")


def _counts(axes: "Axes", bins: Sequence[Bin]) -> None:
    from matplotlib.ticker import NullLocator, PercentFormatter

    axes.bar(
        [item.low for item in bins],
        [item.count for item in bins],
        [item.high - item.low for item in bins],
        align="edge",
        color="#9fb1c6",
        edgecolor="white",
        linewidth=0.8,
    )
    axes.set_yscale("log")
    top = max((item.count for item in bins), default=1)
    axes.set_ylim(0.5, 6 * top)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    for item in bins:
        axes.text(
            (item.low + item.high) / 2,
            1.2 * item.count,
            f"{item.count:,}",
            ha="center",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("images")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
