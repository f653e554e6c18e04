"""Training jobs: submit, look, change, stop."""

import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.api.bodies import JsonObject
from service.api.context import Context, Wired
from service.api.guards.access import Submitting
from service.api.jobs.submissions import JobChange, Priority, Submission, validated
from service.api.problems import documented
from service.api.schemas import Limit, Page, SpecJson, Time, maybe_rfc3339, rfc3339
from service.spec import TrainingSpec
from service.store import jobs, workers
from service.store.jobs import Idempotency, Job, State, Versions
from service.versions import code_version, data_version, names_torch

DEVICE_PREFIX = {"cpu": "CPU", "gpu": "NVIDIA"}  # as workers name their devices
ASSUMED_SPEED = {"cpu": 2e9, "gpu": 1e12}  # multiply-adds a second, until a job has been measured
STEP_SECONDS = 0.0005  # that a step takes however small its products are

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class Progress(BaseModel):
    """Where a run is; null is unknown."""

    model_config = ConfigDict(extra="allow")

    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    epochs: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    precision: Annotated[
        str | None, Field(description="What its products run in: float32 or bfloat16, also where it is auto.")
    ] = None


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    detail: str


class JobView(BaseModel):
    """A training job; null is unknown as yet."""

    id: str
    state: State
    preset: str | None
    spec: SpecJson
    parameter_count: int
    device: Annotated[str | None, Field(description="What it trains on, or did last.")]
    attempt: Annotated[int, Field(description="How often a worker has taken it.")]
    progress: Progress
    metrics: Annotated[dict[str, float], Field(description="Newest value of each.")]
    model_id: str | None
    weights_sha256: Annotated[str | None, Field(description="Over the final weights as safetensors.")]
    dataset_sha256: str | None
    sweep_id: Annotated[str | None, Field(description="Of the sweep that asked for it.")]
    code_version: Annotated[
        str | None,
        Field(description="Of the engine that trains it, or did; null also if it has changed in between."),
    ]
    error: JobError | None
    metadata: dict[str, Any]
    priority: Priority
    queue: str
    queue_position: Annotated[
        int | None, Field(description="Jobs that go before it; only of one queued job.")
    ]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None

    @classmethod
    def of(cls, job: Job, *, queue_position: int | None = None) -> "JobView":
        return cls(
            id=job.id,
            state=job.state,
            preset=job.preset,
            spec=job.spec,
            parameter_count=job.parameter_count,
            device=job.device,
            attempt=job.attempt,
            progress=Progress(**(job.progress or {})),
            metrics=job.metrics,
            model_id=job.model_id,
            weights_sha256=job.weights_sha256,
            dataset_sha256=job.dataset_sha256,
            sweep_id=job.sweep_id,
            code_version=job.code_version,
            error=None if job.error is None else JobError(**job.error),
            metadata=job.metadata,
            priority=job.priority,
            queue=job.queue,
            queue_position=queue_position,
            created_at=rfc3339(job.created_at),
            started_at=maybe_rfc3339(job.started_at),
            finished_at=maybe_rfc3339(job.finished_at),
        )


_Basis = Literal["measured", "assumed", "budget"]


class DryRun(BaseModel):
    """What a job would come to. Nothing is kept of it."""

    parameter_count: int
    memory_bytes: int
    steps: Annotated[int | None, Field(description="null: the worker fixes them, to meet `budget_seconds`.")]
    epochs: float | None
    estimated_seconds: float
    estimate_basis: Annotated[
        _Basis,
        Field(description="measured: from jobs that have run here; budget: the spec's `budget_seconds`."),
    ]
    queue: str
    queue_position: Annotated[int, Field(description="Jobs that would go before it.")]
    reuses: Annotated[
        str | None, Field(description="With `reuse=true`: the job that would be answered instead.")
    ]
    spec: Annotated[TrainingSpec, Field(description="With every default spelt out.")]


SWEEP_ID = "^sweep_[0-9a-f]{32}$"
JobId = Annotated[str, Path(description="Id of a job.", examples=["job_019ab3c4d5e67f80912a3b4c5d6e7f80"])]
Cursor = Annotated[str | None, Query(pattern="^job_[0-9a-f]{32}$", description="`next` of the page before.")]
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="A name of your own for this submit: sent again within a day, it answers the same.",
    ),
]

