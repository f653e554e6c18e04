"""`reuse=true` over HTTP: a job that has done the same is the answer."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from service import versions
from service.spec import TrainingSpec
from service.store import attempts, jobs, models, tables
from service.store.attempts import Attempt
from tests.integration.conftest import LINEAR, Live, weights_for

BODY: dict[str, Any] = {"network": {"hidden_widths": []}}  # LINEAR, in fewer words


def trained(live: Live, *, code: str | None = None, data: str | None = None) -> str:
    """The id of a job that has trained LINEAR, by the engine and on the data that there are here."""
    found = versions.data_version(LINEAR.dataset, cache_dir=Path("none"), data_dir=None)
    assert found is not None
    job_id = live.submit(metadata={"by": "the first"})
    job = attempts.claim(
        live.db,
        job_id,
        worker="w",
        device="CPU (test)",
        lease_seconds=600,
        code_version=code or versions.code_version(),
    )
    assert job is not None
    attempt = Attempt(job_id, job.attempt)
    attempts.write_progress(live.db, attempt, progress={"step": 1}, dataset_sha256=data or found)
    model = models.finish(
        live.db,
        attempt,
        live.checkpoint(attempt, weights_for(7)),
        preprocessing="1",
        dataset_sha256=data or found,
        provenance={},
        runtime=1,
    )
    assert model is not None
    return job_id


def ask(live: Live, body: Any = BODY, **headers: str) -> httpx.Response:
    return live.http.post("/v1/jobs?reuse=true", json=body, headers=headers)


def test_what_is_done_is_answered_and_nothing_is_made(live_on_each: Live) -> None:
    live = live_on_each
    trained(live)
    job_id = trained(live)
    before = live.trace()
    spelt_out = TrainingSpec.model_validate(BODY).model_dump(mode="json")
    for body in (BODY, {"spec": BODY, "metadata": {"by": "another"}, "priority": 0}, spelt_out):
        answer = ask(live, body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Job-Reused"] == "true"
        assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
        assert answer.json() == live.http.get(answer.headers["Location"]).json()
        assert (answer.json()["state"], answer.json()["metadata"]) == ("succeeded", {"by": "the first"})
        assert answer.json()["code_version"] == versions.code_version()
    assert live.trace() == before
    made = live.http.post("/v1/jobs", json=BODY)
    assert (made.status_code, made.json()["state"]) == (202, "queued")
    assert "Job-Reused" not in made.headers


def test_what_is_not_done_is_submitted_as_ever(live: Live) -> None:
    trained(live, code="0.1.0+000000000000.torch2.0")
    trained(live, data="0" * 64)
    jobs.remove(live.db, trained(live))
    for body in (BODY, BODY | {"seed": 1}, {"preset": "simulated-wide"}):
        answer = ask(live, body)
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        assert "Job-Reused" not in answer.headers
    trained(live)
    assert ask(live, BODY | {"seed": 1}).status_code == 202


def test_a_budget_of_seconds_is_trained_anew(live: Live) -> None:
    """It may come to another number of steps."""
    body = BODY | {"budget_seconds": 60}
    job_id = trained(live)
    spec = TrainingSpec.model_validate(body)
    with live.db.write() as connection:
        connection.execute(
            update(tables.job)
            .where(tables.job.c.id == job_id)
            .values(spec=spec.model_dump(mode="json"), spec_sha256=spec.sha256)
        )
    answer = ask(live, body)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_data_that_cannot_be_told_is_trained_on_anew(live: Live) -> None:
    answer = ask(live, {"dataset": {"name": "kmnist"}})
    assert answer.status_code == 202


def test_a_dry_run_says_what_it_would_reuse(live: Live) -> None:
    def reuses(query: str, **changes: Any) -> Any:
        return live.http.post(f"/v1/jobs?dry_run=true{query}", json=BODY | changes).json()["reuses"]

    assert reuses("&reuse=true") is None
    job_id = trained(live)
    before = live.trace()
    assert reuses("&reuse=true") == job_id
    assert reuses("&reuse=true", seed=1) is None
    assert reuses("") is None
    assert live.trace() == before


def test_a_key_answers_the_same_whatever_happens_between(live_on_each: Live) -> None:
    live = live_on_each
    made = ask(live, **{"Idempotency-Key": "made"})
    job_id = trained(live)
    found = ask(live, **{"Idempotency-Key": "found"})
    assert (made.status_code, found.status_code) == (202, 200)
    assert found.json()["id"] == job_id
    trained(live)
    for key, first in (("made", made), ("found", found)):
        again = ask(live, **{"Idempotency-Key": key})
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers.get("Job-Reused") == first.headers.get("Job-Reused")
    refused = live.http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "found"})
    assert refused.json()["code"] == "idempotency_key_reused", "without reuse it is another request"


def test_an_api_without_torch_takes_the_workers_word(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = versions.code_version().partition(".torch")[0]
    monkeypatch.setattr("service.api.jobs.jobs.code_version", lambda: engine)
    assert ask(live).status_code == 202
    older = trained(live, code=f"{engine}.torch2.0")
    assert ask(live).json()["id"] == older
    trained(live, code=f"{engine}.torch9.9", data="0" * 64)
    assert ask(live).status_code == 202, "they have another torch now"
