"""Jobs over HTTP: every way to submit one, and all that may be asked of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, jobs
from tests.integration.conftest import Live, serving

SHAPE = {
    *("id", "state", "preset", "spec", "parameter_count", "device", "attempt", "progress", "metrics"),
    *(
        "model_id",
        "weights_sha256",
        "dataset_sha256",
        "sweep_id",
        "code_version",
        "error",
        "metadata",
        "priority",
    ),
    *("queue", "queue_position", "created_at", "started_at", "finished_at"),
}


def test_a_preset_a_spec_and_a_preset_with_changes(live_on_each: Live) -> None:
    http = live_on_each.http
    preset = http.post("/v1/jobs", json={"preset": "slp-200"})
    bare = http.post("/v1/jobs", json={"network": {"hidden_widths": [7]}, "epochs": 2})
    laid_over = http.post(
        "/v1/jobs",
        json={
            "preset": "slp-200",
            "spec": {"seed": 3, "optimizer": {"name": "sgd"}},
            "metadata": {"course": "ml-1", "note": "naïve 七", "n": 1.5, "ok": True, "none": None},
            "priority": 0,
        },
    )

    for answer in (preset, bare, laid_over):
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert job.keys() == SHAPE
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        assert (job["state"], job["attempt"], job["device"]) == ("queued", 0, None)
        assert job["created_at"].endswith("Z")
        shown = http.get(answer.headers["Location"]).json()
        assert shown.pop("queue_position") is not None
        assert shown == {key: value for key, value in job.items() if key != "queue_position"}
    assert preset.json()["parameter_count"] == 25_450
    assert bare.json()["preset"] is None
    assert bare.json()["spec"]["network"]["hidden_widths"] == [7]
    job = laid_over.json()
    assert (job["spec"]["seed"], job["spec"]["steps"], job["spec"]["optimizer"]["momentum"]) == (3, 200, 0.0)
    assert (job["preset"], job["priority"]) == ("slp-200", 0)
    assert job["metadata"] == {"course": "ml-1", "note": "naïve 七", "n": 1.5, "ok": True, "none": None}
    assert http.get(f"/v1/jobs/{job['id']}").json()["queue_position"] == 0
    assert http.get(f"/v1/jobs/{bare.json()['id']}").json()["queue_position"] == 2


def test_an_empty_object_is_the_default_spec(live: Live) -> None:
    assert TrainingSpec.model_validate(live.http.post("/v1/jobs", json={}).json()["spec"]) == TrainingSpec()


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"network": {"width": 3}}, "invalid_spec", "#/network/width"),
        ({"spec": {"network": {"width": 3}}}, "invalid_spec", "#/spec/network/width"),
        ({"preset": "slp-200", "spec": {"epochs": 3}}, "invalid_spec", "#/spec/steps"),
        ({"preset": "slp-200", "seed": 3}, "invalid", "#/seed"),
        ({"preset": "none-such"}, "unknown_preset", "#/preset"),
        ({"preset": 3}, "invalid", "#/preset"),
        ({"spec": []}, "invalid", "#/spec"),
        ({"priority": 10}, "invalid", "#/priority"),
        ({"priority": True}, "invalid", "#/priority"),
        ({"metadata": {"a": {"b": 1}}}, "invalid", "#/metadata"),
        ({"metadata": {str(n): n for n in range(51)}}, "invalid", "#/metadata"),
        ({"metadata": {"a": "x" * 20_000}}, "invalid", "#/metadata"),
        ({"metadata": {"a" * 65: 1}}, "invalid", "#/metadata"),
        ({"steps": 10**400}, "invalid_spec", "#/steps"),
    ],
)
def test_mistakes_are_pointed_at_in_the_body_that_was_sent(
    shared: Live, body: dict[str, Any], code: str, pointer: str
) -> None:
    before = shared.trace()
    answer = shared.http.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert pointer in [item["pointer"] for item in answer.json()["errors"]]
    assert shared.trace() == before


def test_a_dry_run_says_what_it_would_come_to_and_leaves_no_trace(live: Live) -> None:
    live.submit(priority=0)
    before = live.trace()

    answer = live.http.post(
        "/v1/jobs?dry_run=true", json={"preset": "slp-200"}, headers={"Idempotency-Key": "k"}
    )

    assert answer.status_code == 200
    body = answer.json()
    assert (body["parameter_count"], body["steps"], body["epochs"]) == (25_450, 200, 200.0)
    assert (body["queue"], body["queue_position"], body["estimate_basis"]) == ("cpu", 1, "assumed")
    assert body["memory_bytes"] > 47_000_000
    assert body["estimated_seconds"] > 0
    assert body["spec"]["batch_size"] == "full"
    assert TrainingSpec.model_validate(body["spec"]).plan.steps == 200
    assert live.trace() == before
    assert live.http.post("/v1/jobs?dry_run=true", json={"epochs": 0}).status_code == 422


def test_the_steps_of_a_budget_are_unknown_until_a_worker_has_fixed_them(live: Live) -> None:
    body = {"network": {"hidden_widths": []}, "budget_seconds": 60}
    dry = live.http.post("/v1/jobs?dry_run=true", json=body).json()
    assert (dry["steps"], dry["epochs"], dry["estimated_seconds"]) == (None, None, 60)
    assert dry["estimate_basis"] == "budget"
    job = live.http.post("/v1/jobs", json=body).json()
    assert (job["progress"]["steps"], job["progress"]["epochs"]) == (None, None)
    assert job["spec"]["budget_seconds"] == 60


def test_an_estimate_follows_from_jobs_that_ran(live: Live) -> None:
    job_id = live.submit()
    attempt = live.claim(job_id)
    attempts.write_progress(live.db, attempt, progress={"images_per_second": 1000.0})
    with live.db.write() as connection:
        connection.exec_driver_sql("UPDATE job SET state = 'succeeded'")
    body = live.http.post(
        "/v1/jobs?dry_run=true", json={"network": {"hidden_widths": []}, "epochs": 2}
    ).json()
    assert body["estimate_basis"] == "measured"
    assert body["estimated_seconds"] == pytest.approx(120)  # 2 x 60,000 images


def test_the_same_key_answers_the_same(live_on_each: Live) -> None:
    http = live_on_each.http
    key = {"Idempotency-Key": "2c5e/\x7e"}
    first = http.post("/v1/jobs", json={"preset": "slp-200", "priority": 1}, headers=key)
    live_on_each.claim(first.json()["id"])
    before = live_on_each.trace()

    again = http.post("/v1/jobs", json={"priority": 1, "preset": "slp-200"}, headers=key)
    other = http.post("/v1/jobs", json={"preset": "slp-200", "priority": 2}, headers=key)

    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert live_on_each.trace() == before


def test_the_same_key_at_the_same_time_makes_one_job(live_on_each: Live) -> None:
    def post(_: int) -> httpx.Response:
        return live_on_each.http.post("/v1/jobs", json={"seed": 1}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert live_on_each.trace()[0] == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü"])
def test_a_key_that_is_no_key(shared: Live, key: str) -> None:
    before = shared.trace()
    answer = shared.http.post("/v1/jobs", json={}, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert shared.trace() == before


def test_pages_and_filters(live_on_each: Live) -> None:
    http = live_on_each.http
    ids = [live_on_each.submit(preset="slp-200" if n % 2 else None) for n in range(5)]
    jobs.cancel(live_on_each.db, ids[0])
    live_on_each.claim(ids[1])

    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = http.get("/v1/jobs", params=params).json()
        seen += [job["id"] for job in page["data"]]
        assert len(page["data"]) <= 2
        if not page["has_more"]:
            break
        params["after"] = page["next"]

    def found(**params: Any) -> list[str]:
        return [job["id"] for job in http.get("/v1/jobs", params=params).json()["data"]]

    assert seen == ids[::-1]
    assert page["next"] is None
    assert found(state="cancelled") == [ids[0]]
    assert found(state=["cancelled", "running"]) == [ids[1], ids[0]]
    assert found(preset="slp-200") == [ids[3], ids[1]]
    assert found(preset="slp-200", state="queued") == [ids[3]]
    assert found(preset="none-such") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x", "state=x", "stat=queued"])
def test_a_parameter_that_is_wrong_is_named(shared: Live, query: str) -> None:
    answer = shared.http.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert answer.json()["errors"][0]["pointer"].startswith("query/" + query.partition("=")[0])


def test_a_mistyped_dry_run_submits_nothing(shared: Live) -> None:
    before = shared.trace()
    assert shared.http.post("/v1/jobs?dryrun=true", json={"preset": "slp-200"}).status_code == 422
    assert shared.trace() == before


def test_metadata_and_priority_change(live: Live) -> None:
    job_id = live.submit(metadata={"a": 1}, priority=5)
    path = f"/v1/jobs/{job_id}"

    assert live.http.patch(path, json={}).json()["metadata"] == {"a": 1}
    changed = live.http.patch(path, json={"metadata": {"b": "2"}, "priority": 0})
    assert changed.status_code == 200
    assert (changed.json()["metadata"], changed.json()["priority"]) == ({"b": "2"}, 0)
    jobs.cancel(live.db, job_id)
    assert live.http.patch(path, json={"metadata": {}}).json()["metadata"] == {}
    refused = live.http.patch(path, json={"priority": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "job_ended")
    unknown = live.http.patch(path, json={"state": "queued"})
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "#/state")


def test_a_deleted_job_is_gone(live: Live) -> None:
    job_id = live.submit()
    path = f"/v1/jobs/{job_id}"
    active = live.http.delete(path)
    assert (active.status_code, active.json()["code"]) == (409, "job_active")
    live.http.post(f"{path}/cancel")
    gone = live.http.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (live.http.get(path), live.http.delete(path), live.http.get(f"{path}/events")):
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert live.http.get("/v1/jobs").json()["data"] == []


TABLE = {  # state -> verb -> status and the state after
    "queued": {"cancel": (202, "cancelled"), "pause": (202, "paused"), "resume": (200, "queued")},
    "running": {"cancel": (202, "cancelling"), "pause": (202, "pausing"), "resume": (200, "running")},
    "cancelling": {"cancel": (200, "cancelling"), "pause": (409, ""), "resume": (409, "")},
    "pausing": {"cancel": (202, "cancelling"), "pause": (200, "pausing"), "resume": (202, "running")},
    "paused": {"cancel": (202, "cancelled"), "pause": (200, "paused"), "resume": (202, "queued")},
    "cancelled": {"cancel": (200, "cancelled"), "pause": (409, ""), "resume": (409, "")},
    "failed": {"cancel": (409, ""), "pause": (409, ""), "resume": (409, "")},
}


def bring_to(live: Live, state: str) -> str:
    job_id = live.submit()
    if state in ("queued", "cancelled"):
        if state == "cancelled":
            jobs.cancel(live.db, job_id)
        return job_id
    attempt = live.claim(job_id)
    steps: dict[str, Callable[[], object]] = {
        "running": lambda: None,
        "cancelling": lambda: jobs.cancel(live.db, job_id),
        "pausing": lambda: jobs.pause(live.db, job_id),
        "paused": lambda: (jobs.pause(live.db, job_id), attempts.paused(live.db, attempt, runtime=1)),
        "failed": lambda: attempts.fail(live.db, attempt, code="diverged", detail="y", runtime=1),
    }
    steps[state]()
    return job_id


def test_cancel_pause_and_resume_from_every_state(live: Live) -> None:
    for state, verbs in TABLE.items():
        for verb, (status, after) in verbs.items():
            job_id = bring_to(live, state)
            answer = live.http.post(f"/v1/jobs/{job_id}/{verb}")
            assert answer.status_code == status, (state, verb, answer.text)
            if status == 409:
                assert answer.json()["code"] == "illegal_transition"
                assert jobs.get(live.db, job_id).state == state
            else:
                assert answer.json()["state"] == after, (state, verb)


def test_what_a_worker_wrote_is_shown(live: Live) -> None:
    job_id = live.submit()
    attempt = live.claim(job_id)
    progress = {
        "step": 5,
        "steps": 10,
        "epoch": 0.5,
        "epochs": 1.0,
        "images_per_second": 9.0,
        "eta_seconds": 1.0,
        "precision": "bfloat16",
    }
    attempts.write_progress(
        live.db,
        attempt,
        progress={**progress, "loss": 0.1},
        points=[attempts.Point("test_accuracy", 5, 0.5, 0.9)],
        figures=[{"step": 5, "epoch": 0.5, "metrics": {"test_accuracy": 0.9}}],
    )
    job = live.http.get(f"/v1/jobs/{job_id}").json()
    assert job["progress"] == {**progress, "loss": 0.1}
    assert job["metrics"] == {"test_accuracy": 0.9}
    assert (job["state"], job["device"], job["attempt"]) == ("running", "CPU (test)", 1)
    assert job["started_at"].endswith("Z")
    attempts.fail(live.db, attempt, code="diverged", detail="the loss is not finite", runtime=1)
    job = live.http.get(f"/v1/jobs/{job_id}").json()
    assert job["error"] == {"code": "diverged", "detail": "the loss is not finite"}
    assert job["finished_at"].endswith("Z")


def test_too_many_waiting_is_a_503_that_says_when_to_come_again(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, max_queued_jobs=1)) as live:
        assert live.http.post("/v1/jobs", json={}).status_code == 202
        refused = live.http.post("/v1/jobs", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert int(refused.headers["Retry-After"]) > 0
        assert live.trace()[0] == 1
