"""The dashboard of `deploy/grafana`, drawn without Grafana: a service under load, a Prometheus that watches it by the
rules that are deployed, and a picture of what each panel's queries answer.

    python -m bench.dashboard [--minutes 5] [--out docs/images/dashboard.png]

In its last third a worker is killed, so that there is something to see under Trouble. A panel that has nothing to say
says so; of this machine those of the GPU, unless it has one.
"""

import argparse
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from service.client import Client
from tests.acceptance.conftest import Service, running, until

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "deploy/grafana/dashboards/numeral.json"
PROMETHEUS = ROOT / "deploy/prometheus"
SCRAPE_SECONDS = 5
COLUMNS, COLUMN, ROW = 24, 0.62, 0.36  # of the grid, and inches of one
SPEC = {"network": {"hidden_widths": [64]}, "dataset": {"examples": 20_000}, "epochs": 20}
COLOURS = {"text": "#333333", "quiet": "#888888", "back": "#f4f5f5", "panel": "#ffffff"}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """One that scrapes the target by the configuration and the rules that are deployed, only more often."""
    given = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    interval = f"{SCRAPE_SECONDS}s"
    given["global"] = {
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "evaluation_interval": interval,
    }
    given["rule_files"] = [str(PROMETHEUS / name) for name in given["rule_files"]]
    given["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "numeral.key").touch()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(arguments) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        try:
            yield http
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def use(client: Client, url: str, ending: threading.Event) -> None:
    """Predict, in batches now and then, and ask for what is not there once in a while."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 784), dtype=np.uint8) * (random.random((64, 784)) < 0.2)
    with httpx.Client(base_url=url) as http:
        for number in itertools.count():
            if ending.wait(0.02):
                return
            client.predict(images[:32] if number % 10 == 0 else images[number % 64][np.newaxis])
            if number % 100 == 0:
                http.get("/v1/jobs/job_of_nobody")


def run(service: Service, seconds: float) -> tuple[float, float]:
    """When it began and ended, in seconds since 1970."""
    client = service.client
    client.jobs.wait(client.jobs.create(SPEC | {"epochs": 1}).id)
    ending = threading.Event()
    using = threading.Thread(target=use, args=(client, service.url, ending))
    using.start()
    began = time.time()
    try:
        for seed in range(1000):
            client.jobs.create(SPEC | {"seed": seed})
            left = began + seconds - time.time()
            if seed == 0:
                time.sleep(seconds * 2 / 3)
                service.worker().children()[0].send_signal(signal.SIGKILL)
            elif left <= 0:
                break
            else:
                time.sleep(min(left, 10.0))
    finally:
        ending.set()
        using.join()
    return began, time.time()


def asked(http: httpx.Client, query: str, began: float, ended: float) -> list[dict[str, Any]]:
    answer = http.get(
        "/api/v1/query_range",
        params={
            "query": query.replace("$__rate_interval", f"{4 * SCRAPE_SECONDS}s"),
            "start": began,
            "end": ended,
            "step": SCRAPE_SECONDS,
        },
    )
    told = answer.json()
    if told["status"] != "success":
        raise SystemExit(f"{query}: {told}")
    found: list[dict[str, Any]] = told["data"]["result"]
    return found


def drawn(http: httpx.Client, began: float, ended: float) -> Figure:
    """The whole dashboard, with each panel where its grid has it."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(COLUMNS * COLUMN, rows * ROW), facecolor=COLOURS["back"])
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / COLUMNS, 1 - place["y"] / rows
        if panel["type"] == "row":
            figure.text(
                left + 0.008, top - 0.6 / rows, panel["title"], size=12, weight="bold", color=COLOURS["text"]
            )
            continue
        inner = (
            left + 1.4 / COLUMNS,
            top - (place["h"] - 1.6) / rows,
            (place["w"] - 1.8) / COLUMNS,
            (place["h"] - 3.0) / rows,
        )
        axes = figure.add_axes(inner, facecolor=COLOURS["panel"])
        axes.set_title(panel["title"], size=9, loc="left", color=COLOURS["text"])
        lines = [
            (legend(target.get("legendFormat", ""), one["metric"]), one["values"])
            for target in panel["targets"]
            for one in asked(http, target["expr"], began, ended)
        ]
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
        (stat if panel["type"] == "stat" else curves)(axes, lines, unit, began)
    return figure


def legend(pattern: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


Lines = list[tuple[str, list[tuple[float, str]]]]


def stat(axes: Axes, lines: Lines, unit: str, _began: float) -> None:
    axes.axis("off")
    texts = [f"{name} {told(float(values[-1][1]), unit)}".strip() for name, values in lines]
    axes.text(
        0.5, 0.4, "\n".join(texts) or "no data", size=14, ha="center", va="center", color=COLOURS["text"]
    )


def curves(axes: Axes, lines: Lines, unit: str, began: float) -> None:
    axes.tick_params(labelsize=7, colors=COLOURS["quiet"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: told(value, unit)))
    if not lines:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=COLOURS["quiet"])
    for name, values in lines:
        points = np.array([(float(at) - began, float(value)) for at, value in values])
        axes.plot(points[:, 0] / 60, points[:, 1], linewidth=1.2, label=name)
    if any(name for name, _ in lines):
        axes.legend(fontsize=6, frameon=False, loc="upper left", ncols=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", size=6, color=COLOURS["quiet"], labelpad=1)


def told(value: float, unit: str) -> str:
    """As Grafana writes a number of that unit, roughly."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    return f"{value / 1000:.3g} k" if abs(value) >= 10_000 else f"{value:.4g}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/dashboard.png")
    given = parser.parse_args()
    mpl.rcParams["font.family"] = "DejaVu Sans"
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "home", log=Path(folder) / "log", NUMERAL_WORKERS="2") as service,
        prometheus(Path(folder), service.url.removeprefix("http://")) as http,
    ):
        until(lambda: len(list(service.client.workers())) == 3, "all are alive", 120)
        began, ended = run(service, 60 * given.minutes)
        drawn(http, began, ended).savefig(given.out, dpi=90)
    print(f"drawn: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