_SUBMIT_BODY = {
    "requestBody": {
        "required": True,
        "description": "A TrainingSpec; or, with any of `preset spec metadata priority`, a JobRequest.",
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/JobRequest"},
                        {"$ref": "#/components/schemas/TrainingSpec"},
                    ]
                },
                "examples": {
                    "preset": {"summary": "The lecture's first classifier", "value": {"preset": "slp-200"}},
                    "changed": {
                        "summary": "A preset with changes",
                        "value": {
                            "preset": "slp-200",
                            "spec": {"seed": 3, "network": {"hidden_widths": [64]}},
                            "metadata": {"course": "ml-1"},
                        },
                    },
                    "spec": {
                        "summary": "A spec of one's own",
                        "value": {
                            "dataset": {"name": "mnist"},
                            "network": {"hidden_widths": [100]},
                            "epochs": 5,
                        },
                    },
                },
            }
        },
    }
}
_CHANGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JobChange"},
                "example": {"metadata": {"course": "ml-1"}, "priority": 0},
            }
        },
    }
}


def _versions(context: Context, spec: TrainingSpec) -> Versions | None:
    """Those that a job of this spec would have if it began now; None if that cannot be told, or if another run
    of the spec would do something else: as many steps as fit into its time."""
    if spec.planned is None:
        return None
    settings = context.settings
    data = data_version(spec.dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    code: str | None = code_version()
    if code is not None and not names_torch(code):
        code = jobs.trained_by(context.db, code)
    return None if data is None or code is None else Versions(data, code)


def _dry_run(context: Context, submission: Submission, *, reuse: bool) -> DryRun:
    spec = submission.spec
    wanted = _versions(context, spec) if reuse else None
    found = None if wanted is None else jobs.done_before(context.db, spec, wanted)
    where = workers.queue_now(context.db, spec.device)
    plan = spec.planned
    speed = jobs.measured_speed(context.db, device_prefix=DEVICE_PREFIX[where])
    basis: _Basis = "measured" if speed else "assumed"
    return DryRun(
        parameter_count=spec.parameter_count,
        memory_bytes=spec.memory_bytes,
        steps=None if plan is None else plan.steps,
        epochs=None if plan is None else plan.epochs,
        estimated_seconds=estimated_seconds(spec, speed or ASSUMED_SPEED[where]),
        estimate_basis="budget" if plan is None else basis,
        queue=where,
        queue_position=jobs.queue_position(context.db, priority=submission.request.priority),
        reuses=None if found is None else found.id,
        spec=spec,
    )


def estimated_seconds(spec: TrainingSpec, speed: float) -> float:
    """Of training, at so many multiply-adds a second; a budget is its own estimate."""
    if spec.budget_seconds is not None:
        return spec.budget_seconds
    plan = spec.plan
    work = spec.parameter_count * plan.steps * plan.examples / plan.steps_per_pass
    return max(work / speed, plan.steps * STEP_SECONDS)


def idempotency_of(
    key: str | None, request: Request, payload: dict[str, Any], *, reuse: bool = False
) -> Idempotency | None:
    """The client's key with a hash of the request that it came with; None without a key. Who has an API key shares no
    names with others."""
    if key is None:
        return None
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    text = f"{request.method} {request.url.path}\n{canonical}" + ("\nreuse" if reuse else "")
    holder = request.scope["state"].get("key")
    name = key if holder is None else f"{holder.id}:{key}"
    return Idempotency(name, hashlib.sha256(text.encode()).hexdigest())


@router.post(
    "",
    status_code=202,
    response_model=JobView | DryRun,
    summary="Submit a training job",
    responses={
        202: {
            "model": JobView,
            "description": "Accepted",
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}},
                "Idempotent-Replayed": {
                    "description": "`true` if this Idempotency-Key has made the job before.",
                    "schema": {"type": "string"},
                },
            },
        },
        200: {
            "model": DryRun | JobView,
            "description": "With `dry_run=true`: what the job would come to. "
            "With `reuse=true`: the job that has done the same before",
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}},
                "Job-Reused": {
                    "description": "`true` on the job that has done the same before.",
                    "schema": {"type": "string"},
                },
            },
        },
        **documented(400, 409, 413, 415, 507),
    },
    openapi_extra=_SUBMIT_BODY,
)
def create(
    context: Wired,
    payload: JsonObject,
    request: Request,
    response: Response,
    submitter: Submitting,
    idempotency_key: KeyHeader = None,
    dry_run: Annotated[bool, Query(description="Only say what the job would come to.")] = False,
    reuse: Annotated[
        bool, Query(description="Rather than train the same again, answer the job that has done it.")
    ] = False,
) -> DryRun | JSONResponse:
    """The body is a TrainingSpec, or an envelope of `preset`, `spec` (laid over the preset), `metadata`
    and `priority`: it is the envelope if it has any of these four keys. Answers before anything is
    trained; follow the job at its Location.

    With `reuse=true` nothing is trained if a job has succeeded that had the same spec (every default spelt
    out), the same data and the same code, and whose model is still there: the newest such job is the answer,
    as it is, with its own metadata. Where the data cannot be told without reading it (any dataset but mnist
    and simulated while NUMERAL_DATA_DIR is set, or one that is not in the cache yet), it is trained."""
    submission = Submission(payload, context.db, max_parameters=context.settings.max_parameters)
    if dry_run:
        response.status_code = 200
        return _dry_run(context, submission, reuse=reuse)
    made: list[Job] = []

    def answer(job: Job) -> dict[str, Any]:
        made.append(job)
        return JobView.of(job).model_dump(mode="json")

    body, is_new = jobs.submit(
        context.db,
        submission.spec,
        answer=answer,
        queue=workers.queue_for(submission.spec.device),
        preset=submission.request.preset,
        metadata=submission.request.metadata,
        priority=submission.request.priority,
        max_attempts=context.settings.max_attempts,
        max_queued=context.settings.max_queued_jobs,
        idempotency=idempotency_of(idempotency_key, request, payload, reuse=reuse),
        reuse=_versions(context, submission.spec) if reuse else None,
        submitter=submitter,
    )
    headers = {"Location": f"/v1/jobs/{body['id']}"}
    if is_new:
        context.doorbell.ring(made[0])
    elif not made:
        headers["Idempotent-Replayed"] = "true"
    reused = body["state"] != "queued"  # as a job is that has just been made, also in an answer that was kept
    if reused:
        headers["Job-Reused"] = "true"
    return JSONResponse(body, status_code=200 if reused else 202, headers=headers)


