"""Every alert fires when its cause happens, and none before: the causes are real, on a running server; what the server
says of them at /metrics is laid out over hours as if it went on, and Prometheus's own promtool judges."""

import dataclasses
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import yaml
from sqlalchemy import make_url, update

from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from service.keys import Secret
from service.observing.exposition import MISTAKES
from service.running import broker
from service.serving.inference import Floats
from service.settings import Settings
from service.store import attempts, keys, workers
from service.store.database import now
from service.store.tables import job
from tests.conftest import POSTGRES_URL
from tests.integration.conftest import LINEAR, Live, eventually, register, serving, weights_for
from tests.prometheus import ALERTS, DASHBOARD, ROOT, RULES, asked, prometheus, tool
from tests.scrapes import Samples, scraped

OPERATIONS = ROOT / "docs/operations.md"
RAW = {"content-type": "application/octet-stream"}
DIGIT = bytes([0] * 300 + [200] * 184 + [0] * 300)
HEALTHY, ILL = 59, 60  # minutes
UP = ("up", frozenset[tuple[str, str]]())
MOMENT = "numeral_reconciler_last_round_timestamp_seconds"
SUMMED = ("_total", "_bucket", "_count", "_sum")  # ends of names of what only grows


@dataclasses.dataclass(frozen=True)
class Scene:
    """Which alerts are to fire, and what was scraped before and after their cause."""

    alerts: tuple[str, ...]
    before: Samples
    after: Samples


def look(http: httpx.Client) -> Samples:
    """A scrape as Prometheus keeps it, with the time of the last round as seconds from now."""
    try:
        found = scraped(http) | {UP: 1.0}
    except httpx.TransportError:
        return {UP: 0.0}
    return {
        (name, labels): value - time.time() if name == MOMENT else value
        for (name, labels), value in found.items()
    }


def series(scene: Scene) -> list[dict[str, str]]:
    """The healthy hour, and then one in which it goes on every minute as it did between the scrapes."""
    told = []
    for name, labels in sorted({*scene.before, *scene.after}, key=str):
        first, last = scene.before.get((name, labels), 0.0), scene.after.get((name, labels))
        if name == MOMENT:  # stands still from when it is too old
            stands = last is None or last < -2
            values = f"0+60x{HEALTHY} " + (f"{60 * HEALTHY}x{ILL}" if stands else f"{60 * HEALTHY}+60x{ILL}")
        elif last is None:
            values = f"{first:.9f}x{HEALTHY} stale"
        else:
            growth = last - first if name.endswith(SUMMED) else 0.0
            values = f"{first:.9f}x{HEALTHY} {last:.9f}+{growth:.9f}x{ILL}"
        inner = ", ".join(
            f"{key}={json.dumps(value)}"
            for key, value in [("job", "numeral"), ("instance", "api:8000"), *sorted(labels)]
        )
        told.append({"series": f"{name}{{{inner}}}", "values": values})
    return told


def firing(name: str, minute: int, *, fires: bool) -> dict[str, Any]:
    query = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) > bool 0 or vector(0)'
    return {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}


def names() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


class Slow:
    """A network that takes its time."""

    cost = 10**9

    def __init__(self, network: Any) -> None:
        self._network = network
        self.begun, self.gate = threading.Event(), threading.Event()

    def logits(self, inputs: Any) -> Floats:
        self.begun.set()
        assert self.gate.wait(20)
        time.sleep(0.8)
        found: Floats = self._network.logits(inputs)
        return found


def reads(live: Live, weights: bytes) -> str:
    """Serve these weights; the id of their model."""
    model = register(live, weights)
    classifier = live.server.application.state.context.classifier

    def is_served() -> bool:
        loaded = classifier.at_hand("latest")
        return loaded is not None and loaded.model.id == model.id

    eventually(is_served)
    return model.id


def predict(live: Live, images: int) -> int:
    return live.http.post("/v1/predict", content=DIGIT * images, headers=RAW).status_code


