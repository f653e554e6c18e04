"""The dashboard, to be looked at: a real `numeral up` trains, predicts, is asked wrongly and has a training process
killed, a real Prometheus scrapes it each second, and every panel of `deploy/grafana` is drawn where it lies, from what its own
queries answer. No Grafana takes part: its legends, units and stacking are followed here, its looks are not.

    python -m bench.dashboard [--seconds 300] [--picture docs/images/dashboard.png]
"""

import argparse
import io
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, MultipleLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from bench.load import SMALL, after, load
from service.client import Client, NumeralError
from service.data import datasets
from service.settings import load as load_settings
from service.spec import DatasetSpec
from tests.acceptance.conftest import Service, running, until
from tests.prometheus import DASHBOARD, asked, prometheus

Panel = Mapping[str, Any]
Series = tuple[str, NDArray[np.float64], NDArray[np.float64]]  # legend; seconds since the beginning; values

COLUMNS = 24  # of Grafana's grid
COLUMN, ROW = 0.72, 0.3  # inches
DOTS = 80  # an inch
POINTS = 150  # a curve
GAP = 0.12  # of a column or row, around a panel
LETTERS = 9  # of a legend in a column
LEGEND_LINES = 2  # Grafana scrolls through the rest
FIRST_SECONDS = 15  # for Prometheus's first scrapes
RATE_INTERVAL = "20s"  # Grafana takes four scrapes at least; so many smooth the second between two
WRONG_SECONDS = 2.0  # between two mistakes of a client

WORK = {"network": {"hidden_widths": [256]}, "epochs": 400, "evaluation": {"every_steps": 500}}
DIVERGES = {
    "network": {"hidden_widths": [16], "activation": "identity"},
    "loss": "mse",
    "optimizer": {"name": "sgd", "learning_rate": 1000},
    "epochs": 1,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="Of what is shown.")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/dashboard.png"))
    arguments = parser.parse_args()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "home", NUMERAL_LOG_LEVEL="error", NUMERAL_WORKERS="2") as service,
        prometheus(Path(folder) / "prometheus", service.url) as http,
    ):
        until(lambda: asked(http, 'up{job="numeral"} == 1'), "Prometheus scrapes", FIRST_SECONDS)
        service.client.jobs.wait(service.client.jobs.create(SMALL).id)  # what predictions are asked of
        since = time.time()
        live_through(service, arguments.seconds)
        shown = [(panel, list(answered(http, panel, since, time.time()))) for panel in panels]
    arguments.picture.write_bytes(png(drawn(shown)))
    silent = [panel["title"] for panel, series in shown if panel["type"] != "row" and not series]
    print(f"{arguments.picture}: {sum(bool(series) for _, series in shown)} panels drawn")
    print(f"nothing to show, as here there is no GPU or no such trouble: {', '.join(silent) or 'none'}")
    return 0


