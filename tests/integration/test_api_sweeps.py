"""Sweeps over HTTP: accepted whole or not at all, looked at in one table and one picture, cancelled as one."""

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.client import Client
from service.running import broker
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, jobs
from service.store.attempts import Attempt, Point
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_api_bad_input import no_trace, refused

SHAPE = {
    *("id", "state", "counts", "size", "preset", "spec", "fields", "search", "metadata", "priority"),
    *("created_at", "metric", "warnings", "over_seeds", "members"),
}
MEMBER = {
    *("index", "job_id", "changes", "state", "rank", "metrics", "parameter_count", "step", "steps"),
    *("runtime_seconds", "model_id", "error"),
}
HELD_OUT = {"dataset": {"validation": 10_000}}
GRID = {
    "preset": "slp-200",
    "spec": HELD_OUT,
    "grid": {"optimizer.learning_rate": [0.001, 0.01], "seed": [0, 1, 2]},
}
RANDOM = {
    "spec": {"epochs": 3},
    "random": {
        "optimizer.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
        "network.hidden_widths": {"choices": [[64], [256, 256]]},
    },
    "count": 7,
    "seed": 5,
}


def made(live: Live, body: dict[str, Any] = GRID) -> dict[str, Any]:
    answer = live.http.post("/v1/sweeps", json=body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def figures(live: Live, job_id: str, metrics: dict[str, float], *, steps: int = 3) -> Attempt:
    """Take a member as a worker does, and let it say how good it is."""
    attempt = live.claim(job_id)
    points = [
        Point(name, step, step / 10, value * step / steps)
        for name, value in metrics.items()
        for step in range(1, steps + 1)
    ]
    told = [{"step": steps, "epoch": steps / 10, "metrics": metrics}]
    attempts.write_progress(
        live.db, attempt, progress={"step": steps, "steps": 200}, points=points, figures=told
    )
    return attempt


def test_a_grid_becomes_jobs(live_on_each: Live) -> None:
    http = live_on_each.http
    body = GRID | {"metadata": {"course": "ml-1"}, "priority": 2}
    answer = http.post("/v1/sweeps", json=body)
    sweep = answer.json()

    assert answer.status_code == 202, answer.text
    assert sweep.keys() == SHAPE
    assert answer.headers["Location"] == f"/v1/sweeps/{sweep['id']}"
    assert sweep["id"].startswith("sweep_")
    assert (sweep["size"], sweep["counts"], sweep["state"]) == (6, {"queued": 6}, "queued")
    assert sweep["fields"] == ["optimizer.learning_rate", "seed"]
    assert sweep["search"] == {"grid": GRID["grid"]}
    assert (sweep["metadata"], sweep["priority"], sweep["preset"]) == ({"course": "ml-1"}, 2, "slp-200")
    assert (sweep["metric"], sweep["warnings"]) == ("validation_accuracy", [])
    assert TrainingSpec.model_validate(sweep["spec"]).dataset.validation == 10_000
    assert [tuple(member["changes"].values()) for member in sweep["members"]] == [
        (rate, seed) for rate in (0.001, 0.01) for seed in (0, 1, 2)
    ]
    for member in sweep["members"]:
        assert member.keys() == MEMBER
        job = http.get(f"/v1/jobs/{member['job_id']}").json()
        spec = TrainingSpec.model_validate(job["spec"])
        assert (spec.seed, spec.optimizer.learning_rate, spec.steps) == (
            member["changes"]["seed"],
            member["changes"]["optimizer.learning_rate"],
            200,
        )
        assert (job["sweep_id"], job["state"], job["preset"]) == (sweep["id"], "queued", "slp-200")
        assert (job["metadata"], job["priority"]) == ({"course": "ml-1"}, 2)
    assert http.get(answer.headers["Location"]).json() == sweep


def test_draws_become_jobs(live: Live) -> None:
    sweep = made(live, RANDOM)
    assert sweep["size"] == len(sweep["members"]) == 7
    assert sweep["search"] == {name: RANDOM[name] for name in ("random", "count", "seed")}
    assert sweep["metric"] == "test_accuracy"
    assert "validation" in sweep["warnings"][0]
    again = made(live, RANDOM)
    assert [member["changes"] for member in again["members"]] == [
        member["changes"] for member in sweep["members"]
    ]


def test_the_jobs_of_a_sweep_are_listed_alone(live: Live) -> None:
    live.submit()
    sweep, _ = made(live), made(live)
    page = live.http.get("/v1/jobs", params={"sweep": sweep["id"], "limit": 4}).json()
    rest = live.http.get("/v1/jobs", params={"sweep": sweep["id"], "after": page["next"]}).json()
    found = [job["id"] for job in page["data"] + rest["data"]]
    assert found == [member["job_id"] for member in sweep["members"]][::-1]
    assert live.http.get("/v1/jobs", params={"sweep": "sweep_" + "0" * 32}).json()["data"] == []
    refused(live.http.get("/v1/jobs?sweep=x"), 422, "invalid_parameter", "query/sweep")
    assert jobs.get(live.db, live.submit()).sweep_id is None


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "invalid", "#/grid"),
    ({"grid": {}}, "invalid", "#/grid"),
    ({"grid": {"seed": []}}, "invalid", "#/grid/seed"),
    ({"grid": {"seed": 3}}, "invalid", "#/grid/seed"),
    ({"grid": {"seed": [1]}, "random": {"seed": {"choices": [1]}}, "count": 1}, "invalid", "#/grid"),
    ({"grid": {"seed": [1]}, "count": 3}, "invalid", "#/count"),
    ({"grid": {"seed": [1]}, "seed": 3}, "invalid", "#/seed"),
    ({"grid": {"seed": [1]}, "epochs": 3}, "invalid", "#/epochs"),
    ({"grid": {"seed": [1]}, "priority": 10}, "invalid", "#/priority"),
    ({"grid": {"seed": [1]}, "metadata": {"a": {}}}, "invalid", "#/metadata"),
    ({"grid": {"seed": [1]}, "preset": "none-such"}, "unknown_preset", "#/preset"),
    ({"grid": {"seed": [1]}, "spec": {"epochs": 0}}, "invalid_spec", "#/spec/epochs"),
    ({"grid": {"seed": [0, -1]}}, "invalid_spec", "#/grid/seed/1"),
    ({"grid": {"network.hidden_widths": [[4], [4, 0]]}}, "invalid_spec", "#/grid/network.hidden_widths/1/1"),
    ({"grid": {"network.hidden_widths": [[10**9]]}}, "parameter_budget", "#/grid/network.hidden_widths/0"),
    ({"grid": {"network.width": [4]}}, "unknown_field", "#/grid/network.width"),
    ({"grid": {"seed": [1, 1]}}, "invalid", "#/grid/seed/1"),
    ({"preset": "slp-200", "grid": {"epochs": [1, 2]}}, "invalid_spec", "#/preset"),
    ({"random": {"seed": {"choices": [1]}}}, "invalid", "#/count"),
    ({"random": {"seed": {"low": 1}}, "count": 2}, "invalid", "#/random/seed"),
    ({"random": {"seed": {"low": 2, "high": 1}}, "count": 2}, "invalid", "#/random/seed/high"),
    ({"random": {"seed": {"choices": [1]}}, "count": 2}, "too_few_choices", "#/count"),
    ({"random": {"sed": {"choices": [1]}}, "count": 1}, "unknown_field", "#/random/sed"),
    ({"random": {"seed": {"low": 0.5, "high": 1.5}}, "count": 1}, "invalid_spec", "#/random/seed"),
    ({"grid": {"seed": list(range(1001))}}, "too_many_members", "#/grid"),
    ({"random": {"seed": {"low": 1, "high": 2}}, "count": 10**9}, "too_many_members", "#/count"),
    ({"grid": {"seed": list(range(200)), "steps": list(range(1, 201))}}, "too_many_members", "#/grid"),
    (
        {"grid": {"optimizer.learning_rate": [0.1, 10**400]}},
        "invalid_spec",
        "#/grid/optimizer.learning_rate/1",
    ),
]


