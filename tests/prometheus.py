"""Prometheus itself, which scrapes a server of the tests by the configuration that is deployed."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import yaml

from tests.conftest import missing

ROOT = Path(__file__).parent.parent
RULES, ALERTS = ROOT / "deploy/prometheus/rules.yml", ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/numeral.json"


def tool(name: str) -> str:
    """Where one of Prometheus's programs is."""
    found = shutil.which(name)
    return found if found is not None else missing(f"Prometheus's {name}")


@contextmanager
def prometheus(folder: Path, url: str, key: str = "") -> Iterator[httpx.Client]:
    """One that scrapes the server at this address each second."""
    given = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    given["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    given["rule_files"] = [str(RULES), str(ALERTS)]
    (scraping,) = given["scrape_configs"]
    scraping["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    folder.mkdir()
    (folder / "numeral.key").write_text(key)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(arguments) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        try:
            yield http
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def asked(http: httpx.Client, query: str) -> list[Any]:
    """The result of a query now; nothing from a Prometheus that has just been started."""
    try:
        answer = http.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    told = answer.json()
    assert told["status"] == "success", (query, told)
    result: list[Any] = told["data"]["result"]
    return result