def png(figure: Figure) -> bytes:
    """In few colours, a third of the size."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, dpi=DOTS)
    Image.open(whole).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    return small.getvalue()


def live_through(service: Service, seconds: float) -> None:
    """So long of everything that panels tell of."""
    client = service.client
    over = after(seconds)
    with ThreadPoolExecutor() as pool:
        job = service.start(WORK, at_step=1)
        pending: list[Future[Any]] = [
            pool.submit(load, service.url, over, kinds=("submit", "page"), follow=[job.id], followers=3),
            pool.submit(readings, service.url, over),
            pool.submit(mistakes, service.url, over),
            pool.submit(batches, service.url, over),
        ]
        if not over.wait(seconds / 3):
            trains(service).kill()
        if not over.wait(seconds / 6):
            client.jobs.create(DIVERGES, priority=0)
        over.wait()
        for one in pending:
            one.result()


def trains(service: Service) -> Any:
    """A training process."""
    return until(lambda: service.worker().children(), "there are training processes")[0]


def mistakes(url: str, over: threading.Event) -> None:
    """A client that asks wrongly, and one that asks for what is not there."""
    with Client(url) as client:
        while not over.wait(WRONG_SECONDS):
            with suppress(NumeralError):
                client.jobs.create({"epochs": 0})
            with suppress(NumeralError):
                client.jobs.get("job_none")


def batches(url: str, over: threading.Event) -> None:
    """Batches of images, one after another."""
    with Client(url, patience=30) as client:
        while not over.is_set():
            client.batches.wait(
                client.batches.create(bytes(784 * 2000), media_type="application/octet-stream").id
            )


def readings(url: str, over: threading.Event) -> None:
    """Digits that come in waves, in requests of one to sixteen."""
    settings = load_settings()
    digits = datasets.load(
        DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir
    ).test_inputs
    random = np.random.default_rng(0)
    with Client(url, patience=30) as client:
        while not over.wait(0.05 * (1 + np.sin(time.monotonic() / 10))):
            client.predict(
                digits[random.integers(0, len(digits), random.integers(1, 17))].reshape(-1, 28, 28)
            )


def answered(http: httpx.Client, panel: Panel, since: float, now: float) -> Iterator[Series]:
    """What the queries of a panel answer: over the time shown, or of a panel of single numbers now."""
    for target in panel.get("targets", ()):
        query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
        if panel["type"] == "stat":
            found = [one | {"values": [one["value"]]} for one in asked(http, query)]
        else:
            span = {"start": since, "end": now, "step": (now - since) / POINTS}
            answer = http.get("/api/v1/query_range", params={"query": query, **span})
            answer.raise_for_status()
            found = answer.json()["data"]["result"]
        for one in found:
            times, values = np.array(one["values"], dtype=float).T
            yield legend(target["legendFormat"], one["metric"]), times - since, values


def legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), template).strip()


def drawn(shown: Sequence[tuple[Panel, Sequence[Series]]]) -> Figure:
    """The panels on Grafana's grid."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in shown)
    last = max(times[-1] for _, series in shown for _, times, _ in series)
    with mpl.rc_context(
        {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure((COLUMNS * COLUMN, rows * ROW), facecolor="#f4f5f5")
        for panel, series in shown:
            place = panel["gridPos"]
            left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
            bottom, height = 1 - (place["y"] + place["h"]) / rows, place["h"] / rows
            if panel["type"] == "row":
                figure.text(
                    left + 0.005, bottom + height / 2, panel["title"], weight="bold", va="center", size=11
                )
                continue
            card = (
                left + GAP / COLUMNS,
                bottom + GAP / rows,
                width - 2 * GAP / COLUMNS,
                height - 2 * GAP / rows,
            )
            figure.add_artist(Rectangle(card[:2], *card[2:], color="white", zorder=-1))
            # room around for the ticks' labels, above for the title, below for the legend
            inner = (left + 0.04, bottom + 2.2 / rows, width - 0.052, height - 3.5 / rows)
            axes = figure.add_axes(card if panel["type"] == "stat" else inner)
            _PANELS[panel["type"]](axes, panel, series)
            if panel["type"] != "stat":
                axes.set_xlim(0, last)
    return figure


def _numbers(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """Single numbers in large letters, as words where the panel maps them to some."""
    axes.set_axis_off()
    words = {
        value: told
        for mapping in panel["fieldConfig"]["defaults"]["mappings"]
        for value, told in mapping["options"].items()
    }
    told = [(name, words.get(f"{values[-1]:g}", {"text": f"{values[-1]:g}"})) for name, _, values in series]
    ill = any(word.get("color") == "red" for _, word in told)
    axes.add_patch(Rectangle((0, 0), 1, 1, color="#c4162a" if ill else "#37872d"))
    axes.text(0.05, 0.8, panel["title"], color="white", weight="bold")
    for index, (name, word) in enumerate(told or [("", {"text": "No data"})]):
        across = (index + 0.5) / max(len(told), 1)
        axes.text(across, 0.42, word["text"], color="white", size=22, ha="center", va="center")
        axes.text(across, 0.13, name if len(told) > 1 else "", color="white", ha="center")


def _curves(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if "sortBy" in panel["options"]["legend"]:
        series = sorted(series, key=lambda one: -np.nanmax(one[2]))
    axes.set_title(panel["title"], loc="left", weight="bold")
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(_UNITS[defaults["unit"]]())
    if not series:
        axes.text(0.5, 0.5, "No data", ha="center", transform=axes.transAxes, color="#6e7687")
        axes.set_xticks([])
        return
    if "stacking" in defaults["custom"]:
        _stacked(axes, series)
    else:
        for name, times, values in series:
            axes.plot(times, values, linewidth=1, label=name)
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    if not any(values.any() for _, _, values in series):
        axes.set_ylim(top=1)
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at // 60:.0f}:{at % 60:02.0f}"))
    widest = max(len(name) for name, _, _ in series) + 4
    columns = max(1, min(len(series), round(panel["gridPos"]["w"] * LETTERS / widest)))
    keys, names = axes.get_legend_handles_labels()
    axes.legend(
        keys[: LEGEND_LINES * columns], names[: LEGEND_LINES * columns], ncols=columns,
        loc="upper left", bbox_to_anchor=(-0.03, -0.14), frameon=False, handlelength=1, fontsize=7,
    )  # fmt: skip


def _stacked(axes: Axes, series: Sequence[Series]) -> None:
    """One upon another; where one says nothing it is nothing."""
    times = np.unique(np.concatenate([times for _, times, _ in series]))
    layers = np.zeros((len(series), len(times)))
    for layer, (_, own, values) in zip(layers, series, strict=True):
        layer[np.searchsorted(times, own)] = np.nan_to_num(values)
    axes.stackplot(times, layers, labels=[name for name, _, _ in series], alpha=0.7)


_PANELS: Mapping[str, Callable[[Axes, Panel, Sequence[Series]], None]] = {
    "stat": _numbers,
    "timeseries": _curves,
}
_UNITS: Mapping[str, Callable[[], Formatter]] = {
    "short": partial(FuncFormatter, lambda value, _: f"{value:,g}"),
    "reqps": partial(EngFormatter, "req/s"),
    "s": partial(EngFormatter, "s"),
    "percentunit": partial(PercentFormatter, 1),
    "bytes": partial(EngFormatter, "B"),
}


if __name__ == "__main__":
    sys.exit(main())