@pytest.mark.parametrize(("body", "code", "pointer"), MISTAKES)
def test_mistakes_are_pointed_at_and_leave_no_trace(
    shared: Live, body: dict[str, Any], code: str, pointer: str
) -> None:
    for path in ("/v1/sweeps", "/v1/sweeps?dry_run=true"):
        with no_trace(shared):
            problem = refused(shared.http.post(path, json=body), 422, code)
        assert pointer in [item["pointer"] for item in problem["errors"]], problem["errors"]


def test_a_number_that_overflows_is_refused(shared: Live) -> None:
    body = '{"random": {"optimizer.learning_rate": {"choices": [0.1, 1e999]}}, "count": 1}'
    headers = {"Content-Type": "application/json"}
    with no_trace(shared):
        answer = shared.http.post("/v1/sweeps", content=body, headers=headers)
        refused(answer, 422, "invalid", "#/random/optimizer.learning_rate/choices/1")


def test_a_mistake_names_its_member_and_what_there_is(shared: Live) -> None:
    body = {"grid": {"optimizer.learning_rate": [0.1, -1], "seed": [0, 1, 2]}}
    problem = refused(shared.http.post("/v1/sweeps", json=body), 422, "invalid_spec")
    (mistake,) = problem["errors"]
    assert mistake["detail"].startswith("member 3 and 2 more: optimizer.learning_rate=-1: ")
    problem = refused(
        shared.http.post("/v1/sweeps", json={"grid": {"optimizer.rate": [1]}}), 422, "unknown_field"
    )
    assert "there are adam_learning_rate, beta1" in problem["errors"][0]["detail"]


