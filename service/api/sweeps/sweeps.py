"""Sweeps: many jobs from one request, looked at and cancelled as one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from service import sweep
from service.api.bodies import JsonObject
from service.api.context import Context, Wired
from service.api.guards.access import Submitting
from service.api.jobs import teachers
from service.api.jobs.jobs import (
    ASSUMED_SPEED,
    DEVICE_PREFIX,
    SWEEP_ID,
    KeyHeader,
    estimated_seconds,
    idempotency_of,
)
from service.api.jobs.submissions import JobRequest, Submission, validated
from service.api.problems import documented
from service.api.schemas import Limit, Page
from service.api.sweeps.sweep_views import SweepTable, SweepView
from service.errors import FieldError, Invalid
from service.figures import ranking
from service.mistakes import field_mistake
from service.spec import TrainingSpec
from service.store import jobs, sweeps, workers
from service.store.database import Database
from service.store.sweeps import MemberRow, Sweep
from service.sweep import Draw, Member

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])

Values = Annotated[list[Any], Field(min_length=1)]


class SweepRequest(JobRequest):
    """Many jobs: a base as for one, and either every combination of a grid or so many draws."""

    grid: Annotated[
        dict[str, Values] | None,
        Field(
            min_length=1,
            description="Values by field of the spec, such as `optimizer.learning_rate`; or whole blocks.",
        ),
    ] = None
    random: Annotated[dict[str, Draw] | None, Field(min_length=1, description="What is drawn, by field.")] = (
        None
    )
    count: Annotated[int | None, Field(ge=1, description="With `random`: how many members.")] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="With `random`: of the draws (0).")] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.grid is None) == (self.random is None):
            raise field_mistake("grid", "give either grid or random")
        if self.random is not None and self.count is None:
            raise field_mistake("count", "random needs it: say how many members")
        for name in ("count", "seed") if self.grid is not None else ():
            if getattr(self, name) is not None:
                raise field_mistake(name, "a grid draws nothing: leave this out, or vary the field seed")
        return self

    @property
    def size(self) -> int:
        return self.count or sweep.grid_size(self.grid or {})


class DryMember(BaseModel):
    """What a member would come to."""

    index: int
    changes: Annotated[dict[str, Any], Field(description="To the base, by field.")]
    parameter_count: int
    memory_bytes: int
    steps: Annotated[int | None, Field(description="Null: set by its budget of seconds.")]
    estimated_seconds: float


class SweepDryRun(BaseModel):
    """What a sweep would come to. Nothing is kept of it."""

    size: int
    parameter_count: Annotated[int, Field(description="Of the largest member.")]
    memory_bytes: Annotated[int, Field(description="Of the member that takes most.")]
    steps: Annotated[int | None, Field(description="Of all members; null where budgets of seconds set them.")]
    estimated_seconds: Annotated[float, Field(description="Of all members, one after another.")]
    estimate_basis: Annotated[
        Literal["measured", "assumed"], Field(description="measured: from jobs that have run here.")
    ]
    queue_position: Annotated[int, Field(description="Jobs that would go before it.")]
    metric: Annotated[str, Field(description="By which members would be ranked.")]
    warnings: list[str]
    spec: Annotated[TrainingSpec, Field(description="The base, with every default spelt out.")]
    members: list[DryMember]


class _Asked:
    """A sweep as it is asked for, read strictly and expanded. Raises Invalid."""

    def __init__(self, context: Context, payload: dict[str, Any]) -> None:
        self.request = validated(SweepRequest, payload)
        settings = context.settings
        most = min(settings.max_sweep_members, settings.max_queued_jobs)
        if self.request.size > most:
            where = "#/count" if self.request.grid is None else "#/grid"
            detail = (
                f"{self.request.size:,} members are over the limit of {most:,} (NUMERAL_MAX_SWEEP_MEMBERS, "
                "and no more than NUMERAL_MAX_QUEUED_JOBS)"
            )
            raise Invalid(detail, code="too_many_members", errors=[FieldError(where, detail)])
        base = {name: payload[name] for name in JobRequest.model_fields if name in payload}
        self.base = Submission(base, context.db, max_parameters=settings.max_parameters).spec
        self.members = [
            self._with_teacher(member, context.db) for member in self._members(settings.max_parameters)
        ]
        self.metric = ranking.usual_metric([member.spec for member in self.members])

    def _members(self, max_parameters: int) -> list[Member]:
        request = self.request
        named = "#" if request.preset is None else "#/preset"
        elsewhere = named if request.spec is None else "#/spec"
        if request.grid is not None:
            return sweep.of_grid(self.base, request.grid, elsewhere=elsewhere, max_parameters=max_parameters)
        assert request.random is not None, "one of the two is there"
        return sweep.at_random(
            self.base,
            request.random,
            count=request.size,
            seed=request.seed or 0,
            elsewhere=elsewhere,
            max_parameters=max_parameters,
        )

    def _with_teacher(self, member: Member, db: Database) -> Member:
        """A teacher that is varied is named by id as the base's has been."""
        taught, base = member.spec.distillation, self.base.distillation
        if taught is None or (base is not None and taught.teacher == base.teacher):
            return member
        varied = [field for field in member.changes if field.split(".")[0] == "distillation"]
        field = max(varied, key=lambda name: name.endswith("teacher"))
        where = f"#/random/{field}"
        if self.request.grid is not None:
            where = f"#/grid/{field}/{self.request.grid[field].index(member.changes[field])}"
        return replace(member, spec=teachers.named(db, member.spec, where=where))

    @property
    def search(self) -> dict[str, Any]:
        request = self.request
        if request.random is None:
            return {"grid": request.grid}
        draws = {name: draw.model_dump(exclude_unset=True) for name, draw in request.random.items()}
        return {"random": draws, "count": request.count, "seed": request.seed or 0}


_SUBMIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/SweepRequest"},
                "examples": {
                    "grid": {
                        "summary": "Every combination",
                        "value": {
                            "preset": "slp-200",
                            "spec": {"dataset": {"validation": 10_000}},
                            "grid": {"optimizer.learning_rate": [0.001, 0.01], "seed": [0, 1, 2]},
                        },
                    },
                    "random": {
                        "summary": "Ten draws",
                        "value": {
                            "spec": {"dataset": {"validation": 10_000}, "epochs": 3},
                            "random": {
                                "optimizer.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
                                "batch_size": {"low": 32, "high": 512, "log": True, "integer": True},
                                "network.hidden_widths": {"choices": [[64], [256], [256, 256]]},
                            },
                            "count": 10,
                            "seed": 0,
                        },
                    },
                },
            }
        },
    }
}

SweepId = Annotated[
    str, Path(description="Id of a sweep.", examples=["sweep_019ab3c4d5e67f80912a3b4c5d6e7f80"])
]
Cursor = Annotated[str | None, Query(pattern=SWEEP_ID, description="`next` of the page before.")]


@router.post(
    "",
    status_code=202,
    response_model=SweepTable | SweepDryRun,
    summary="Submit a sweep",
    responses={
        202: {
            "model": SweepTable,
            "description": "Accepted",
            "headers": {
                "Location": {"description": "The sweep's address.", "schema": {"type": "string"}},
                "Idempotent-Replayed": {
                    "description": "`true` if this Idempotency-Key has made the sweep before.",
                    "schema": {"type": "string"},
                },
            },
        },
        200: {"model": SweepDryRun, "description": "With `dry_run=true`: what the sweep would come to"},
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
    dry_run: Annotated[bool, Query(description="Only say what the sweep would come to.")] = False,
) -> SweepDryRun | JSONResponse:
    """The base is `preset`, `spec` or both, as for a job. With `grid` there is a member for every combination
    of the values, with `random` there are `count` different ones; each is a job of its own, with the `metadata`
    and the `priority` given here. Either all of them are accepted or, if one has a mistake or not all of them
    may wait, none.

    Fields are named as `optimizer.learning_rate`, and a whole block may be a value. What is laid over the base
    follows the rules of a preset's changes: a block whose `name` changes is replaced whole."""
    asked = _Asked(context, payload)
    if dry_run:
        response.status_code = 200
        return _dry_run(context, asked)
    body, made = sweeps.submit(
        context.db,
        asked.members,
        answer=_answer,
        spec=asked.base.model_dump(mode="json"),
        search=asked.search,
        metric=asked.metric,
        preset=asked.request.preset,
        metadata=asked.request.metadata,
        priority=asked.request.priority,
        max_attempts=context.settings.max_attempts,
        max_queued=context.settings.max_queued_jobs,
        idempotency=idempotency_of(idempotency_key, request, payload),
        submitter=submitter,
    )
    context.doorbell.ring(*made)
    headers = {"Location": f"/v1/sweeps/{body['id']}"} | ({} if made else {"Idempotent-Replayed": "true"})
    return JSONResponse(body, status_code=202, headers=headers)


def _answer(found: Sweep, rows: Sequence[MemberRow]) -> dict[str, Any]:
    return SweepTable.with_members(found, rows).model_dump(mode="json")


def _dry_run(context: Context, asked: _Asked) -> SweepDryRun:
    queues = {
        device: workers.queue_now(context.db, device)
        for device in {member.spec.device for member in asked.members}
    }
    measured = {
        where: jobs.measured_speed(context.db, device_prefix=DEVICE_PREFIX[where])
        for where in set(queues.values())
    }
    speeds = {where: speed or ASSUMED_SPEED[where] for where, speed in measured.items()}
    members = [
        _dry_member(index, member, speeds[queues[member.spec.device]])
        for index, member in enumerate(asked.members)
    ]
    steps = [member.steps for member in members]
    warning = ranking.warning(asked.metric)
    return SweepDryRun(
        size=len(members),
        parameter_count=max(member.parameter_count for member in members),
        memory_bytes=max(member.memory_bytes for member in members),
        steps=None if None in steps else sum(filter(None, steps)),
        estimated_seconds=sum(member.estimated_seconds for member in members),
        estimate_basis="measured" if all(measured.values()) else "assumed",
        queue_position=jobs.queue_position(context.db, priority=asked.request.priority),
        metric=asked.metric,
        warnings=[] if warning is None else [warning],
        spec=asked.base,
        members=members,
    )


def _dry_member(index: int, member: Member, speed: float) -> DryMember:
    return DryMember(
        index=index,
        changes=member.changes,
        parameter_count=member.spec.parameter_count,
        memory_bytes=member.spec.memory_bytes,
        steps=None if member.spec.planned is None else member.spec.planned.steps,
        estimated_seconds=estimated_seconds(member.spec, speed),
    )


@router.get("", summary="List sweeps, newest first", responses=documented())
def listed(context: Wired, limit: Limit = 20, after: Cursor = None) -> Page[SweepView]:
    """A page of sweeps, without their members."""
    found, has_more = sweeps.page(context.db, limit=limit, after=after)
    return Page(
        data=[SweepView.of(one) for one in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/{sweep_id}", summary="Look at a sweep and its members", responses=documented(404))
def shown(
    context: Wired,
    sweep_id: SweepId,
    sort: Annotated[
        str | None,
        Query(
            max_length=64,
            description="Metric to rank by, such as `validation_loss`; or `index`. Unset: validation_accuracy if "
            "every member holds data out, else test_accuracy; of a regression the loss.",
        ),
    ] = None,
) -> SweepTable:
    """All members in one table, the best first. A member whose job was deleted stays in it, as `deleted`."""
    return SweepTable.with_members(*sweeps.get_with_members(context.db, sweep_id), sort)


@router.post(
    "/{sweep_id}/cancel",
    status_code=202,
    summary="Cancel a sweep",
    responses={200: {"model": SweepView, "description": "Nothing was left to end"}, **documented(404, 507)},
)
def cancelled(context: Wired, sweep_id: SweepId, response: Response) -> SweepView:
    """End every member that has not ended. Those that train stop within about a second and keep their
    checkpoints; those that have ended stay as they are."""
    found, has_changed = sweeps.cancel(context.db, sweep_id)
    response.status_code = 202 if has_changed else 200
    return SweepView.of(found)
