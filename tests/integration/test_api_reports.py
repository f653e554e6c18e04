"""Reports, mistakes, curves and comparisons over HTTP."""

from typing import Any

import httpx
import numpy as np
import pytest
import torch
from sqlalchemy import update

from service.checkpoints import Snapshot, encode_weights
from service.data import simulated
from service.data.datasets import Dataset
from service.figures import comparison, report
from service.network import arrays_of, build
from service.serving import answers
from service.spec import TrainingSpec
from service.store import attempts, jobs, models, reports, tables
from service.store.attempts import Attempt, Curve, Point
from service.store.reports import Draft
from tests.integration.conftest import Live

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (300, 784), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 10, 300)
DATA = Dataset("mnist", IMAGES, LABELS, IMAGES[:0], LABELS[:0], IMAGES, LABELS, "d" * 64)
REGRESSION = TrainingSpec.model_validate({"dataset": {"name": "simulated"}})


def spec_of(seed: int = 0, **fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"network": {"hidden_widths": [8]}, "seed": seed, **fields})


def start(live: Live, spec: TrainingSpec, preset: str | None = None) -> Attempt:
    """A job that a worker holds."""
    answer, _ = jobs.submit(live.db, spec, answer=lambda job: {"id": job.id}, queue="cpu", preset=preset)
    return live.claim(str(answer["id"]))


def finish(live: Live, attempt: Attempt, spec: TrainingSpec, dataset: Dataset, preset: str | None) -> None:
    """End the job with an untrained network and its report."""
    arrays = arrays_of(build(spec, dataset.train_inputs))
    weights = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), spec, preprocessing="1")
    made = report.make(weights, dataset, device=torch.device("cpu"), preset=preset)
    told = None if made.answers is None else answers.encode(made.answers)
    header = live.checkpoint(attempt, weights)
    model = models.finish(
        live.db,
        attempt,
        header,
        preprocessing="1",
        dataset_sha256=dataset.sha256,
        provenance={},
        runtime=2.5,
        report=Draft(made.data, told),
    )
    assert model is not None


def finished(
    live: Live, spec: TrainingSpec | None = None, *, dataset: Dataset = DATA, preset: str | None = None
) -> str:
    """The id of a job that finished."""
    spec = spec or spec_of()
    attempt = start(live, spec, preset)
    progress = {"step": 1}
    points = [Point("test_accuracy", step, step / 10, step / 1000) for step in range(0, 500, 10)]
    attempts.write_progress(live.db, attempt, progress=progress, points=points, dataset_sha256=dataset.sha256)
    finish(live, attempt, spec, dataset, preset)
    return attempt.job_id


def told(live: Live, job_id: str) -> answers.Answers:
    found = reports.find(live.db, job_id)
    assert found is not None
    return answers.decode(reports.answers(live.db, found))


def problem(answer: httpx.Response) -> tuple[int, str, list[str]]:
    body = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, body["code"], [item["pointer"] for item in body["errors"]]


def test_a_report(live_on_each: Live) -> None:
    job_id = finished(live_on_each, preset="cmgsnet")
    body = live_on_each.http.get(f"/v1/jobs/{job_id}/report").json()
    stored = reports.find(live_on_each.db, job_id)
    assert stored is not None
    published = body.pop("published")
    assert (body.pop("job_id"), body.pop("created_at")[-1]) == (job_id, "Z")
    assert body == {name: value for name, value in stored.data.items() if name != "published"}
    ours = {one["name"]: one["ours"] for one in published}
    assert ours["test_accuracy"] == body["parts"]["test"]["accuracy"]
    assert ours["best_test_accuracy"] == 0.49, "the best of the series"


def test_the_report_of_a_regression(live: Live) -> None:
    job_id = finished_regression(live)
    body = live.http.get(f"/v1/jobs/{job_id}/report").json()
    assert (body["task"], body["parts"]["train"]["examples"]) == ("regression", 1000)
    assert body["curve_rmse"] == body["parts"]["test"]["rmse"]
    assert body["noise"]["variance"] == 0.25