def test_a_queue_with_no_room_for_all_takes_none(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, max_queued_jobs=10)) as live:
        made(live)
        with no_trace(live):
            answer = live.http.post("/v1/sweeps", json=GRID)
            refused(answer, 503, "queue_full")
            assert answer.headers["Retry-After"]
            refused(
                live.http.post("/v1/sweeps", json={"grid": {"seed": list(range(11))}}),
                422,
                "too_many_members",
            )


def test_a_dry_run_says_what_it_would_come_to_and_leaves_no_trace(live: Live) -> None:
    with no_trace(live):
        answer = live.http.post(
            "/v1/sweeps?dry_run=true",
            json={"grid": {"network.hidden_widths": [[], [32]], "epochs": [1, 2]}},
            headers={"Idempotency-Key": "k"},
        )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["size"], body["parameter_count"], body["steps"]) == (4, 25_450, 3600)
    assert body["memory_bytes"] == max(member["memory_bytes"] for member in body["members"]) > 47_000_000
    assert body["estimated_seconds"] == pytest.approx(
        sum(one["estimated_seconds"] for one in body["members"])
    )
    assert (body["estimate_basis"], body["queue_position"]) == ("assumed", 0)
    assert [member["parameter_count"] for member in body["members"]] == [7850, 7850, 25_450, 25_450]
    assert [member["steps"] for member in body["members"]] == [600, 1200, 600, 1200]
    alone = live.http.post("/v1/jobs?dry_run=true", json={"epochs": 2}).json()
    assert {name: alone[name] for name in ("memory_bytes", "steps", "estimated_seconds")} == {
        name: body["members"][3][name] for name in ("memory_bytes", "steps", "estimated_seconds")
    }


def test_the_same_key_answers_the_same(live_on_each: Live) -> None:
    http, key = live_on_each.http, {"Idempotency-Key": "my-sweep"}
    first = http.post("/v1/sweeps", json=GRID, headers=key)
    live_on_each.claim(first.json()["members"][0]["job_id"])
    with no_trace(live_on_each):
        again = http.post("/v1/sweeps", json=dict(reversed(GRID.items())), headers=key)
        other = http.post("/v1/sweeps", json=RANDOM, headers=key)
        elsewhere = http.post("/v1/jobs", json={}, headers=key)
    assert (again.status_code, again.content) == (202, first.content)
    assert (again.headers["Location"], again.headers["Idempotent-Replayed"]) == (
        first.headers["Location"],
        "true",
    )
    assert "Idempotent-Replayed" not in first.headers
    for answer in (other, elsewhere):
        refused(answer, 422, "idempotency_key_reused")