@router.get("", summary="List jobs, newest first", responses=documented())
def listed(
    context: Wired,
    limit: Limit = 20,
    after: Cursor = None,
    state: Annotated[list[State] | None, Query(description="Only these; may be repeated.")] = None,
    preset: Annotated[str | None, Query(description="Only those of this preset.")] = None,
    sweep: Annotated[
        str | None, Query(pattern=SWEEP_ID, description="Only those of the sweep with this id.")
    ] = None,
) -> Page[JobView]:
    """A page of jobs."""
    found, has_more = jobs.page(
        context.db, limit=limit, after=after, states=state or (), preset=preset, sweep=sweep
    )
    return Page(
        data=[JobView.of(job) for job in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/{job_id}", summary="Look at a job", responses=documented(404))
def shown(context: Wired, job_id: JobId) -> JobView:
    """The job as it is now; while it is queued, with its place in the queue."""
    job = jobs.get(context.db, job_id)
    position = None
    if job.state == "queued":
        position = jobs.queue_position(context.db, priority=job.priority, job_id=job.id)
    return JobView.of(job, queue_position=position)


@router.patch(
    "/{job_id}",
    summary="Change a job's metadata or priority",
    responses=documented(400, 404, 409, 413, 415, 507),
    openapi_extra=_CHANGE_BODY,
)
def changed(context: Wired, job_id: JobId, payload: JsonObject) -> JobView:
    """Metadata may change at any time, the priority until the job has ended."""
    change = validated(JobChange, payload)
    job = jobs.edit(context.db, job_id, metadata=change.metadata, priority=change.priority)
    if job.state == "queued" and change.priority is not None:  # its message waits at the old one
        context.doorbell.ring(job)
    return JobView.of(job)


@router.delete("/{job_id}", status_code=204, summary="Delete a job", responses=documented(404, 409, 507))
def deleted(context: Wired, job_id: JobId) -> None:
    """Forget a job that has ended or is paused, with its events, metrics and checkpoints. A model that it
    made stays."""
    jobs.remove(context.db, job_id)


_MOVED: dict[int | str, dict[str, Any]] = {
    200: {"model": JobView, "description": "It was so already"},
    **documented(404, 409, 507),
}


def _moved(response: Response, moved: tuple[Job, bool]) -> JobView:
    job, has_changed = moved
    response.status_code = 202 if has_changed else 200
    return JobView.of(job)


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job", responses=_MOVED)
def cancelled(context: Wired, job_id: JobId, response: Response) -> JobView:
    """End a job. One that trains stops within about a second and keeps its checkpoints."""
    return _moved(response, jobs.cancel(context.db, job_id))


@router.post("/{job_id}/pause", status_code=202, summary="Pause a job", responses=_MOVED)
def paused(context: Wired, job_id: JobId, response: Response) -> JobView:
    """Stop a job for now. One that trains first stores a checkpoint."""
    return _moved(response, jobs.pause(context.db, job_id))


@router.post("/{job_id}/resume", status_code=202, summary="Resume a job", responses=_MOVED)
def resumed(context: Wired, job_id: JobId, response: Response) -> JobView:
    """Let a paused job go on; it ends with the weights that an uninterrupted run would have had."""
    job, has_changed = jobs.resume(context.db, job_id)
    if has_changed and job.state == "queued":
        context.doorbell.ring(job)
    return _moved(response, (job, has_changed))
