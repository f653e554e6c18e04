"""Members of a sweep that one process trains together, on a real database: each is what it would be alone."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from service.errors import Unavailable
from service.running import lease
from service.running.lease import Heartbeat
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, events, jobs, metrics, models, reports, sweeps, workers
from service.store.attempts import Attempt
from service.store.jobs import Job
from service.sweep import Member
from tests.integration.test_tasks import SPEC, at_step, steps_of, submit
from tests.integration.test_tasks import process as process
from worker import device, record, tasks
from worker.leaving import Leaving
from worker.packed import Pack
from worker.process import Process


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    device.warm_up(torch.device("cpu"))


@pytest.fixture(autouse=True)
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "POLL_SECONDS", 0.0)


def sweep_of(process: Process, *changes: dict[str, Any], **common: Any) -> list[str]:
    """The ids of a sweep's jobs, in order."""
    members = [Member(one, TrainingSpec.model_validate(SPEC | common | one)) for one in changes]
    _, made = sweeps.submit(
        process.db,
        members,
        answer=lambda found, _: {"id": found.id},
        spec=SPEC,
        search={},
        metric="test_loss",
        preset=None,
        metadata={},
        priority=5,
        max_attempts=3,
        max_queued=1000,
    )
    return [job.id for job in made]


def seeds(process: Process, count: int, **common: Any) -> list[str]:
    return sweep_of(process, *({"seed": seed} for seed in range(count)), **common)


def all_of(process: Process, ids: list[str]) -> list[Job]:
    return [jobs.get(process.db, one) for one in ids]


def states(process: Process, ids: list[str]) -> list[str]:
    return [job.state for job in all_of(process, ids)]


def series(process: Process, job_id: str) -> dict[tuple[str, int], float]:
    found, _ = metrics.page(process.db, job_id, names=[], limit=10_000)
    return {(one.name, one.step): one.value for one in found}


def said(process: Process, job_id: str) -> list[str]:
    return [one.data.get("message", "") for one in events.page(process.db, job_id, after=0, limit=1000)]


def test_each_member_ends_as_it_would_alone(process: Process) -> None:
    ids = seeds(process, 4, evaluation={"every_steps": 50, "initial": True})
    began = time.monotonic()
    tasks.train(process, ids[0])
    assert 0 < sum(job.runtime_seconds for job in all_of(process, ids)) <= time.monotonic() - began
    for seed, job in enumerate(all_of(process, ids)):
        assert (job.state, job.attempt, job.worker) == ("succeeded", 1, None)
        assert "4 members of the sweep are trained together" in said(process, job.id)
        alone = submit(process, seed=seed, evaluation={"every_steps": 50, "initial": True})
        tasks.train(process, alone)
        assert series(process, job.id) == pytest.approx(series(process, alone), rel=1e-3)
        assert job.metrics == pytest.approx(jobs.get(process.db, alone).metrics, rel=1e-3)
        assert job.dataset_sha256 == jobs.get(process.db, alone).dataset_sha256
        report = reports.find(process.db, job.id)
        assert report is not None
        assert report.data["weights_sha256"] == job.weights_sha256
        kept = [one.reason for one in checkpoints.of_job(process.db, job.id)]
        assert "final" in kept
    found, _ = models.page(process.db, limit=99)
    by_job = {model.job_id: model.provenance["trained_together"] for model in found}
    assert [by_job[one] for one in ids] == [4] * 4
    assert sorted(by_job.values()) == [1] * 4 + [4] * 4


@pytest.mark.parametrize("claims", [1, 3])
def test_a_database_that_is_busy_while_they_are_claimed_strands_nobody(
    process: Process, monkeypatch: pytest.MonkeyPatch, claims: int
) -> None:
    """Those that have been claimed by then are trained; the others wait for whoever comes next."""
    ids, claim = seeds(process, 4), attempts.claim
    claimed: list[str] = []

    def busy(*arguments: Any, **fields: Any) -> Job | None:
        if len(claimed) == claims:
            raise Unavailable("the database is busy")
        claimed.append(arguments[1])
        return claim(*arguments, **fields)

    monkeypatch.setattr(attempts, "claim", busy)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded"] * claims + ["queued"] * (4 - claims)