def test_the_table_ranks_what_can_be_chosen(live: Live) -> None:
    sweep = made(live)
    ids = [member["job_id"] for member in sweep["members"]]
    for place, accuracy in ((0, 0.95), (1, 0.97), (2, 0.97), (3, 0.99)):
        attempt = figures(live, ids[place], {"validation_accuracy": accuracy, "test_loss": accuracy})
        if place == 3:
            attempts.fail(live.db, attempt, code="diverged", detail="x", runtime=1)
    found = live.http.get(f"/v1/sweeps/{sweep['id']}").json()
    assert (found["state"], found["counts"]) == ("running", {"queued": 2, "running": 3, "failed": 1})
    table = [(member["index"], member["rank"], member["state"]) for member in found["members"]]
    assert table == [
        (1, 1, "running"), (2, 1, "running"), (0, 3, "running"), (3, None, "failed"), (4, None, "queued"),
        (5, None, "queued"),
    ]  # fmt: skip
    assert found["members"][3]["error"]["code"] == "diverged"
    assert found["over_seeds"] == [
        {
            "changes": {"optimizer.learning_rate": 0.001},
            "count": 3,
            "mean": pytest.approx(0.9633333),
            "deviation": pytest.approx(0.0115470),
        }
    ]
    assert found["members"][0]["metrics"]["validation_accuracy"] == 0.97

    by_loss = live.http.get(f"/v1/sweeps/{sweep['id']}?sort=test_loss").json()
    assert [member["index"] for member in by_loss["members"]] == [0, 1, 2, 3, 4, 5]
    assert (by_loss["metric"], by_loss["members"][0]["rank"]) == ("test_loss", 1)
    assert "test set" in by_loss["warnings"][0]
    in_order = live.http.get(f"/v1/sweeps/{sweep['id']}?sort=index").json()["members"]
    assert [(member["index"], member["rank"]) for member in in_order] == [
        (0, 3), (1, 1), (2, 1), (3, None), (4, None), (5, None),
    ]  # fmt: skip
    answer = live.http.get(f"/v1/sweeps/{sweep['id']}?sort=speed")
    assert "test_accuracy" in refused(answer, 422, "invalid_parameter", "query/sort")["detail"]