def unsure() -> bytes:
    """Weights of a network that holds every label for as likely."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"] += 1
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)


def jobs_go_wrong(live: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    before = look(live.http)
    silent, waiting, failing = (live.submit() for _ in range(3))
    live.claim(silent)
    with live.db.write() as connection:
        for job_id, column, seconds in ((silent, "last_progress_at", 900.0), (waiting, "queued_at", 7200.0)):
            connection.execute(update(job).where(job.c.id == job_id).values({column: now() - seconds}))
    attempts.fail(live.db, live.claim(failing), code="internal_error", detail="", runtime=0)
    full = {"gpu_memory_used_bytes": 0.97 * 2**36, "gpu_memory_total_bytes": 2.0**36}
    workers.seen(live.db, "w", queues=["gpu"], device="NVIDIA", job_id=silent, figures=full)
    for _ in range(3):
        lost = live.claim(live.submit())
        attempts.worker_lost(live.db, lost, reason="worker_died")
    usage = shutil.disk_usage(live.settings.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 20))
    yield Scene(
        (
            *(
                "NumeralNoWorker",
                "NumeralQueueOld",
                "NumeralJobSilent",
                "NumeralJobsFail",
                "NumeralWorkersLost",
            ),
            *("NumeralGpuMemoryFull", "NumeralDiskFull"),
        ),
        before,
        look(live.http),
    )
    monkeypatch.undo()


def predictions_go_wrong(live: Live) -> Iterator[Scene]:
    model = reads(live, unsure())
    before = look(live.http)
    assert predict(live, 200) == 200
    assert predict(live, 200) == 200
    yield Scene(("NumeralDrift", "NumeralUnsure"), before, look(live.http))
    classifier = live.server.application.state.context.classifier
    loaded = classifier.at_hand(model)
    slow = Slow(loaded.network)
    classifier._kept[model] = dataclasses.replace(loaded, network=slow)
    before = look(live.http)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(predict, live, 1)
        eventually(slow.begun.is_set)
        second = pool.submit(predict, live, 3000)
        eventually(lambda: live.server.application.state.context.batcher.waiting == 3000)
        yield Scene(("NumeralImagesWait",), before, look(live.http))
        slow.gate.set()
        assert (first.result(), second.result()) == (200, 200)
    yield Scene(("NumeralSlowPredictions",), before, look(live.http))


@contextmanager
def without_connections(url: str) -> Iterator[None]:
    """The database as if its server were away."""
    parsed_url = make_url(url)
    plain = make_url(POSTGRES_URL).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as server:
        name = str(parsed_url.database)
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


def parts_go_away(live: Live, url: str, valkey: "subprocess.Popen[bytes]") -> Iterator[Scene]:
    eventually(lambda: look(live.http)[MOMENT, frozenset()] > -1)
    before = look(live.http)
    with without_connections(url):
        for _ in range(3):
            assert live.http.get("/v1/jobs").status_code == 503
        valkey.kill()
        valkey.wait()
        time.sleep(2.5)  # rounds of the reconciler that fail
        told = ("NumeralDatabaseDown", "NumeralBrokerDown", "NumeralErrors", "NumeralReconcilerStopped")
        yield Scene(told, before, look(live.http))
    live.stop()
    yield Scene(("NumeralDown",), before, look(live.http))


@pytest.fixture
def scenes(
    tmp_path: Path,
    settings_for: Callable[..., Settings],
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Scene]:
    found: list[Scene] = []
    with serving(settings_for(tmp_path / "one", reconcile_seconds=600)) as live:
        found += predictions_go_wrong(live)
        found += jobs_go_wrong(live, monkeypatch)
    home = Settings(home=tmp_path / "broker")
    valkey = broker.start(home)
    settings = settings_for(
        tmp_path / "two", broker_url=broker.url(home), database_url=postgres_url, reconcile_seconds=0.2
    )
    try:
        with serving(settings) as live:
            found += parts_go_away(live, postgres_url, valkey)
    finally:
        valkey.kill()
        valkey.wait()
    return found


def test_every_alert_fires_when_its_cause_happens_and_not_before(scenes: list[Scene], tmp_path: Path) -> None:
    promtool = tool("promtool")
    assert sorted(name for scene in scenes for name in scene.alerts) == sorted(names()), (
        "each has a cause here"
    )
    tests = [
        {
            "interval": "1m",
            "input_series": series(scene),
            "promql_expr_test": [
                *(firing(name, HEALTHY, fires=False) for name in scene.alerts),
                *(firing(name, HEALTHY + 30, fires=True) for name in scene.alerts),
            ],
        }
        for scene in scenes
    ]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES), str(ALERTS)], "evaluation_interval": "1m", "tests": tests})
    )
    judged = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_alert_says_what_to_do() -> None:
    text = OPERATIONS.read_text()
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page) == OPERATIONS
        assert anchor == rule["alert"].lower()
        assert re.search(rf"^### {rule['alert']}$", text, re.MULTILINE), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_alert_of_failures_leaves_out_what_a_spec_is_to_blame_for() -> None:
    assert f'numeral_failures_total{{code!~"{"|".join(MISTAKES)}"}}' in ALERTS.read_text()


def test_every_metric_is_in_the_guide(shared: Live) -> None:
    told = shared.http.get("/metrics").text
    found = {name for kind, name in re.findall(r"^# (TYPE) (numeral_\w+)", told, re.MULTILINE)}
    listed = set(re.findall(r"^\| `(numeral_\w+)", OPERATIONS.read_text(), re.MULTILINE))
    assert found == listed


def test_every_panel_of_the_dashboard_shows_something(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    queries = [
        target["expr"].replace("$__rate_interval", "1m")
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    settings = settings_for(
        tmp_path / "home", auth="on", reconcile_seconds=0.2, admin_key_file=tmp_path / "admin.key"
    )
    with serving(settings) as live:
        secret = Secret.new()
        keys.create(live.db, secret, name="prometheus", scopes=["read"])
        live.http.headers["authorization"] = f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"
        reads(live, weights_for(7))
        live.submit()
        figures = {
            "steps": 1,
            "images": 1,
            "gpu_memory_used_bytes": 1,
            "gpu_memory_total_bytes": 2,
            "gpu_utilization": 0.5,
        }
        with prometheus(tmp_path / "prometheus", live.url, secret.text) as http:
            deadline, silent = time.monotonic() + 40, queries
            while silent and time.monotonic() < deadline:
                figures = figures | {"steps": figures["steps"] + 1}
                workers.seen(live.db, "w", queues=["gpu"], device="NVIDIA", job_id="job_1", figures=figures)
                assert predict(live, 3) == 200
                time.sleep(0.5)
                silent = [query for query in silent if not asked(http, query)]
            assert not silent, "these say nothing"
        assert httpx.get(f"{live.url}/metrics").status_code == 401, "it was not asked without a key"