def test_one_that_somebody_has_begun_since_it_was_listed_goes_on_alone(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = seeds(process, 3)
    rung: list[str] = []
    process.ring = lambda job: rung.append(job.id)
    listed = sweeps.waiting

    def begun(*arguments: Any, **fields: Any) -> list[Job]:
        found = listed(*arguments, **fields)
        fields = {"worker": "other", "device": "cpu", "lease_seconds": 60.0, "code_version": "x"}
        held = attempts.claim(process.db, ids[1], **fields)
        assert held is not None
        attempts.release(process.db, Attempt(held.id, held.attempt), runtime=0.0)
        return found

    monkeypatch.setattr(sweeps, "waiting", begun)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "queued", "succeeded"]
    assert rung == [ids[1]]


def test_who_is_told_to_stop_leaves_and_the_others_go_on(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = seeds(process, 4)

    def ask() -> None:
        jobs.cancel(process.db, ids[0])
        jobs.pause(process.db, ids[2])

    at_step(monkeypatch, 20, ask)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["cancelled", "succeeded", "paused", "succeeded"]
    jobs.resume(process.db, ids[2])
    tasks.train(process, ids[2])
    assert jobs.get(process.db, ids[2]).state == "succeeded"
    assert steps_of(process, ids[2]) == list(range(1, 301))


def test_one_that_diverges_fails_alone(process: Process) -> None:
    rates = ({"learning_rate": rate} for rate in (0.01, 50.0, 0.02))
    ids = sweep_of(process, *({"optimizer": {"name": "sgd", **rate}} for rate in rates))
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "failed", "succeeded"]
    failed = jobs.get(process.db, ids[1])
    assert failed.error is not None
    assert failed.error["code"] == "diverged"
    assert failed.progress is not None
    assert steps_of(process, ids[1]) == list(range(1, failed.progress["step"] + 1))


def test_one_that_runs_out_of_time_fails_alone(process: Process) -> None:
    limits = ({"max_runtime_seconds": limit} for limit in (None, 1e-6, 600.0))
    ids = sweep_of(process, *({"seed": seed, **limit} for seed, limit in enumerate(limits)))
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "failed", "succeeded"]
    error = jobs.get(process.db, ids[1]).error
    assert error is not None
    assert error["code"] == "max_runtime"


def test_one_that_is_lost_is_left_to_the_next(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = seeds(process, 3)
    at_step(
        monkeypatch,
        20,
        lambda: attempts.worker_lost(process.db, Attempt(ids[1], 1), reason="lease_expired"),
    )
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "queued", "succeeded"]
    tasks.train(process, ids[1])
    job = jobs.get(process.db, ids[1])
    assert (job.state, job.attempt, job.crashes) == ("succeeded", 2, 1)


