"""One attempt at one job: fit -> record -> finish."""

import logging
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from service.checkpoints import (
    CorruptCheckpoint,
    Snapshot,
    decode_snapshot,
    encode_state,
    encode_weights,
    sha256,
)
from service.data.digits import PREPROCESSING_VERSION
from service.errors import NotFound, ServiceError
from service.figures.report import make as make_report
from service.network import Network, rebuild
from service.observing import tracing
from service.observing.tracing import Span
from service.running.lease import Lease
from service.serving import answers
from service.spec import TrainingSpec
from service.store import attempts, blobs, checkpoints, models
from service.store.attempts import Attempt
from service.store.blobs import Damaged
from service.store.checkpoints import Checkpoint, Kept
from service.store.database import Database
from service.store.events import Telling
from service.store.jobs import Job, State
from service.store.leases import LeaseLost
from service.store.reports import Draft
from service.trail import Following
from service.versions import code_version
from worker.budget import Trial, seconds_of, steps_within
from worker.committee import fit
from worker.device import Resident, describe, precision_name, set_threads, threads_for
from worker.process import Process, out_of_memory
from worker.record import POLL_SECONDS, Record, seconds_to_note
from worker.training import Report

log = logging.getLogger(__name__)


class TeacherGone(ServiceError):
    status, code, title = 409, "teacher_gone", "The teacher cannot be read any more"


class MaxRuntime(ServiceError):
    status, code, title = 409, "max_runtime", "The job ran out of its time"


