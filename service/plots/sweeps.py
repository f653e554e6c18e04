"""The members of a sweep side by side: a metric against what varies, and their series over each other."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from service.figures.ranking import SEED, is_better_high
from service.plots.picture import INK, MUTED, WIDTH, Picture, Row
from service.plots.series import Axis, Point, logarithmic_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS_SHOWN = 40  # of what is ranked
COLUMNS_SHOWN = 8  # all of them are in the numbers
SERIES_SHOWN = 50
CELLS_A_SIDE = 16
LETTERS = 24  # of a value
LINE_POINTS = 24  # more different values than a person lists were drawn, and no line joins them
_DARK = "#17375e"
_BEST = "#e0762a"
# of the best three: dark to light and each with its own dashes, so that grey print tells them apart
_BEST_LINES: tuple[dict[str, Any], ...] = (
    {"color": _DARK, "linestyle": "-", "linewidth": 2.2},
    {"color": "#3f8f8c", "linestyle": (0, (1.2, 1.4)), "linewidth": 2.2},
    {"color": _BEST, "linestyle": (0, (5, 1.6)), "linewidth": 2.0},
)


@dataclass(frozen=True)
class Trial:
    """A member. `value` is what it is ranked by, None where it has none; `rank` 1 is the best."""

    index: int
    job_id: str
    state: str
    changes: Mapping[str, Any]
    value: float | None
    rank: int | None


@dataclass(frozen=True)
class _Group:
    """Members that differ in nothing that is shown; `values` at least one, `best` their smallest rank."""

    changes: tuple[Any, ...]
    values: tuple[float, ...]
    best: int

    @property
    def mean(self) -> float:
        return fmean(self.values)


def swept(
    trials: Sequence[Trial], fields: Sequence[str], metric: str, *, logarithmic: bool = False
) -> Picture:
    """The metric of the members that have a value, at least one, against `fields`, at least one: along an axis
    for one of numbers (logarithmic if asked for, all of them over 0), as a map for two with few values each,
    else ranked. Members that differ in none of the fields stand together, and their mean for them."""
    groups = _grouped(trials, fields)
    names = list(dict.fromkeys(name for trial in trials for name in trial.changes))
    paint: _Painter
    if len(fields) == 1 and is_numeric(trials, fields[0]):
        joined = {*differing(trials, names)} <= {fields[0], SEED}
        paint = _Line(groups, fields, metric, logarithmic=logarithmic, joined=joined)
    elif len(fields) == 2 and _fills_a_map(groups):
        paint = _Map(groups, fields, metric)
    else:
        paint = _Ranked(groups, fields, metric)

    def rows() -> Iterable[Row]:
        for trial in sorted(trials, key=lambda one: (one.rank or len(trials) + 1, one.index)):
            changes = (_plain(trial.changes.get(name)) for name in names)
            yield (trial.rank, trial.index, trial.job_id, trial.state, *changes, trial.value)

    header = ("rank", "index", "job_id", "state", *names, metric)
    return Picture(_heading(trials, metric), paint.size, paint, header, rows)


def differing(trials: Sequence[Trial], fields: Sequence[str]) -> list[str]:
    """Those of the fields, at least one, in which members differ; without `seed`, which only repeats them, if
    there is another. All if there are none."""
    several = [field for field in fields if len({_plain(trial.changes.get(field)) for trial in trials}) > 1]
    return [field for field in several if field != SEED] or several or list(fields)


def is_numeric(trials: Sequence[Trial], field: str) -> bool:
    """Whether the field is a number in every member."""
    return all(_is_number(trial.changes.get(field)) for trial in trials)


def _grouped(trials: Sequence[Trial], fields: Sequence[str]) -> list[_Group]:
    """Of members that have a value, in the order in which they were asked for."""
    groups: dict[str, tuple[tuple[Any, ...], list[Trial]]] = {}
    for trial in trials:
        changes = tuple(trial.changes.get(field) for field in fields)
        groups.setdefault(json.dumps(changes), (changes, []))[1].append(trial)
    found = []
    for changes, members in groups.values():
        values = tuple(one.value for one in members if one.value is not None)
        best = min((one.rank for one in members if one.rank is not None), default=None)
        if values and best is not None:
            found.append(_Group(changes, values, best))
    return found


def _heading(trials: Sequence[Trial], metric: str) -> str:
    ranked = sum(trial.value is not None for trial in trials)
    of_all = f"{ranked:,} members" if ranked == len(trials) else f"{ranked:,} of {len(trials):,} members"
    return f"{_titled(metric)} of {of_all}"


def _titled(metric: str) -> str:
    return metric.replace("_", " ").capitalize()


class _Painter(ABC):
    """Draws the groups; `size` in inches."""

    size = (WIDTH, 4.2)

    def __init__(self, groups: Sequence[_Group], fields: Sequence[str], metric: str) -> None:
        self.groups = groups
        self.fields = fields
        self.metric = metric

    @abstractmethod
    def __call__(self, figure: "Figure") -> None: ...

    def figure_of(self, value: float) -> str:
        return f"{100 * value:.2f} %" if self.metric.endswith("accuracy") else f"{value:.4g}"

    def format_axis(self, axis: Any) -> None:
        if self.metric.endswith("accuracy"):
            axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


class _Line(_Painter):
    """One field of numbers along an axis; `joined` by a line through the means, if nothing else varies."""

    def __init__(
        self, groups: Sequence[_Group], fields: Sequence[str], metric: str, *, logarithmic: bool, joined: bool
    ) -> None:
        super().__init__(groups, fields, metric)
        self.logarithmic = logarithmic
        self.joined = joined

    def __call__(self, figure: "Figure") -> None:
        axes = figure.add_axes((0.13, 0.14, 0.83, 0.74))
        places = sorted(self.groups, key=lambda group: float(group.changes[0]))
        if self.joined and 1 < len(places) <= LINE_POINTS:
            axes.plot(
                [group.changes[0] for group in places],
                [group.mean for group in places],
                color=_DARK,
                linewidth=1.6,
            )
        points = [(group.changes[0], value) for group in places for value in group.values]
        across, up = zip(*points, strict=True)
        axes.scatter(across, up, s=26, color=_DARK, alpha=0.75, linewidth=0, zorder=3)
        self._mark_best(axes)
        if self.logarithmic:
            axes.set_xscale("log")
        if len(places) <= 8:
            axes.set_xticks([group.changes[0] for group in places], [], minor=False)
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
        self.format_axis(axes.yaxis)
        axes.set_xlabel(self.fields[0])
        axes.set_ylabel(_titled(self.metric))
        axes.margins(y=0.14)

    def _mark_best(self, axes: "Axes") -> None:
        best = min(self.groups, key=lambda group: group.best)
        value = max(best.values) if is_better_high(self.metric) else min(best.values)
        axes.scatter(
            [best.changes[0]], [value], s=90, facecolor="none", edgecolor=_BEST, linewidth=1.8, zorder=4
        )
        axes.annotate(
            self.figure_of(value),
            (best.changes[0], value),
            xytext=(0, 9 if is_better_high(self.metric) else -9),
            textcoords="offset points",
            ha="center",
            va="bottom" if is_better_high(self.metric) else "top",
            fontsize=9.5,
            weight="bold",
        )


class _Map(_Painter):
    """Two fields of few values: a cell for each pair, dark where it is good, the figure written in it."""

    def __init__(self, groups: Sequence[_Group], fields: Sequence[str], metric: str) -> None:
        super().__init__(groups, fields, metric)
        self.down, self.across = _places(groups, 0), _places(groups, 1)
        self.left = 0.7 + 0.085 * max(len(_cut(text)) for text in self.down)
        cell = max(0.75, 0.2 + 0.085 * max(len(_cut(text)) for text in self.across))
        self.size = (max(WIDTH, self.left + 0.2 + cell * len(self.across)), 1.6 + 0.42 * len(self.down))

    def __call__(self, figure: "Figure") -> None:
        width, height = self.size
        axes = figure.add_axes(
            (
                self.left / width,
                0.65 / height,
                (width - self.left - 0.2) / width,
                (height - 1.15) / height,
            )
        )
        cells = np.full((len(self.down), len(self.across)), np.nan)
        for group in self.groups:
            cells[self.down.index(_plain(group.changes[0])), self.across.index(_plain(group.changes[1]))] = (
                group.mean
            )
        goodness = cells if is_better_high(self.metric) else -cells
        low, high = float(np.nanmin(goodness)), float(np.nanmax(goodness))
        shares = (goodness - low) / (high - low) if high > low else np.where(np.isnan(cells), np.nan, 0.5)
        axes.imshow(np.ma.masked_invalid(shares), cmap="YlGnBu", vmin=-0.08, vmax=1.25, aspect="auto")
        self._write(axes, cells, shares)
        axes.set_xticks(range(len(self.across)), [_cut(text) for text in self.across])
        axes.set_yticks(range(len(self.down)), [_cut(text) for text in self.down])
        axes.set_xlabel(self.fields[1])
        axes.set_ylabel(self.fields[0])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    def _write(self, axes: "Axes", cells: Any, shares: Any) -> None:
        best = np.nanargmax(shares)
        for place, ((row, column), value) in enumerate(np.ndenumerate(cells)):
            if np.isnan(value):
                axes.text(column, row, "·", ha="center", va="center", color=MUTED)
                continue
            axes.text(
                column,
                row,
                self.figure_of(float(value)),
                ha="center",
                va="center",
                fontsize=9,
                weight="bold" if place == best else "normal",
                color="white" if shares[row, column] > 0.62 else INK,
            )


class _Ranked(_Painter):
    """Anything else: a row for each, the best on top, with its values in columns as in a table."""

    def __init__(self, groups: Sequence[_Group], fields: Sequence[str], metric: str) -> None:
        sign = -1 if is_better_high(metric) else 1
        best_first = sorted(groups, key=lambda group: sign * group.mean)
        super().__init__(best_first[:ROWS_SHOWN], fields, metric)
        self.left_out = len(groups) - len(self.groups)
        self.columns = [
            [name, *(_cut(_plain(group.changes[place])) for group in self.groups)]
            for place, name in enumerate(_short(fields)[:COLUMNS_SHOWN])
        ]
        self.size = (WIDTH + max(0.0, self._left - 3.2), 1.6 + 0.24 * len(self.groups))

    @property
    def _widths(self) -> list[float]:
        """Of the columns, in inches."""
        return [0.25 + 0.078 * max(map(len, column)) for column in self.columns]

    @property
    def _left(self) -> float:
        return 0.2 + sum(self._widths)

    def __call__(self, figure: "Figure") -> None:
        width, height = self.size
        axes = figure.add_axes(
            (self._left / width, 0.6 / height, (width - self._left - 1.0) / width, (height - 1.35) / height)
        )
        for row, group in enumerate(self.groups):
            self._row(axes, row, group)
        axes.set_ylim(len(self.groups) - 0.4, -0.6)
        axes.set_yticks(range(len(self.groups)), [])
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.06)
        self.format_axis(axes.xaxis)
        axes.set_xlabel(
            _titled(self.metric) + (f", {self.left_out:,} more are worse" if self.left_out else "")
        )
        self._table(axes)

    def _row(self, axes: "Axes", row: int, group: _Group) -> None:
        if len(group.values) > 1:
            axes.plot([min(group.values), max(group.values)], [row, row], color="0.7", linewidth=1.2)
            axes.scatter(group.values, [row] * len(group.values), s=12, color="0.6", linewidth=0, zorder=3)
        axes.scatter([group.mean], [row], s=34, color=_DARK if row else _BEST, linewidth=0, zorder=4)
        axes.text(
            1.02,
            row,
            self.figure_of(group.mean),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            weight="normal" if row else "bold",
        )

    def _table(self, axes: "Axes") -> None:
        """Left of the axes, each column ending where the next begins."""
        ends = [-sum(self._widths[place + 1 :]) - 0.15 for place in range(len(self.columns))]
        for column, end in zip(self.columns, ends, strict=True):
            for row, text in enumerate(column, -1):
                axes.annotate(
                    text,
                    (0, row if row >= 0 else -0.6),
                    xycoords=axes.get_yaxis_transform(),
                    xytext=(72 * end, 0 if row >= 0 else 6),
                    textcoords="offset points",
                    ha="right",
                    va="center" if row >= 0 else "bottom",
                    fontsize=9,
                    color=INK if row >= 0 else MUTED,
                    weight="bold" if row == 0 else "normal",
                    annotation_clip=False,
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fills_a_map(groups: Sequence[_Group]) -> bool:
    """Whether pairs of two fields make a map: few values of each, and half of all pairs or more."""
    down, across = len(_places(groups, 0)), len(_places(groups, 1))
    return max(down, across) <= CELLS_A_SIDE and 2 * len(groups) >= down * across


def _places(groups: Sequence[_Group], which: int) -> list[str]:
    """Different values of one of the fields as texts; numbers by size, others as they were given."""
    values = [group.changes[which] for group in groups]
    if all(_is_number(value) for value in values):
        values.sort()
    return list(dict.fromkeys(map(_plain, values)))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(fields: Sequence[str]) -> list[str]:
    """Names without their blocks, where that leaves them different."""
    short = [field.rpartition(".")[2] for field in fields]
    return short if len(set(short)) == len(short) else list(fields)


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def overlaid(
    series: Mapping[int, Sequence[Point]],
    trials: Sequence[Trial],
    metric: str,
    *,
    axis: Axis = "step",
    logarithmic: bool = False,
) -> Picture:
    """A metric's series of members, by index, at least one with a point: the best three marked, the others
    grey. A logarithmic axis leaves out what is not over 0."""
    by_index = {trial.index: trial for trial in trials}
    order = sorted(series, key=lambda index: (by_index[index].rank or len(trials) + 1, index))
    fields = differing(trials, list(dict.fromkeys(field for trial in trials for field in trial.changes)))
    fields = fields[:COLUMNS_SHOWN]

    def paint(figure: "Figure") -> None:
        axes = figure.add_axes((0.11, 0.14, 0.85, 0.74))
        for place, index in reversed(list(enumerate(order))):
            is_best = place < len(_BEST_LINES) and by_index[index].rank is not None
            style = _BEST_LINES[place] if is_best else {"color": "0.75", "linewidth": 1.0}
            label = ", ".join(_cut(_plain(by_index[index].changes.get(field))) for field in fields)
            axes.plot(
                [point.step if axis == "step" else point.epoch for point in series[index]],
                [point.value for point in series[index]],
                label=label if is_best else None,
                zorder=4 if is_best else 2,
                **style,
            )
        over_0 = [point.value for points in series.values() for point in points if point.value > 0]
        _finish(axes, metric, axis, fields, logarithmic, over_0)

    def rows() -> Iterable[Row]:
        for index in order:
            for point in series[index]:
                yield (by_index[index].rank, index, by_index[index].job_id, *point)

    heading = f"{_titled(metric)} of {len(order):,} members"
    return Picture(heading, (WIDTH, 4.2), paint, ("rank", "index", "job_id", "step", "epoch", "value"), rows)


def _finish(
    axes: "Axes", metric: str, axis: Axis, fields: Sequence[str], logarithmic: bool, values: Sequence[float]
) -> None:
    if logarithmic and values:
        logarithmic_axis(axes, values)
    if metric.endswith("accuracy"):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.set_xlabel("Iterations" if axis == "step" else "Epochs")
    axes.set_ylabel(_titled(metric))
    axes.margins(x=0.02)
    handles, labels = axes.get_legend_handles_labels()
    if handles:  # painted from the last to the first, so that the best lies on top
        axes.legend(
            handles[::-1],
            labels[::-1],
            fontsize=8.5,
            title=f"best: {', '.join(_short(fields))}",
            title_fontsize=8.5,
        )