def test_all_are_handed_back_by_a_worker_that_leaves_and_go_on_alone(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[str] = []
    process.ring = lambda job: rung.append(job.id)
    ids = seeds(process, 3)
    at_step(monkeypatch, 20, process.leaving.set)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["queued"] * 3
    assert sorted(rung) == ids
    process.leaving = Leaving()
    for one in ids:
        tasks.train(process, one)
        assert steps_of(process, one) == list(range(1, 301))
        assert "going on from step 20" in said(process, one) or "going on from step 19" in said(process, one)
    assert states(process, ids) == ["succeeded"] * 3


def test_without_the_memory_for_all_each_trains_alone(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Iterator[Any]:
        raise torch.OutOfMemoryError("no room")

    ids = seeds(process, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Pack, "__iter__", full)
        tasks.train(process, ids[0])
        assert states(process, ids) == ["queued"] * 3
        for one in ids:
            tasks.train(process, one)
    assert states(process, ids) == ["succeeded"] * 3
    assert [job.crashes for job in all_of(process, ids)] == [0] * 3


def test_a_pack_that_fails_fails_each_with_the_reason(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(Pack, "__iter__", broken)
    ids = seeds(process, 2)
    tasks.train(process, ids[0])
    for job in all_of(process, ids):
        assert job.error == {"code": "internal_error", "detail": "RuntimeError: a kernel failed"}


def test_a_busy_database_fails_nobody(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    works, calls = attempts.write_progress, []

    def busy(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) % 3 == 1:
            raise Unavailable("the database is busy")
        return works(*given, **named)

    monkeypatch.setattr(attempts, "write_progress", busy)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.01)
    ids = seeds(process, 3, steps=30)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded"] * 3


def test_every_live_worker_gets_its_share(process: Process) -> None:
    for name in ("w", "another"):
        workers.seen(process.db, name, queues=["cpu"], device="CPU (test)", job_id=None)
    workers.seen(process.db, "elsewhere", queues=["gpu"], device="GPU", job_id=None)
    ids = seeds(process, 5, steps=3, device="cpu")
    held = attempts.claim(process.db, ids[0], worker="another", device="CPU", lease_seconds=60)
    assert held is not None
    tasks.train(process, ids[1])
    assert states(process, ids) == ["running", *["succeeded"] * 3, "queued"]
    tasks.train(process, ids[4])
    assert states(process, ids)[4:] == ["succeeded"]


def test_who_was_quicker_keeps_the_job(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = seeds(process, 4, steps=3)
    claim = attempts.claim

    def quicker(db: Any, job_id: str, **named: Any) -> Any:
        if job_id == ids[1]:
            claim(db, job_id, **named | {"worker": "another"})
        return claim(db, job_id, **named)

    monkeypatch.setattr(attempts, "claim", quicker)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "running", "succeeded", "succeeded"]
    assert jobs.get(process.db, ids[1]).worker == "another"


def test_no_more_than_the_setting_says(process: Process) -> None:
    ids = seeds(process, 4, steps=3)
    process.settings = Settings(home=process.settings.home, max_together=2)
    tasks.train(process, ids[0])
    assert states(process, ids) == ["succeeded", "succeeded", "queued", "queued"]
    process.settings = Settings(home=process.settings.home, max_together=1)
    tasks.train(process, ids[2])
    assert states(process, ids)[2:] == ["succeeded", "queued"]


def test_only_what_packs_and_waits_is_taken_along(process: Process) -> None:
    ids = sweep_of(
        process,
        {"seed": 0},
        {"network": {"hidden_widths": [4]}},
        {"regularization": {"dropout": 0.1}},
        {"seed": 1},
        {"seed": 2},
        {"seed": 3},
        {"seed": 4},
        steps=3,
    )
    jobs.cancel(process.db, ids[4])
    jobs.edit(process.db, ids[5], metadata=None, priority=9)
    begun = attempts.claim(process.db, ids[6], worker="v", device="CPU", lease_seconds=60)
    assert begun is not None
    attempts.release(process.db, Attempt(ids[6], begun.attempt), runtime=0)
    others = seeds(process, 2, steps=3)
    alone = submit(process, steps=3)
    tasks.train(process, ids[0])
    assert states(process, ids) == [
        *("succeeded", "queued", "queued", "succeeded"),
        *("cancelled", "queued", "queued"),
    ]
    assert states(process, [*others, alone]) == ["queued"] * 3
    tasks.train(process, ids[6])
    assert states(process, ids)[5:] == ["queued", "succeeded"], "what has begun before goes on alone"


def test_a_heartbeat_renews_every_lease_until_its_job_has_ended(process: Process) -> None:
    ids = seeds(process, 2)
    heart = Heartbeat(
        process.db, name="w", device="CPU", queues=["cpu"], lease_seconds=60, on_idle=lambda _: None
    )

    def until(job_id: str) -> float:
        lease = jobs.get(process.db, job_id).lease_until
        assert lease is not None
        return lease

    for one in ids:
        assert attempts.claim(process.db, one, worker="w", device="CPU", lease_seconds=1) is not None
    before = [until(one) for one in ids]
    with (
        heart.holding(Attempt(ids[0], 1), claimed_at=time.monotonic()) as first,
        heart.holding(Attempt(ids[1], 1), claimed_at=time.monotonic()) as second,
    ):
        heart._beat()
        assert all(until(one) > moment + 30 for one, moment in zip(ids, before, strict=True))
        (seen,) = workers.alive(process.db)
        assert seen.job_id == ids[0]
        attempts.cancelled(process.db, Attempt(ids[0], 1), runtime=0)
        heart._beat()
        heart._beat()
        assert (first.lost, second.lost) == (True, False)
    heart._beat()
    (seen,) = workers.alive(process.db)
    assert seen.job_id is None


def test_what_cannot_be_told_costs_no_lease(process: Process) -> None:
    (job_id,) = seeds(process, 1)

    def broken() -> dict[str, float]:
        raise OSError("the device does not answer")

    heart = Heartbeat(
        process.db,
        name="w",
        device="CPU",
        queues=["cpu"],
        lease_seconds=60,
        on_idle=lambda _: None,
        figures=broken,
    )
    assert attempts.claim(process.db, job_id, worker="w", device="CPU", lease_seconds=1) is not None
    before = jobs.get(process.db, job_id).lease_until
    with heart.holding(Attempt(job_id, 1), claimed_at=time.monotonic()):
        heart._beat()
    after = jobs.get(process.db, job_id).lease_until
    assert before is not None
    assert after is not None
    assert after > before + 30
    (seen,) = workers.alive(process.db)
    assert (seen.job_id, seen.figures) == (job_id, None)
