"""A teacher over HTTP: named in any way that a model is named, kept by its id."""

from typing import Any

import pytest

from service import versions
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, jobs, models
from tests.integration.conftest import LINEAR, Live, weights_for

BODY: dict[str, Any] = {"network": {"hidden_widths": []}, "distillation": {}}
TEACHER = "#/distillation/teacher"


def post(live: Live, body: dict[str, Any], query: str = "") -> dict[str, Any]:
    answer = live.http.post(f"/v1/jobs{query}", json=body)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def taught_by(reference: str) -> dict[str, Any]:
    return BODY | {"distillation": {"teacher": reference}}


def refusal(live: Live, path: str, body: dict[str, Any]) -> tuple[str, str, str]:
    """Code, pointer and sentence; nothing is stored."""
    before = live.trace()
    answer = live.http.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert live.trace() == before
    (error,) = answer.json()["errors"]
    return answer.json()["code"], error["pointer"], error["detail"]


def regression(live: Live) -> str:
    """The id of a model that is one."""
    spec = TrainingSpec.model_validate({"dataset": {"name": "simulated"}})
    answer, _ = jobs.submit(live.db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
    attempt = live.claim(str(answer["id"]))
    header = checkpoints.save(
        live.db,
        attempt,
        step=1,
        epoch=1.0,
        reason="final",
        metrics={},
        spec=spec.model_dump(mode="json"),
        weights=b"",
        state=None,
    )
    model = models.finish(
        live.db, attempt, header, preprocessing="1", dataset_sha256="", provenance={}, runtime=1
    )
    assert model is not None
    return model.id


def test_every_name_is_kept_as_the_id_that_it_stands_for(live_on_each: Live) -> None:
    live = live_on_each
    first = live.model(1)
    live.http.put("/v1/aliases/champion", json={"model": first.id})
    second = live.model(2)
    for reference, wanted in ((first.id, first), ("champion", first), ("latest", second)):
        job = post(live, taught_by(reference))
        assert job["spec"]["distillation"]["teacher"] == wanted.id
        stored = jobs.get(live.db, job["id"])
        assert stored.spec["distillation"]["teacher"] == wanted.id
        assert stored.spec_sha256 == TrainingSpec.model_validate(stored.spec).sha256
    assert post(live, BODY)["spec"]["distillation"]["teacher"] == second.id
    third = live.model(3)
    dry = post(live, {"preset": "distilled"}, "?dry_run=true")
    assert (dry["spec"]["distillation"]["teacher"], dry["parameter_count"]) == (third.id, 1_276_810)


def test_a_teacher_that_there_is_not_is_told_with_its_field(live: Live) -> None:
    code, pointer, said = refusal(live, "/v1/jobs", BODY)
    assert (code, pointer) == ("unknown_teacher", TEACHER)
    assert "train one first" in said
    assert refusal(live, "/v1/jobs", {"preset": "distilled"})[1] == "#/spec/distillation/teacher"
    live.model(1)
    for reference in ("nobody", "model_" + "0" * 32):
        code, pointer, said = refusal(live, "/v1/jobs", {"spec": taught_by(reference)})
        assert (code, pointer) == ("unknown_teacher", f"#/spec{TEACHER[1:]}")
        assert reference in said
        assert "/v1/models" in said


def test_a_regression_teaches_no_digits(live: Live) -> None:
    model_id = regression(live)
    code, pointer, said = refusal(live, "/v1/jobs", taught_by(model_id))
    assert (code, pointer) == ("unfit_teacher", TEACHER)
    assert "regression of 1 outputs" in said


def test_what_is_taught_by_the_same_model_is_done_before(live: Live) -> None:
    teacher = live.model(1)
    data = versions.data_version(LINEAR.dataset, cache_dir=live.settings.cache_dir, data_dir=None)
    job_id = str(post(live, BODY)["id"])
    job = attempts.claim(
        live.db, job_id, worker="w", device="d", lease_seconds=600, code_version=versions.code_version()
    )
    assert job is not None
    attempt = attempts.Attempt(job_id, job.attempt)
    assert data is not None
    attempts.write_progress(live.db, attempt, progress={"step": 1}, dataset_sha256=data)
    models.finish(
        live.db,
        attempt,
        live.checkpoint(attempt, weights_for(2)),
        preprocessing="1",
        dataset_sha256=data,
        provenance={},
        runtime=1,
    )
    assert post(live, taught_by(teacher.id), "?reuse=true")["id"] == job_id
    assert post(live, BODY, "?reuse=true")["id"] != job_id, "latest is another teacher now"


def test_a_key_answers_the_same_though_latest_has_moved(live: Live) -> None:
    live.model(1)
    first, again = (
        live.http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "one"}).json()
        for _ in (live.model(2), live.model(3))
    )
    assert first == again


def test_a_sweep_names_its_teachers_by_id(live: Live) -> None:
    first, second = live.model(1), live.model(2)
    live.http.put("/v1/aliases/champion", json={"model": first.id})
    body: dict[str, Any] = {
        "spec": BODY,
        "grid": {"distillation.teacher": ["champion", second.id], "distillation.share": [0.5, 1.0]},
    }
    sweep = live.http.post("/v1/sweeps", json=body).json()
    found = [jobs.get(live.db, member["job_id"]).spec["distillation"] for member in sweep["members"]]
    assert [(one["teacher"], one["share"]) for one in found] == [
        (model.id, share) for model in (first, second) for share in (0.5, 1.0)
    ]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"grid": {"distillation.teacher": ["latest", "nobody"]}}, "#/grid/distillation.teacher/1"),
        (
            {"grid": {"seed": [0, 1], "distillation": [None, {"teacher": "nobody"}]}},
            "#/grid/distillation/1",
        ),
        (
            {"random": {"distillation.teacher": {"choices": ["nobody"]}}, "count": 1},
            "#/random/distillation.teacher",
        ),
        ({"spec": taught_by("nobody"), "grid": {"seed": [0, 1]}}, "#/spec/distillation/teacher"),
    ],
)
def test_a_sweeps_mistake_points_at_the_value(live: Live, asked: dict[str, Any], pointer: str) -> None:
    live.model(1)
    code, found, _ = refusal(live, "/v1/sweeps", {"spec": {}} | asked)
    assert (code, found) == ("unknown_teacher", pointer)
