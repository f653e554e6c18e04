"""What Prometheus scrapes: each request counted once whichever way it took, and what the database says."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from service.observing.meter import SHARE_SECONDS
from service.settings import Settings
from service.store import attempts, batches, workers
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_fleet import answered, fleet
from tests.scrapes import scraped, value

DIGIT = bytes([0] * 300 + [200] * 184 + [0] * 300)
RAW = {"content-type": "application/octet-stream"}
PREDICT = {"method": "POST", "route": "/v1/predict"}
REQUESTS, SECONDS = "numeral_http_requests_total", "numeral_http_request_duration_seconds_count"


def reads(live: Live, *, label: int = 7) -> None:
    """Waits until the server reads everything as that."""
    live.model(label)
    eventually(lambda: live.server.application.state.context.classifier.at_hand("latest") is not None)


def test_a_prediction_is_counted_whichever_way_it_took(live: Live, answers: list[bool]) -> None:
    reads(live)
    ways = (
        ("/v1/predict", DIGIT),  # where it is parsed
        ("/v1/models/latest/predict", DIGIT * 3),
        ("/v1/predict?exact=true", DIGIT),  # by FastAPI
        ("/v1/predict", DIGIT * 40),
    )
    for number, (path, body) in enumerate(ways, 1):
        assert live.http.post(path, content=body, headers=RAW).status_code == 200
        found = scraped(live.http)
        assert value(found, "numeral_classifier_batch_images_count") == number
    assert answers == [True] * 3
    assert value(found, REQUESTS, status="200", **PREDICT) == 3
    assert value(found, SECONDS, **PREDICT) == 3
    of_model = {"method": "POST", "route": "/v1/models/{reference}/predict"}
    assert value(found, REQUESTS, status="200", **of_model) == 1
    assert value(found, "numeral_classifier_batch_images_sum") == 1 + 3 + 1 + 40
    assert value(found, "numeral_predictions_total", label="7") == 1 + 3 + 1 + 40
    assert value(found, "numeral_predictions_total", label="3") == 0
    assert value(found, "numeral_prediction_confidence_count") == 45
    assert value(found, "numeral_prediction_confidence_bucket", le="0.99") == 0, "it is sure of what it says"
    assert value(found, "numeral_model_version", name="latest") == 1


def test_a_route_is_named_by_its_template_and_a_page_by_its_path(live: Live) -> None:
    live.http.get("/v1/jobs/job_00000000000000000000000000000000")
    live.http.get("/", headers={"accept": "text/html"})
    live.http.get("/nowhere")
    live.http.post("/v1/jobs", content=b"x" * (live.settings.max_json_bytes + 1))
    found = scraped(live.http)
    assert value(found, REQUESTS, method="GET", route="/v1/jobs/{job_id}", status="404") == 1
    assert value(found, REQUESTS, method="GET", route="/", status="200") == 1
    assert found[REQUESTS, frozenset({("method", "GET"), ("route", "/"), ("status", "503")})] == 0, (
        "a burst of errors is seen by `rate` only if there was a 0 before"
    )
    assert value(found, REQUESTS, method="", route="unmatched", status="404") == 1
    assert value(found, REQUESTS, method="", route="unmatched", status="413") == 1
    assert "nowhere" not in live.http.get("/metrics").text, "a stranger makes no series"


def test_the_queue_the_workers_and_what_went_wrong(live_on_each: Live) -> None:
    live = live_on_each
    first, second = live.submit(), live.submit()
    figures = {"steps": 12, "images": 600.0, "gpu_memory_used_bytes": 2.0**30}
    workers.seen(live.db, "w", queues=["gpu", "cpu"], device="NVIDIA", job_id=first, figures=figures)
    found = scraped(live.http)
    assert value(found, "numeral_jobs", state="queued") == 2
    assert value(found, "numeral_queue_depth", queue="cpu") == 2
    assert value(found, "numeral_queue_oldest_seconds", queue="cpu") > 0
    assert value(found, "numeral_queue_oldest_seconds", queue="gpu") == 0
    assert [value(found, "numeral_workers", queue=queue) for queue in ("cpu", "gpu", "batch")] == [1, 1, 0]
    of_worker = {"worker": "w", "device": "NVIDIA"}
    assert found["numeral_failures_total", frozenset({("kind", "job"), ("code", "diverged")})] == 0, (
        "the first is seen by `increase` only if there was a 0 before"
    )
    assert value(found, "numeral_worker_busy", **of_worker) == 1
    assert value(found, "numeral_worker_steps_total", **of_worker) == 12
    assert value(found, "numeral_worker_images_total", **of_worker) == 600
    assert value(found, "numeral_gpu_memory_used_bytes", **of_worker) == 2**30

    attempts.worker_lost(live.db, live.claim(first), reason="lease_expired")
    attempts.release(live.db, live.claim(first), runtime=0)
    attempts.fail(live.db, live.claim(second), code="out_of_memory", detail="", runtime=0)
    for _ in range(2):  # of three that it may lose
        attempts.worker_lost(live.db, live.claim(first), reason="worker_died")
    found = scraped(live.http)
    jobs = {"kind": "job"}
    assert value(found, "numeral_leases_lost_total", cause="lease_expired", **jobs) == 1
    assert value(found, "numeral_leases_lost_total", cause="worker_died", **jobs) == 2
    assert value(found, "numeral_requeues_total", cause="worker_died", **jobs) == 1, (
        "the other time it failed"
    )
    assert value(found, "numeral_requeues_total", cause="worker_left", **jobs) == 1
    assert value(found, "numeral_failures_total", code="out_of_memory", **jobs) == 1
    assert value(found, "numeral_failures_total", code="worker_lost", **jobs) == 1
    assert value(found, "numeral_jobs", state="failed") == 2


def test_a_batch_that_lost_its_worker_is_counted(live: Live) -> None:
    reads(live)
    made = live.http.post("/v1/batches", content=DIGIT * 2, headers=RAW)
    assert made.status_code == 202, made.text
    held = batches.claim(live.db, made.json()["id"], worker="w", lease_seconds=60)
    assert held is not None
    assert held.lease_until is not None
    hold = batches.Hold(held.id, held.attempt)
    batches.worker_lost(live.db, hold, reason="lease_expired", lease_until=held.lease_until)
    found = scraped(live.http)
    assert value(found, "numeral_requeues_total", kind="batch", cause="lease_expired") == 1
    assert value(found, "numeral_queue_depth", queue="batch") == 1


def test_the_reconciler_tells_what_it_does(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    with serving(settings_for(tmp_path, reconcile_seconds=0.1, lease_seconds=1)) as live:
        live.claim(live.submit())  # by a worker that never beats
        actions = "numeral_reconciler_actions_total"
        eventually(lambda: value(scraped(live.http), actions, action="taken_back") == 1, seconds=20)
        found = scraped(live.http)
    assert value(found, "numeral_reconciler_rounds_total", outcome="ok") > 2
    assert time.time() - value(found, "numeral_reconciler_last_round_timestamp_seconds") < 5


def test_processes_count_together_and_what_one_counted_outlives_it(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    def ask(url: str) -> None:
        assert httpx.get(f"{url}/v1/presets").status_code == 200  # a connection each: any process may answer

    def counted(url: str) -> float:
        with httpx.Client(base_url=url, timeout=20) as http:
            return value(scraped(http), REQUESTS, method="GET", route="/v1/presets", status="200")

    with fleet(settings_for(tmp_path), 2) as (parent, url):
        eventually(lambda: answered(url), seconds=60)
        eventually(lambda: all(len(child.threads()) > 3 for child in parent.children()), seconds=60)
        for _ in range(30):
            ask(url)
        eventually(lambda: counted(url) == 30, seconds=20)
        time.sleep(2 * SHARE_SECONDS)  # what a process counts in its last half second is lost with it
        gone = set(parent.children())
        for child in gone:
            child.send_signal(signal.SIGKILL)
        eventually(lambda: len(set(parent.children()) - gone) == 2, seconds=30)
        eventually(lambda: answered(url), seconds=60)
        eventually(lambda: counted(url) == 30, seconds=20)
        ask(url)
        eventually(lambda: counted(url) == 31, seconds=20)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0


def test_openmetrics_where_it_is_asked_for(live: Live) -> None:
    answer = live.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "numeral_queue_depth" in {family.name for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]
