"""`numeral curves`: how a job's loss and accuracy went, drawn in the terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.terminal import JobId, Json, Url, connected, figure, out, show, told
from service.client import Point
from service.errors import NotFound

HEIGHT = 12
STYLES = {"train": "blue", "validation": "magenta", "test": "green"}  # by what a series begins with
MARGIN = 10  # characters of the axis

Series = Mapping[str, Sequence[Point]]


@told
def curves(
    job_id: JobId,
    log: Annotated[bool, typer.Option("--log", help="A logarithmic axis for the loss.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Draw a job's loss and accuracy by step, here in the terminal; also while it trains."""
    most = None if as_json else max(2, 2 * (out.width - MARGIN))  # as many as there are columns of dots
    with connected(url) as client:
        points = list(client.jobs.series(job_id, max_points=most))
    if not points:
        raise NotFound(f"{job_id} has no figures as yet: see `numeral jobs watch`", code="no_figures")
    show([point.as_told() for point in points], Group(*_charts(_by_name(points), log=log)), as_json)


def _by_name(points: Sequence[Point]) -> Series:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.name, []).append(point)
    return found


def _charts(series: Series, *, log: bool) -> Iterator[RenderableType]:
    """One for each kind of figure; where there are no colours, one for each series."""
    for kind in ("loss", "accuracy"):
        found = {name: points for name, points in series.items() if name.endswith(f"_{kind}")}
        apart = [found] if out.color_system else [{name: points} for name, points in found.items()]
        for one in filter(None, apart):
            yield chart(one, out.width, log=log and kind == "loss")


def chart(series: Series, width: int, *, log: bool = False) -> Text:
    """Series over one pair of axes, with a legend that tells their newest values; what is not finite, or has no
    logarithm, is left out."""
    from service.blocks import Canvas

    kept = {
        name: [(point.step, _scaled(point.value, log=log)) for point in points if _is_shown(point, log=log)]
        for name, points in series.items()
    }
    steps = [step for points in kept.values() for step, _ in points]
    values = [value for points in kept.values() for _, value in points]
    if not values:
        return Text(f"{', '.join(series)}: nothing to draw")
    canvas = Canvas(max(10, width - MARGIN), HEIGHT)
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    for name, points in kept.items():
        shares = ((_share(step, left, right), _share(value, low, high)) for step, value in points)
        canvas.line(shares, _style(name))
    bounds = [10**bound if log else bound for bound in (low, high)]
    return _labelled(series, canvas.lines(), bounds, (left, right))


def _labelled(series: Series, lines: Sequence[Text], bounds: Sequence[float], steps: tuple[int, int]) -> Text:
    name = next(iter(series))
    low, high = (figure(name, bound) for bound in bounds)
    edge = [high, *[""] * (len(lines) - 2), low]
    body = [Text(f"{label:>{MARGIN - 2}} ").append(line) for label, line in zip(edge, lines, strict=True)]
    left, right = (f"{step:,}" for step in steps)
    room = len(lines[0]) - len(right)
    foot = Text(" " * (MARGIN - 1) + f"{left:<{room}}{right}")
    legend = Text("  ").join(
        Text(f"{name} {figure(name, points[-1].value)}", _style(name)) for name, points in series.items()
    )
    return Text("\n").join([legend, *body, foot, Text("")])


def _is_shown(point: Point, *, log: bool) -> bool:
    return math.isfinite(point.value) and (point.value > 0 or not log)


def _scaled(value: float, *, log: bool) -> float:
    return math.log10(value) if log else value


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _style(name: str) -> str:
    return STYLES.get(name.partition("_")[0], "")
