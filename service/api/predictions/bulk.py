"""Batches: large sets of images, read in the background, and their answers to be fetched."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from service.api import bodies
from service.api.context import Context, Wired
from service.api.guards.access import Submitting
from service.api.jobs.jobs import KeyHeader
from service.api.predictions.intake import Intake
from service.api.predictions.predictions import Preprocess
from service.api.predictions.streams import MEDIA_TYPE, LineScale
from service.api.problems import documented
from service.api.schemas import Limit, Page, Time, maybe_rfc3339, rfc3339
from service.data.digits import Scale
from service.errors import Conflict, ServiceError
from service.store import batches, blobs
from service.store.batches import Batch, Body, Kind, State
from service.store.jobs import Idempotency
from service.store.models import LATEST

router = APIRouter(prefix="/v1/batches", tags=["batches"])


class BatchNotFinished(Conflict):
    code = "batch_not_finished"


class Counts(BaseModel):
    """How far it is, in images."""

    total: int
    done: Annotated[int, Field(description="Answered, errors among them.")]
    errors: Annotated[int, Field(description="Of those, which could not be read.")]


class BatchError(BaseModel):
    """Why a batch failed."""

    code: str
    detail: str


class BatchView(BaseModel):
    """A set of images that is read in the background."""

    id: str
    state: State
    model_id: Annotated[
        str, Field(description="Of the model that reads all of it, fixed when it was accepted.")
    ]
    kind: Annotated[Kind, Field(description="What its body was.")]
    preprocess: Literal["auto", "mnist", "none"] | None
    scale: Scale
    size_bytes: Annotated[int, Field(description="Of its body.")]
    counts: Counts
    attempt: Annotated[int, Field(description="How often a worker has taken it.")]
    error: BatchError | None
    results: Annotated[str | None, Field(description="Where its answers are; null until it has ended.")]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None

    @classmethod
    def of(cls, batch: Batch) -> "BatchView":
        return cls(
            id=batch.id,
            state=batch.state,
            model_id=batch.model_id,
            kind=batch.kind,
            preprocess=batch.preprocess,
            scale=batch.scale,
            size_bytes=batch.body_size,
            counts=Counts(total=batch.total, done=batch.done, errors=batch.errors),
            attempt=batch.attempt,
            error=None if batch.error is None else BatchError(**batch.error),
            results=f"/v1/batches/{batch.id}/results" if batch.is_terminal else None,
            created_at=rfc3339(batch.created_at),
            started_at=maybe_rfc3339(batch.started_at),
            finished_at=maybe_rfc3339(batch.finished_at),
        )


BatchId = Annotated[
    str, Path(description="Id of a batch.", examples=["batch_019ab3c4d5e67f80912a3b4c5d6e7f80"])
]
Cursor = Annotated[
    str | None, Query(pattern="^batch_[0-9a-f]{32}$", description="`next` of the page before.")
]
_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "Told by its content. Lines are those of `POST /v1/predict/stream`; pixels are 784 bytes an image, "
        "rows from the top, white ink on black; a ZIP holds up to 100,000 image files.",
        "content": {
            MEDIA_TYPE: {"schema": {"type": "string"}, "example": '{"id": "a", "image": "iVBORw0KGgo="}\n'},
            "application/octet-stream": _FILE,
            "application/zip": _FILE,
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=BatchView,
    summary="Submit a batch",
    responses={
        202: {
            "model": BatchView,
            "description": "Accepted",
            "headers": {
                "Location": {"description": "The batch's address.", "schema": {"type": "string"}},
                "Idempotent-Replayed": {
                    "description": "`true` if this Idempotency-Key has made the batch before.",
                    "schema": {"type": "string"},
                },
            },
        },
        **documented(400, 404, 409, 413, 415, 507),
    },
    openapi_extra=_BODY,
)
async def create(
    context: Wired,
    request: Request,
    submitter: Submitting,
    model: Annotated[
        str, Query(description="A model's id, `latest` (the newest classifier), or an alias.")
    ] = LATEST,
    preprocess: Preprocess = None,
    scale: LineScale = "byte",
    idempotency_key: KeyHeader = None,
) -> JSONResponse:
    """The body is stored as it comes, however large (up to NUMERAL_MAX_BATCH_BYTES), and read in the background by the
    model that the reference stands for now. An image that cannot be read costs its own answer only."""
    pinned = await run_in_threadpool(context.classifier.resolve, model)
    intake = Intake(context, bodies.media_type(request))
    body = await intake.receive(request)
    idempotency = None
    if idempotency_key is not None:
        asked = f"POST /v1/batches\n{model} {preprocess} {scale}\n{intake.sha256}"
        idempotency = Idempotency(idempotency_key, hashlib.sha256(asked.encode()).hexdigest())

    def submit() -> tuple[dict[str, Any], Batch | None]:
        fields = {"model_id": pinned.id, "preprocess": preprocess, "scale": scale, "submitter": submitter}
        return _submitted(context, body, intake, idempotency, fields)

    told, made = await run_in_threadpool(submit)
    headers = {"Location": f"/v1/batches/{told['id']}"}
    if made is None:
        headers["Idempotent-Replayed"] = "true"
    else:
        context.doorbell.ring(made)
    return JSONResponse(told, status_code=202, headers=headers)


def _submitted(
    context: Context, body: Body, intake: Intake, idempotency: Idempotency | None, fields: dict[str, Any]
) -> tuple[dict[str, Any], Batch | None]:
    try:
        told, made = batches.submit(
            context.db,
            body,
            answer=lambda batch: BatchView.of(batch).model_dump(mode="json"),
            max_attempts=context.settings.max_attempts,
            idempotency=idempotency,
            **fields,
        )
    except ServiceError as error:
        if error.status < 500:  # else it may be stored all the same: a connection can break at the commit
            intake.discard()
        raise
    if made is None:
        intake.discard()
    return told, made


@router.get("", summary="List batches, newest first", responses=documented())
def listed(
    context: Wired,
    limit: Limit = 20,
    after: Cursor = None,
    state: Annotated[list[State] | None, Query(description="Only these; may be repeated.")] = None,
) -> Page[BatchView]:
    """A page of batches."""
    found, has_more = batches.page(context.db, limit=limit, after=after, states=state or ())
    return Page(
        data=[BatchView.of(batch) for batch in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/{batch_id}", summary="Look at a batch", responses=documented(404))
def shown(context: Wired, batch_id: BatchId) -> BatchView:
    """The batch as it is now."""
    return BatchView.of(batches.get(context.db, batch_id))


@router.post(
    "/{batch_id}/cancel",
    status_code=202,
    summary="Cancel a batch",
    responses={200: {"model": BatchView, "description": "It was so already"}, **documented(404, 409, 507)},
)
def cancelled(context: Wired, batch_id: BatchId, response: Response) -> BatchView:
    """End a batch. What it has answered stays and can be fetched."""
    batch, has_changed = batches.cancel(context.db, batch_id)
    response.status_code = 202 if has_changed else 200
    return BatchView.of(batch)


@router.delete("/{batch_id}", status_code=204, summary="Delete a batch", responses=documented(404, 409, 507))
def deleted(context: Wired, batch_id: BatchId) -> None:
    """Forget a batch that has ended, with its answers."""
    batches.remove(context.db, batch_id)


@router.get(
    "/{batch_id}/results",
    response_class=StreamingResponse,
    summary="Fetch a batch's answers",
    responses={
        200: {
            "description": "A line for each image, in order, as `POST /v1/predict/stream` has them; of a ZIP with "
            "the file's `name`",
            "content": {
                MEDIA_TYPE: {
                    "schema": {"type": "string"},
                    "example": '{"line":1,"id":"a","label":7,"confidence":0.99,"probabilities":[0.01],"warnings":[]}\n',
                }
            },
        },
        **documented(404, 409),
    },
)
def results(context: Wired, batch_id: BatchId) -> Response:
    """All answers of a batch that has ended; one that failed or was cancelled gives those that it has."""
    batch = batches.get(context.db, batch_id)
    if not batch.is_terminal:
        raise BatchNotFinished(
            f"the batch is {batch.state}, {batch.done:,} of {batch.total:,} are answered: look again later, or cancel it"
        )
    rows = blobs.read_rows(context.db, batch.results_blob, batch.results_rows)
    headers = {"Content-Length": str(batch.results_size)}  # so that a broken download is seen to be one
    return StreamingResponse(rows, headers=headers, media_type=MEDIA_TYPE)
