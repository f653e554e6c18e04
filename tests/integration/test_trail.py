"""One request's way through the processes: its ids in each one's log, its spans in a collector that is real enough to
decode what it is sent."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.settings import Settings
from service.store import jobs
from tests.integration.conftest import Live, eventually, serving

SPEC: dict[str, Any] = {
    "task": "regression",
    "dataset": {"name": "simulated", "examples": 50},
    "network": {"hidden_widths": [3]},
    "batch_size": "full",
    "steps": 300,
}
ROOT = Path(__file__).parents[2]
REQUEST = {"x-request-id": "lab-42"}
RAW = {"content-type": "application/octet-stream"}


@dataclass
class Span:
    process: str
    name: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Takes OTLP over HTTP."""

    spans: list[Span] = field(default_factory=list)
    url: str = ""

    def named(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for one in scope.spans:
                    told = {
                        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
                        for pair in one.attributes
                    }
                    ids = (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex())
                    self.spans.append(Span(about["service.name"], one.name, *ids, told))


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            found.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def worker(settings: Settings, log: Path) -> Iterator[None]:
    """A real one, that logs there."""
    assert settings.broker_url is not None
    environment = os.environ | {
        "NUMERAL_HOME": str(settings.home),
        "NUMERAL_BROKER_URL": settings.broker_url.get_secret_value(),
        "NUMERAL_OTLP_ENDPOINT": settings.otlp_endpoint or "",
        "NUMERAL_DEVICE": "cpu",
    }
    with (
        log.open("w") as file,
        subprocess.Popen([sys.executable, "-m", "worker"], env=environment, cwd=ROOT, stderr=file) as process,
    ):
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_one_trace_from_the_post_to_the_last_step(
    tmp_path: Path,
    settings_for: Callable[..., Settings],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    settings = settings_for(tmp_path / "home", otlp_endpoint=collector.url)
    log = tmp_path / "worker.log"
    with serving(settings) as live, worker(settings, log):
        job_id = live.http.post("/v1/jobs", json=SPEC, headers=REQUEST).json()["id"]
        eventually(lambda: jobs.get(live.db, job_id).state == "succeeded", seconds=180)
    post, train, fit = (collector.named(name) for name in ("POST /v1/jobs", "train", "fit"))
    assert (post.process, post.parent, post.attributes["http.response.status_code"]) == (
        "numeral-api",
        "",
        202,
    )
    assert (train.process, train.trace, train.parent) == ("numeral-worker", post.trace, post.span)
    assert (train.attributes["job_id"], train.attributes["attempt"]) == (job_id, 1)
    assert train.attributes["steps"] == 300
    assert collector.named("queued").parent == post.span
    assert fit.parent == train.span
    assert collector.named("load data").parent == train.span
    assert collector.named("evaluate").parent == fit.span
    assert {span.parent for span in collector.spans if span.name == "store checkpoint"} == {fit.span}
    (line,) = [json.loads(line) for line in log.read_text().splitlines() if f"{job_id} succeeded" in line]
    ids = {name: line[name] for name in ("process", "request_id", "job_id", "attempt", "trace_id")}
    assert ids == {
        "process": "worker", "request_id": "lab-42", "job_id": job_id, "attempt": 1, "trace_id": post.trace,
    }  # fmt: skip


def test_a_client_s_trace_goes_on_whichever_way_its_request_takes(
    tmp_path: Path, settings_for: Callable[..., Settings], collector: Collector
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = RAW | {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with serving(settings_for(tmp_path, otlp_endpoint=collector.url)) as live:
        live.model(7)
        classifier = live.server.application.state.context.classifier
        eventually(lambda: classifier.at_hand("latest") is not None)
        assert live.http.post("/v1/predict", content=bytes(784), headers=headers).status_code == 200
        assert live.http.post("/v1/predict", content=bytes(784), headers=RAW).status_code == 200
    told = collector.named("POST /v1/predict")  # only that which was asked for: the short way has no spans
    assert (told.trace, told.parent) == (trace, "b7ad6b7169203331")


def test_the_row_keeps_where_a_job_comes_from(live: Live) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = REQUEST | {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    first = jobs.get(live.db, live.http.post("/v1/jobs", json=SPEC, headers=headers).json()["id"])
    assert (first.request_id, first.traceparent) == ("lab-42", headers["traceparent"])
    second = jobs.get(live.db, live.http.post("/v1/jobs", json=SPEC).json()["id"])
    assert second.traceparent is not None, "a trace has an id in the logs also where nobody records it"
    assert trace not in second.traceparent


def test_what_records_and_sends_is_not_imported_where_it_is_off(tmp_path: Path) -> None:
    program = (
        "import sys; from service.observing import tracing; from service.settings import Settings;"
        "import service.api.server, service.bulk;"
        "tracing.begin(Settings(), 'api'); OF_TRACES = 'opentelemetry.sdk.trace', 'opentelemetry.exporter'"
        "\nwith tracing.span('x'): pass\n"
        "print([name for name in sys.modules if name.startswith(OF_TRACES)])"
    )
    environment = os.environ | {"NUMERAL_HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