class Training:
    """One attempt at one job."""

    def __init__(self, process: Process, job: Job, lease: Lease[Attempt]) -> None:
        self._process = process
        self._db = process.db
        self._job = job
        self._lease = lease
        self._attempt = lease.attempt
        self._spec = TrainingSpec.model_validate(job.spec)
        self._record: Record  # once the number of steps is known
        self._data: Resident
        self._together = 1
        self._began = time.monotonic()
        self._newest: Report | None = None
        self._told_step = 0  # up to which the process's figures know of the steps
        self._saved_at = self._polled_at = -float("inf")
        self._saved: Checkpoint | None = None
        self._dataset_sha256 = ""
        self._precision = ""
        Span("queued", job.traceparent, since=job.queued_at).end()
        self._span = Span("train", job.traceparent)
        self._span.tell(
            {"job_id": job.id, "attempt": job.attempt, "device": job.device, "preset": job.preset}
        )
        self._about = Following(
            self._span.traceparent, request_id=job.request_id, job_id=job.id, attempt=job.attempt
        )

    @property
    def job(self) -> Job:
        """As it was claimed."""
        return self._job

    @property
    def spec(self) -> TrainingSpec:
        return self._spec

    @property
    def _runtime(self) -> float:
        return time.monotonic() - self._began

    def count(self, seconds: float) -> None:
        """Say how many seconds of training the attempt has had until now; without, all since it began."""
        self._began = time.monotonic() - seconds

    def run(self) -> None:
        """Train alone."""
        self.in_hand(self._train)

    def in_hand(self, work: Callable[[], object]) -> bool:
        """Do the work, and leave the job in one of its states whatever happens; a job that is no longer ours is left
        alone. Whether there is more to do: the work said so, and did not fail."""
        with self._about:
            is_unfinished = self._done(work)
        if not is_unfinished:
            self._span.tell({"steps": 0 if self._newest is None else self._newest.step})
            self._span.end()
        return is_unfinished

    def _done(self, work: Callable[[], object]) -> bool:
        try:
            return bool(work())
        except LeaseLost as lost:
            log.warning("%s", lost.detail)
        except ServiceError as error:
            log.warning("%s failed: %s", self._job.id, error.detail)
            self._fail(error.code, error.detail)
        except Exception as error:
            if out_of_memory(error):
                log.warning("%s ran out of memory", self._job.id)
                self._fail("out_of_memory", f"{error}: use a smaller batch_size or narrower layers")
            else:
                log.exception("%s failed", self._job.id)
                self._fail("internal_error", f"{type(error).__name__}: {error}")
        return False

    def _fail(self, code: str, detail: str) -> None:
        self._span.fail(f"{code}: {detail}")
        try:
            if self._newest is not None:
                self._write_rest(self._newest)  # the last figures tell most of why
        except Exception:
            log.exception("the last figures of %s are lost", self._job.id)
        try:
            self._lease.patiently(
                lambda: attempts.fail(
                    self._db, self._attempt, code=code, detail=detail, runtime=self._runtime
                )
            )
        except LeaseLost as lost:
            log.warning("%s", lost.detail)
        except Exception:
            log.exception("%s cannot be failed: its lease will run out", self._job.id)

    def _train(self) -> None:
        set_threads(threads_for(self._spec, self._process.threads))
        with tracing.span("load data", dataset=self._spec.dataset.name):
            data = self._process.data(self._spec)
        teacher = self._lease.patiently(lambda: teacher_of(self._db, self._spec))
        planned = self._planned(data, teacher)
        if planned is None:
            return
        self.begin(planned, data)
        resume = self._lease.patiently(self._resume)
        with tracing.span("fit"):
            for report in fit(planned, data, device=data.device, resume=resume, teacher=teacher):
                if not self.take(report):
                    return

    def begin(self, planned: TrainingSpec, data: Resident, *, together: int = 1) -> bool:
        """The number of steps is known, and so is how many are trained together. True: there is all to do."""
        self._spec, self._record = planned, Record(planned, together=together)
        self._data, self._together = data, together
        self._dataset_sha256 = data.dataset.sha256
        self._precision = precision_name(planned, data.device)
        if together > 1:
            told: Telling = ("log", {"message": f"{together} members of the sweep are trained together"})
            self._lease.patiently(lambda: attempts.tell(self._db, self._attempt, told))
        return True

    def take(self, report: Report) -> bool:
        """Do whatever a report asks for. False when that was the last, and the job has been seen to."""
        state = self._note(report)
        if report.outcome is not None:
            self._finish(report)
            return False
        if report.checkpoint_due:
            self._save_if_time(report)
        return not self._stopped(report, state)

    def _planned(self, data: Resident, teacher: Network | None) -> TrainingSpec | None:
        """The spec with its number of steps: for a `budget_seconds` as many as fit into it at the speed that is
        measured here, once for all attempts. None if the job was stopped meanwhile."""
        budget, known = self._spec.budget_seconds, (self._job.progress or {}).get("steps")
        if budget is None:
            return self._spec
        if known is not None:
            return self._spec.with_steps(known)
        began = time.monotonic()
        trial = Trial(self._spec, data, device=data.device, teacher=teacher)
        for report in trial:
            if self._stopped_in_trial(report):
                return None
        speed = trial.speed(report=seconds_to_note(report), checkpoint=self._seconds_to_store(report))
        left = budget - (time.monotonic() - began)
        planned = self._spec.with_steps(steps_within(self._spec, speed, left))
        self._tell_plan(planned, seconds_of(planned, speed))
        return planned

    def _stopped_in_trial(self, report: Report) -> bool:
        """Whether the job is to stop before it has begun, and then that has been done: nothing is left of it."""
        self._lease.require()
        if self._process.leaving.is_set():
            self.release()
            return True
        if report.step and time.monotonic() - self._polled_at < POLL_SECONDS:
            return False
        self._polled_at = time.monotonic()
        state = self._lease.patiently(lambda: attempts.state(self._db, self._attempt))
        if state == "cancelling":
            self._cancelled()
            return True
        return state == "pausing" and self._paused()

    def _seconds_to_store(self, report: Report) -> float:
        """What a checkpoint takes. Nothing names these bytes: they are collected as garbage."""
        began = time.monotonic()
        for data in self._encoded(report.snapshot()):
            self._lease.patiently(partial(blobs.write, self._db, data))
        return time.monotonic() - began

    def _tell_plan(self, planned: TrainingSpec, seconds: float) -> None:
        """Let the job show the steps, from which later attempts have them too."""
        plan = planned.plan
        progress = {
            "step": 0,
            "steps": plan.steps,
            "epoch": 0.0,
            "epochs": plan.epochs,
            "eta_seconds": seconds,
        }
        said = (
            f"{plan.steps:,} steps, {plan.epochs:.4g} epochs, fit into {self._spec.budget_seconds:g} seconds"
        )
        told: Telling = ("log", {"message": said})
        self._lease.patiently(
            lambda: attempts.tell(self._db, self._attempt, told, values={"progress": progress})
        )

    def _resume(self) -> Snapshot | None:
        """The newest whole checkpoint of an earlier attempt."""
        if self._job.attempt == 1:
            return None
        for header, weights, state in checkpoints.resumable(self._db, self._job.id):
            try:
                snapshot = decode_snapshot(weights, state)
            except CorruptCheckpoint as error:
                told = {"code": "checkpoint_damaged", "id": header.id, "detail": str(error)}
                attempts.tell(self._db, self._attempt, ("warning", told))
                continue
            self._saved = header
            told = {"message": f"going on from step {header.step:,}", "checkpoint_id": header.id}
            attempts.tell(self._db, self._attempt, ("log", told))
            return snapshot
        return None

    def _note(self, report: Report) -> State | None:
        """Take the report in, and write when it is time. Returns the job's state when it was looked at."""
        self._lease.require()
        if self._newest is None:
            self._told_step = max(0, report.step - 1)  # the first report is of the first step, or of none
        self._newest = report
        self._record.take(report)
        if self._record.write_due(report):
            return self._write(report)
        if self._record.poll_due():
            return self._lease.patiently(lambda: attempts.state(self._db, self._attempt))
        return None

    def _write(self, report: Report) -> State:
        plan, steps = self._spec.plan, report.step - self._told_step
        self._process.figures.trained(steps, steps * plan.examples / plan.steps_per_pass)
        self._told_step = report.step
        progress, points, figures, curves = self._record.hand_over(report)
        return self._lease.patiently(
            lambda: attempts.write_progress(
                self._db,
                self._attempt,
                progress=progress | {"precision": self._precision},
                points=points,
                figures=figures,
                curves=curves,
                dataset_sha256=self._dataset_sha256,
            )
        )

    def _write_rest(self, report: Report) -> None:
        """What has not been written yet, before something after which nobody would: a run that goes on from a
        checkpoint does not take the steps before it again."""
        if self._record.pending:
            self._write(report)

    def _stopped(self, report: Report, state: State | None) -> bool:
        """Whether the job is to stop here, and then everything for it has been done."""
        if state == "cancelling":
            self._write_rest(report)
            self._cancelled()
            return True
        if state == "pausing":
            self._save(report, "paused")
            return self._paused()
        if self._process.leaving.is_set():
            self._save(report, "released")
            self.release()
            return True
        limit = self._spec.max_runtime_seconds
        if limit is not None and self._job.runtime_seconds + self._runtime > limit:
            self._save(report, "released")
            raise MaxRuntime(
                f"{limit:g} seconds of training are over at step {report.step:,}: raise max_runtime_seconds"
            )
        return False

    def _paused(self) -> bool:
        return self._lease.patiently(lambda: attempts.paused(self._db, self._attempt, runtime=self._runtime))

    def release(self) -> None:
        """Hand the job back to the queue."""
        job = self._lease.patiently(lambda: attempts.release(self._db, self._attempt, runtime=self._runtime))
        if job.state == "queued":
            self._process.ring(job)

    def _finish(self, report: Report) -> None:
        header, weights = self._store(report, "final")
        with tracing.span("evaluate"):
            draft = self._evaluated(weights)
        model = self._lease.patiently(
            lambda: models.finish(
                self._db,
                self._attempt,
                header,
                preprocessing=PREPROCESSING_VERSION,
                dataset_sha256=self._dataset_sha256,
                provenance=provenance(self._spec, self._data.device, report, together=self._together),
                runtime=self._runtime,
                report=draft,
            )
        )
        if model is None:
            self._cancelled()
            return
        log.info("%s succeeded: model version %d", self._job.id, model.version)
        self._prune()

    def _evaluated(self, weights: bytes) -> Draft | None:
        """The job's report, of the weights that it ends with. Hours of training do not hang on it: the weights
        are stored, and a job whose report fails has its model without one, with a warning that says so."""
        try:
            data = self._data
            made = make_report(weights, data.dataset, device=data.device, preset=self._job.preset)
            told = None if made.answers is None else answers.encode(made.answers)
            return Draft(made.data, told, made.calibration, made.quantized)
        except Exception as error:
            log.exception("%s has no report", self._job.id)
            warning = {"code": "report_failed", "detail": f"{type(error).__name__}: {error}"}
        self._lease.patiently(lambda: attempts.tell(self._db, self._attempt, ("warning", warning)))
        return None

    def _cancelled(self) -> None:
        self._lease.patiently(lambda: attempts.cancelled(self._db, self._attempt, runtime=self._runtime))

    def _save_if_time(self, report: Report) -> None:
        policy = self._spec.checkpoints
        if policy.keep == "all" or time.monotonic() - self._saved_at >= policy.min_seconds:
            self._save(report, "scheduled")
            self._prune()

    def _prune(self) -> None:
        try:
            checkpoints.prune(self._db, self._job.id, self._kept)
        except ServiceError as error:  # the next checkpoint's pruning makes up for it
            log.warning("old checkpoints of %s stay for now: %s", self._job.id, error.detail)

    def _save(self, report: Report, reason: checkpoints.Reason) -> Checkpoint:
        """Store the run as it stands; a step that is stored already is not stored twice."""
        if self._saved is not None and self._saved.step == report.step:
            return self._saved
        return self._store(report, reason)[0]

    def _store(self, report: Report, reason: checkpoints.Reason) -> tuple[Checkpoint, bytes]:
        """The stored checkpoint, and its weights file."""
        with tracing.span("store checkpoint", step=report.step, reason=reason):
            return self._stored(report, reason)

    def _stored(self, report: Report, reason: checkpoints.Reason) -> tuple[Checkpoint, bytes]:
        self._write_rest(report)
        snapshot = report.snapshot()
        weights, state = self._encoded(snapshot)
        self._saved = self._lease.patiently(
            lambda: checkpoints.save(
                self._db,
                self._attempt,
                step=snapshot.step,
                epoch=snapshot.epoch,
                reason=reason,
                metrics=report.metrics,
                spec=self._job.spec,
                weights=weights,
                state=state,
            )
        )
        self._saved_at = time.monotonic()
        return self._saved, weights

    def _encoded(self, snapshot: Snapshot) -> tuple[bytes, bytes]:
        """The weights file and the state file."""
        weights = encode_weights(snapshot, self._spec, preprocessing=PREPROCESSING_VERSION)
        return weights, encode_state(snapshot, self._spec, weights_sha256=sha256(weights))

    @property
    def _kept(self) -> Kept:
        policy = self._spec.checkpoints
        best_by = None
        if self._spec.dataset.validation:
            best_by = "validation_loss" if self._spec.task_name == "regression" else "validation_accuracy"
        return Kept(policy.keep == "all", policy.newest, best_by)


def teacher_of(db: Database, spec: TrainingSpec) -> Network | None:
    """The trained network that the spec's distillation names, on the CPU. Raises TeacherGone."""
    if spec.distillation is None:
        return None
    teacher = spec.distillation.teacher
    try:
        header = checkpoints.get(db, models.resolve(db, teacher).checkpoint_id)
        return rebuild(checkpoints.weights(db, header))
    except (NotFound, Damaged, CorruptCheckpoint) as error:
        raise TeacherGone(
            f"the teacher {teacher} cannot be read ({error}): name another model in distillation.teacher"
        ) from error


def provenance(spec: TrainingSpec, device: torch.device, report: Report, *, together: int) -> dict[str, Any]:
    """Where a model comes from, so that it can be made again."""
    return {
        "device": describe(device),
        "precision": precision_name(spec, device),
        "seed": spec.seed,
        "threads": torch.get_num_threads(),
        "trained_together": together,
        "outcome": report.outcome,
        "restored_step": report.restored_step,
        "versions": {
            "numeral": version("numeral"),
            "code": code_version(),
            "torch": str(torch.__version__),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "host_cpus": os.cpu_count(),
    }
