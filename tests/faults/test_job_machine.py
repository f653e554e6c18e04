"""The job's states under whatever order of events Hypothesis can think of, on SQLite and PostgreSQL.

A model of a few lines says who holds what; the store must agree with it after every step. So at most one attempt
lives, fences only grow, an end is final, and every write that is accepted was the living attempt's."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.errors import Conflict, NotFound
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, events, jobs, metrics, models
from service.store.attempts import Attempt, Point
from service.store.checkpoints import Checkpoint
from service.store.database import Database
from service.store.jobs import ACTIVE, TERMINAL, JobLost
from tests.conftest import renew
from tests.faults.conftest import SEEDS

SPEC = TrainingSpec()
MOVES = {  # by what is asked: from a state, to another
    "cancel": {
        "queued": "cancelled",
        "paused": "cancelled",
        "running": "cancelling",
        "pausing": "cancelling",
    },
    "pause": {"queued": "paused", "running": "pausing"},
    "resume": {"paused": "queued", "pausing": "running"},
}
ALREADY = {
    "cancel": ("cancelling", "cancelled"),
    "pause": ("pausing", "paused"),
    "resume": ("queued", "running"),
}
GIVEN_UP = {"cancelling": "cancelled", "pausing": "paused", "running": "queued"}
WHICH = st.integers(0, 99)  # of the jobs, or of the attempts that were ever made


@dataclass
class Model:
    """What a job ought to be."""

    id: str
    max_attempts: int
    state: str = "queued"
    fence: int = 0
    crashes: int = 0
    step: int = 0  # the last that was written
    is_deleted: bool = False


class Machine(RuleBasedStateMachine):
    db: Database  # of the test

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Model] = []
        self.attempts: list[Attempt] = []

    def job(self, which: int) -> Model:
        return self.jobs[which % len(self.jobs)]

    def attempt(self, which: int) -> tuple[Attempt, Model, bool]:
        """One of all attempts ever made, its job, and whether it ought to live."""
        found = self.attempts[-1 - which % len(self.attempts)]
        job = next(job for job in self.jobs if job.id == found.job_id)
        lives = job.state in ACTIVE and job.fence == found.number and not job.is_deleted
        return found, job, lives

    @rule(max_attempts=st.integers(1, 3))
    def submit(self, max_attempts: int) -> None:
        answer, _ = jobs.submit(
            self.db, SPEC, answer=lambda job: {"id": job.id}, queue="cpu", max_attempts=max_attempts
        )
        self.jobs.append(Model(str(answer["id"]), max_attempts))

    @precondition(lambda self: self.jobs)
    @rule(which=WHICH)
    def claim(self, which: int) -> None:
        job = self.job(which)
        claimed = attempts.claim(self.db, job.id, worker="w", device="cpu", lease_seconds=60)
        assert (claimed is not None) == (job.state == "queued" and not job.is_deleted)
        if claimed is not None:
            assert claimed.attempt > job.fence
            job.state, job.fence = "running", claimed.attempt
            self.attempts.append(Attempt(job.id, claimed.attempt))

    @precondition(lambda self: self.attempts)
    @rule(which=WHICH)
    def heartbeat(self, which: int) -> None:
        attempt, job, lives = self.attempt(which)
        if lives:
            renew(self.db, attempt)
            assert attempts.state(self.db, attempt) == job.state
        else:
            with pytest.raises(JobLost):
                renew(self.db, attempt)

    @precondition(lambda self: self.attempts)
    @rule(which=WHICH, is_renewed=st.booleans())
    def expire(self, which: int, is_renewed: bool) -> None:
        """The lease has run out as the reconciler saw it, and may have been renewed since."""
        attempt, job, lives = self.attempt(which)
        until = jobs.get(self.db, job.id).lease_until if lives else 1.0
        assert until is not None
        seen = until - 1 if is_renewed else until
        lost = attempts.worker_lost(self.db, attempt, reason="lease_expired", lease_until=seen)
        assert (lost is not None) == (lives and not is_renewed)
        if lost is not None:
            job.crashes += 1
            is_used_up = job.state == "running" and job.crashes >= job.max_attempts
            job.state = "failed" if is_used_up else GIVEN_UP[job.state]

    @precondition(lambda self: self.attempts)
    @rule(which=WHICH, back=st.integers(0, 2))
    def write(self, which: int, back: int) -> None:
        """Figures of the next step, and of some before once more, as after a resume."""
        attempt, job, lives = self.attempt(which)
        steps = range(max(1, job.step + 1 - back), job.step + 2)
        points = [Point("train_loss", step, float(step), float(attempt.number)) for step in steps]
        figures = [{"step": step, "epoch": 0.0, "metrics": {"train_loss": 0.5}} for step in steps]
        told: dict[str, Any] = {"progress": {"step": job.step + 1}, "points": points, "figures": figures}
        if lives:
            assert attempts.write_progress(self.db, attempt, **told) == job.state
            job.step += 1
        else:
            with pytest.raises(JobLost):
                attempts.write_progress(self.db, attempt, **told)

    def save(self, attempt: Attempt, step: int) -> Checkpoint:
        return checkpoints.save(
            self.db,
            attempt,
            step=step,
            epoch=0.0,
            reason="final",
            metrics={},
            spec=SPEC.model_dump(mode="json"),
            weights=b"w",
            state=b"s",
        )

    @precondition(lambda self: self.attempts)
    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        attempt, job, lives = self.attempt(which)
        if not lives:
            with pytest.raises(JobLost):
                self.save(attempt, job.step)
            return
        model = models.finish(
            self.db,
            attempt,
            self.save(attempt, job.step),
            preprocessing="1",
            dataset_sha256="0" * 64,
            provenance={},
            runtime=1,
        )
        assert (model is None) == (job.state == "cancelling")
        if model is not None:
            job.state = "succeeded"

    @precondition(lambda self: self.attempts)
    @rule(which=WHICH, how=st.sampled_from(["paused", "cancelled", "fail", "release"]))
    def stop(self, which: int, how: str) -> None:
        """What the holder may do to it, whether it was asked to or not."""
        attempt, job, lives = self.attempt(which)
        if how == "paused":
            assert attempts.paused(self.db, attempt, runtime=1) == (lives and job.state == "pausing")
            if lives and job.state == "pausing":
                job.state = "paused"
            return
        if not lives:
            with pytest.raises(JobLost):
                self._stop(attempt, how)
            return
        self._stop(attempt, how)
        job.state = {"cancelled": "cancelled", "fail": "failed"}.get(how) or GIVEN_UP[job.state]

    def _stop(self, attempt: Attempt, how: str) -> None:
        if how == "cancelled":
            attempts.cancelled(self.db, attempt, runtime=1)
        elif how == "fail":
            attempts.fail(self.db, attempt, code="x", detail="y", runtime=1)
        else:
            attempts.release(self.db, attempt, runtime=1)

    @precondition(lambda self: self.jobs)
    @rule(which=WHICH, verb=st.sampled_from(sorted(MOVES)))
    def ask(self, which: int, verb: str) -> None:
        job = self.job(which)
        asked = getattr(jobs, verb)
        if job.is_deleted:
            with pytest.raises(NotFound):
                asked(self.db, job.id)
        elif job.state in MOVES[verb]:
            found, is_changed = asked(self.db, job.id)
            job.state = MOVES[verb][job.state]
            assert (found.state, is_changed) == (job.state, True)
        elif job.state in ALREADY[verb]:
            found, is_changed = asked(self.db, job.id)
            assert (found.state, is_changed) == (job.state, False)
        else:
            with pytest.raises(Conflict):
                asked(self.db, job.id)

    @precondition(lambda self: self.jobs)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        job = self.job(which)
        if job.is_deleted:
            with pytest.raises(NotFound):
                jobs.remove(self.db, job.id)
        elif job.state in (*TERMINAL, "paused"):
            jobs.remove(self.db, job.id)
            job.is_deleted = True
        else:
            with pytest.raises(Conflict):
                jobs.remove(self.db, job.id)

    @invariant()
    def the_rows_are_as_they_ought_to_be(self) -> None:
        for job in self.jobs:
            if job.is_deleted:
                continue
            row = jobs.get(self.db, job.id)
            assert (row.state, row.attempt, row.crashes) == (job.state, job.fence, job.crashes)
            assert (row.worker is not None) == (row.lease_until is not None) == (row.state in ACTIVE)
            assert (row.finished_at is not None) == row.is_terminal
            assert (row.model_id is not None) == (row.state == "succeeded")

    def teardown(self) -> None:
        """At most one attempt of each job lives; its events have no gap, and one end if it has ended; each step is
        there once."""
        for which in range(len(self.attempts)):
            attempt, job, lives = self.attempt(which)
            if lives:
                assert attempts.state(self.db, attempt) == job.state
            else:
                with pytest.raises(JobLost):
                    attempts.state(self.db, attempt)
        for job in self.jobs:
            told = events.page(self.db, job.id, after=0, limit=1000)
            assert [event.seq for event in told] == list(range(1, len(told) + 1))
            ends = [event.data["state"] for event in told if event.type == "end"]
            assert ends == ([job.state] if job.state in TERMINAL else [])
            figures = [event.data["step"] for event in told if event.type == "metric"]
            assert figures == list(range(1, job.step + 1))
            values, _ = metrics.page(self.db, job.id, limit=1000)
            assert [value.step for value in values] == figures
            fences = [event.data["attempt"] for event in told if "device" in event.data]
            assert fences == list(range(1, job.fence + 1))


@pytest.mark.timeout(600)
def test_no_order_of_events_breaks_a_promise(db: Database) -> None:
    machine = type("MachineOnIt", (Machine,), {"db": db})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 * SEEDS,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