def test_cancel_is_for_all_and_may_come_twice(live_on_each: Live) -> None:
    http = live_on_each.http
    sweep = made(live_on_each)
    running, failed = (member["job_id"] for member in sweep["members"][:2])
    attempt = live_on_each.claim(running)
    attempts.fail(live_on_each.db, live_on_each.claim(failed), code="x", detail="y", runtime=1)
    first = http.post(f"/v1/sweeps/{sweep['id']}/cancel")
    assert (first.status_code, first.json()["state"]) == (202, "cancelling")
    assert first.json()["counts"] == {"cancelling": 1, "cancelled": 4, "failed": 1}
    assert attempts.state(live_on_each.db, attempt) == "cancelling"
    again = http.post(f"/v1/sweeps/{sweep['id']}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    attempts.cancelled(live_on_each.db, attempt, runtime=1)
    assert http.get(f"/v1/sweeps/{sweep['id']}").json()["state"] == "cancelled"


def test_a_deleted_job_is_told_in_its_row(live: Live) -> None:
    sweep = made(live)
    gone = sweep["members"][1]["job_id"]
    live.http.post(f"/v1/sweeps/{sweep['id']}/cancel")
    assert live.http.delete(f"/v1/jobs/{gone}").status_code == 204
    found = live.http.get(f"/v1/sweeps/{sweep['id']}?sort=index").json()
    assert found["counts"] == {"cancelled": 5, "deleted": 1}
    assert (found["members"][1]["state"], found["members"][1]["job_id"]) == ("deleted", gone)


def test_sweeps_are_listed_newest_first(live: Live) -> None:
    ids = [made(live)["id"] for _ in range(3)]
    page = live.http.get("/v1/sweeps?limit=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:0:-1], True)
    assert page["data"][0].keys() == SHAPE - {"metric", "warnings", "over_seeds", "members"}
    rest = live.http.get("/v1/sweeps", params={"after": page["next"]}).json()
    assert [one["id"] for one in rest["data"]] == ids[:1]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/cancel"), ("GET", "/plots/metric.svg"), ("GET", "/plots/series.csv")],
)
def test_a_sweep_that_is_not_there(shared: Live, method: str, path: str) -> None:
    refused(shared.http.request(method, f"/v1/sweeps/sweep_x{path}"), 404, "sweep_not_found")


def test_every_member_is_rung_for(live: Live) -> None:
    made(live)
    connection = broker.client(live.settings)
    try:
        eventually(lambda: connection.llen("cpu\x06\x165") >= 6)
    finally:
        connection.close()


def csv_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def test_pictures_of_a_sweep(live: Live) -> None:
    sweep = made(live)
    plots = f"/v1/sweeps/{sweep['id']}/plots"
    refused(live.http.get(f"{plots}/metric.svg"), 404, "no_picture")
    refused(live.http.get(f"{plots}/series.svg"), 404, "no_picture")
    for member in sweep["members"][:5]:
        figures(live, member["job_id"], {"validation_accuracy": 0.9 + 0.01 * member["index"]})

    rows = csv_of(live.http.get(f"{plots}/metric.csv"))
    assert list(rows[0]) == [
        *("rank", "index", "job_id", "state", "optimizer.learning_rate", "seed", "validation_accuracy"),
    ]
    assert [row["index"] for row in rows] == ["4", "3", "2", "1", "0", "5"]
    assert (rows[0]["rank"], rows[0]["optimizer.learning_rate"], rows[-1]["validation_accuracy"]) == (
        "1",
        "0.01",
        "",
    )

    svg = live.http.get(f"{plots}/metric.svg?log=true")
    assert svg.status_code == 200
    assert "optimizer.learning_rate" in svg.text
    same = live.http.get(f"{plots}/metric.svg?log=true", headers={"If-None-Match": svg.headers["ETag"]})
    assert same.status_code == 304
    figures(live, sweep["members"][5]["job_id"], {"validation_accuracy": 0.99})
    assert live.http.get(f"{plots}/metric.svg?log=true").headers["ETag"] != svg.headers["ETag"]

    png = Image.open(io.BytesIO(live.http.get(f"{plots}/series.png").content))
    assert png.size[0] > 800
    series = csv_of(live.http.get(f"{plots}/series.csv"))
    assert len(series) == 18
    assert (series[0]["index"], series[0]["step"]) == ("5", "1")
    filled = live.http.get(f"{plots}/metric.csv?metric=test_loss")
    refused(filled, 404, "no_picture")


@pytest.mark.parametrize(
    ("query", "pointer", "said"),
    [
        ("metric.svg?metric=speed", "query/metric", "there are"),
        ("metric.svg?field=epochs", "query/field", "there are optimizer.learning_rate, seed"),
        ("metric.svg?field=seed&log=true", "query/log", "not over 0"),
        ("metric.svg?field=seed&field=optimizer.learning_rate&log=true", "query/log", "one field"),
        ("metric.svg?axis=epoch", "query/axis", "does not apply"),
        ("series.svg?field=seed", "query/field", "does not apply"),
        ("series.svg?colour=red", "query/colour", "no such parameter"),
        ("loss.svg", "path/name", ""),
        ("metric.gif", "path/format", ""),
    ],
)
def test_a_picture_that_cannot_be_drawn_so(live: Live, query: str, pointer: str, said: str) -> None:
    sweep = made(live)
    figures(live, sweep["members"][0]["job_id"], {"validation_accuracy": 0.9})
    answer = live.http.get(f"/v1/sweeps/{sweep['id']}/plots/{query}")
    assert said in refused(answer, 422, "invalid_parameter", pointer)["errors"][0]["detail"]


def test_the_client_creates_looks_and_cancels(live: Live) -> None:
    with Client(live.url) as client:
        dry = client.sweeps.dry_run(grid={"seed": [0, 1]})
        sweep = client.sweeps.create(
            {"epochs": 1}, grid={"seed": [0, 1]}, metadata={"a": 1}, priority=1, idempotency_key="k"
        )
        assert (dry.size, sweep.size, sweep.state, sweep.ended) == (2, 2, "queued", False)
        drawn = client.sweeps.create(
            preset="slp-200", random={"seed": {"low": 0, "high": 9, "integer": True}}, count=3, seed=1
        )
        assert [one.id for one in client.sweeps.list()] == [drawn.id, sweep.id]
        assert [job.sweep_id for job in client.jobs.list(sweep=sweep.id)] == [sweep.id] * 2
        figures(live, sweep.members[1].job_id, {"test_accuracy": 0.5})
        assert client.sweeps.get(sweep.id).members[0].index == 1
        assert client.sweeps.get(sweep.id, sort="index").members[0].index == 0
        assert client.sweeps.plot(sweep.id, format="csv").startswith(b"rank,")
        assert client.sweeps.cancel(drawn.id).state == "cancelled"
        assert client.sweeps.wait(drawn.id).counts == {"cancelled": 3}


def test_256_members_are_accepted_at_once(live_on_each: Live) -> None:
    body = {
        "preset": "slp-200",
        "grid": {"optimizer.learning_rate": [0.001 * n for n in range(1, 17)], "seed": list(range(16))},
    }
    began = time.monotonic()
    sweep = made(live_on_each, body)
    took = time.monotonic() - began
    assert len(sweep["members"]) == 256
    assert len(json.dumps(sweep)) < 256 * 500
    assert took < 5  # measured: 0.2 s; a machine under load has its moments