def finished_regression(live: Live) -> str:
    x, y = (array.astype(np.float32) for array in simulated.simulate(1000, 0.5))
    grid = simulated.grid().astype(np.float32)
    truth = simulated.true_function(simulated.grid()).astype(np.float32)
    dataset = Dataset("simulated", x, y, x[:0], y[:0], grid, truth, "e" * 64)
    attempt = start(live, REGRESSION)
    curves = [Curve(step, step / 10, np.full(315, step, np.float32)) for step in range(0, 1000, 100)]
    attempts.write_progress(live.db, attempt, progress={"step": 1}, curves=curves)
    finish(live, attempt, REGRESSION, dataset, None)
    return attempt.job_id


def test_a_job_without_a_report_says_when_one_comes(live: Live) -> None:
    queued = live.submit()
    running, failed = live.claim(live.submit()), live.claim(live.submit())
    attempts.fail(live.db, failed, code="diverged", detail="", runtime=1)
    cancelled = live.submit()
    jobs.cancel(live.db, cancelled)
    model = live.model(3)  # as an older version finished it
    for job_id, said in (
        (queued, "is queued: its report comes"),
        (running.job_id, "is running: its report comes"),
        (failed.job_id, "failed: only a job that succeeds"),
        (cancelled, "was cancelled: only"),
        (model.job_id, "older than reports"),
    ):
        for path in ("report", "misclassified"):
            answer = live.http.get(f"/v1/jobs/{job_id}/{path}")
            assert problem(answer) == (404, "no_report", [])
            assert said in answer.json()["detail"]
    for path in ("report", "misclassified", "curves"):
        assert problem(live.http.get(f"/v1/jobs/job_none/{path}"))[:2] == (404, "job_not_found")


def test_mistakes_page_by_page(live: Live) -> None:
    job_id = finished(live)
    found = told(live, job_id)
    wrong = found.misclassified()
    url, seen, after = f"/v1/jobs/{job_id}/misclassified", [], None
    while True:
        parameters = {"limit": 70} | ({} if after is None else {"after": after})
        page = live.http.get(url, params=parameters).json()
        seen += page["data"]
        assert (page["total"], page["kept"]) == (len(wrong), len(wrong))
        after = page["next"]
        if not page["has_more"]:
            break
    assert after is None
    assert [one["index"] for one in seen] == wrong.tolist()
    losses = [one["loss"] for one in seen]
    assert losses == sorted(losses, reverse=True)
    for one in seen[:5]:
        assert one["true"] == LABELS[one["index"]]
        assert one["predicted"] == int(np.argmax(one["probabilities"])) != one["true"]
        assert one["confidence"] == pytest.approx(max(one["probabilities"]))
        assert one["loss"] == pytest.approx(-np.log(one["probabilities"][one["true"]]), rel=1e-5)
        assert one["pixels"] is None


def test_mistakes_of_a_class_with_their_images(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PIXELS_KEPT", 40)
    job_id = finished(live)
    found = told(live, job_id)
    url = f"/v1/jobs/{job_id}/misclassified"
    true, predicted = int(found.targets[found.kept[3]]), int(found.predicted[found.kept[3]])
    parameters = {"true": true, "predicted": predicted, "pixels": True, "limit": 100}
    page = live.http.get(url, params=parameters).json()
    fits = ~found.correct & (found.targets == true) & (found.predicted == predicted)
    assert sorted(one["index"] for one in page["data"]) == np.flatnonzero(fits).tolist()
    assert page["total"] == fits.sum()
    with_image = [one for one in page["data"] if one["pixels"] is not None]
    assert len(with_image) == page["kept"] > 0
    for one in with_image:
        assert one["pixels"] == IMAGES[one["index"]].tolist()
    assert live.http.get(url).json()["kept"] == 40


def test_what_cannot_be_asked_of_mistakes(live: Live) -> None:
    job_id = finished(live)
    url = f"/v1/jobs/{job_id}/misclassified"
    for parameters, pointer in (
        ({"true": 10}, "query/true"),
        ({"predicted": -1}, "query/predicted"),
        ({"after": "x"}, "query/after"),
        ({"after": str(int(np.flatnonzero(told(live, job_id).correct)[0]))}, "query/after"),
        ({"limit": 0}, "query/limit"),
    ):
        assert problem(live.http.get(url, params=parameters)) == (422, "invalid_parameter", [pointer])
    regression = live.http.get(f"/v1/jobs/{finished_regression(live)}/misclassified")
    assert problem(regression)[:2] == (409, "not_a_classification")


@pytest.mark.parametrize("harm", ["DELETE FROM chunk", "UPDATE chunk SET data = zeroblob(9)"])
def test_damaged_answers_are_a_conflict(live: Live, harm: str) -> None:
    a, b = finished(live), finished(live)
    found = reports.find(live.db, a)
    assert found is not None
    with live.db.write() as connection:
        connection.exec_driver_sql(f"{harm} WHERE blob_id = '{found.answers_blob}'")
    assert problem(live.http.get(f"/v1/jobs/{a}/misclassified"))[:2] == (409, "report_damaged")
    assert live.http.get(f"/v1/jobs/{a}/report").status_code == 200
    compared = live.http.get("/v1/compare", params={"jobs": f"{a},{b}"}).json()
    assert compared["tests"] == []
    assert "train the job again" in compared["notes"][0]


def test_curves(live_on_each: Live) -> None:
    job_id = finished_regression(live_on_each)
    body = live_on_each.http.get(f"/v1/jobs/{job_id}/curves").json()
    assert (len(body["x"]), body["x"][-1]) == (315, 3.14)
    np.testing.assert_array_equal(body["truth"], simulated.true_function(np.array(body["x"])))
    assert [(one["step"], one["epoch"]) for one in body["curves"]] == [
        (step, step / 10) for step in range(0, 1000, 100)
    ]
    assert body["curves"][3]["y"] == [300.0] * 315
    fewer = live_on_each.http.get(f"/v1/jobs/{job_id}/curves", params={"max_curves": 2}).json()
    assert [one["step"] for one in fewer["curves"]] == [0, 900]
    queued = live_on_each.submit()
    assert problem(live_on_each.http.get(f"/v1/jobs/{queued}/curves"))[:2] == (409, "not_a_regression")


def test_jobs_side_by_side(live_on_each: Live) -> None:
    a, b = finished(live_on_each), finished(live_on_each, spec_of(1, optimizer={"name": "sgd"}))
    queued = live_on_each.submit()
    parameters: dict[str, Any] = {"jobs": f"{a},{b},{queued}", "max_points": 10}
    body = live_on_each.http.get("/v1/compare", params=parameters).json()
    assert [job["id"] for job in body["jobs"]] == [a, b, queued]
    assert [job["runtime_seconds"] for job in body["jobs"]] == [2.5, 2.5, 0.0]
    points = body["series"]["test_accuracy"]
    assert points.keys() == {a, b}
    assert len(points[a]) <= 10
    assert (points[a][0], points[a][-1]) == ([0, 0.0, 0.0], [490, 49.0, 0.49])
    values = {row["pointer"]: row["values"] for row in body["differences"]}
    assert values["#/seed"] == {a: 0, b: 1, queued: 0}
    assert values["#/optimizer/momentum"] == {a: None, b: 0.0, queued: None}
    assert values["#/network/hidden_widths"] == {a: [8], b: [8], queued: []}
    (test,) = body["tests"]
    expected = comparison.mcnemar(told(live_on_each, a).correct, told(live_on_each, b).correct)
    assert test == {"a": a, "b": b, **vars(expected), "interval": list(expected.interval)}
    assert len(body["notes"]) == 2
    for note, first in zip(body["notes"], (a, b), strict=True):
        assert note.startswith(f"{first} and {queued} are not tested")
        assert "the job is queued" in note


def test_pairs_that_cannot_be_tested(live: Live) -> None:
    other_data = Dataset("kmnist", IMAGES, LABELS, IMAGES[:0], LABELS[:0], IMAGES, LABELS, "f" * 64)
    a, b = finished(live), finished(live, spec_of(dataset={"name": "kmnist"}), dataset=other_data)
    c = finished_regression(live)
    body = live.http.get("/v1/compare", params={"jobs": f"{a},{b},{c}"}).json()
    assert body["tests"] == []
    assert "different data" in body["notes"][0]
    assert all("is a regression" in note for note in body["notes"][1:])
    only = live.http.get("/v1/compare", params={"jobs": f"{a},{b}", "name": "train_loss"}).json()
    assert only["series"] == {}


def test_jobs_of_versions_with_other_specs(live: Live) -> None:
    a, b = finished(live), finished(live, spec_of(1))
    regression = finished_regression(live)
    older = {name: value for name, value in jobs.get(live.db, a).spec.items() if name != "regularization"}
    set_spec(live, a, older)
    set_spec(live, b, jobs.get(live.db, b).spec | {"steps": -1})
    set_spec(live, regression, jobs.get(live.db, regression).spec | {"steps": -1})
    body = live.http.get("/v1/compare", params={"jobs": f"{a},{b}"}).json()
    assert {row["pointer"] for row in body["differences"]} == {"#/seed", "#/steps"}
    assert len(body["tests"]) == 1
    for path in ("report", "misclassified"):
        assert live.http.get(f"/v1/jobs/{b}/{path}").status_code == 200
    assert live.http.get(f"/v1/jobs/{regression}/curves").status_code == 200
    assert problem(live.http.get(f"/v1/jobs/{regression}/misclassified"))[:2] == (409, "not_a_classification")


def test_the_task_of_a_spec_that_names_no_dataset_is_its_reports(live: Live) -> None:
    job_id, queued = finished(live), live.submit()
    for one in (job_id, queued):
        set_spec(live, one, {"data": "mnist"})
    assert live.http.get(f"/v1/jobs/{job_id}/misclassified").status_code == 200
    assert problem(live.http.get(f"/v1/jobs/{queued}/misclassified"))[:2] == (409, "spec_not_accepted")
    body = live.http.get("/v1/compare", params={"jobs": f"{job_id},{queued}"}).json()
    assert "other rules" in body["notes"][0]


def set_spec(live: Live, job_id: str, spec: dict[str, Any]) -> None:
    with live.db.write() as connection:
        connection.execute(update(tables.job).where(tables.job.c.id == job_id).values(spec=spec))


def test_what_cannot_be_compared(live: Live) -> None:
    ids = [live.submit() for _ in range(11)]
    for given, said in (
        ("", "empty"),
        (f"{ids[0]},", "empty"),
        (ids[0], "that is 1"),
        (",".join(ids), "that is 11"),
        (f"{ids[0]},{ids[1]},{ids[0]}", "more than once"),
    ):
        answer = live.http.get("/v1/compare", params={"jobs": given})
        assert problem(answer) == (422, "invalid_parameter", ["query/jobs"])
        assert said in answer.json()["detail"]
    unknown = live.http.get("/v1/compare", params={"jobs": f"{ids[0]},job_none"})
    assert problem(unknown) == (404, "job_not_found", ["query/jobs"])
    assert problem(live.http.get("/v1/compare")) == (422, "invalid_parameter", ["query/jobs"])
    assert live.http.get("/v1/compare", params={"jobs": ",".join(ids[:10])}).status_code == 200
