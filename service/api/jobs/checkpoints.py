"""Checkpoints and their download, as they are stored or as ONNX."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from service.api.context import Context, Wired
from service.api.jobs.jobs import JobId
from service.api.problems import documented
from service.api.schemas import Page, SpecJson, Time, matches, rfc3339
from service.checkpoints import CorruptCheckpoint, decode_weights
from service.errors import Conflict, RangeNotSatisfiable
from service.serving.confidence import Calibration
from service.store import blobs, checkpoints, jobs, models
from service.store.blobs import Damaged
from service.store.checkpoints import Checkpoint
from service.store.database import Database

OCTETS = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

router = APIRouter(prefix="/v1", tags=["checkpoints"])

CheckpointId = Annotated[str, Path(description="Id of a checkpoint.")]


class CheckpointDamaged(Conflict):
    code = "checkpoint_damaged"


class CheckpointView(BaseModel):
    """The weights of a job at one step."""

    id: str
    job_id: str | None
    attempt: int
    step: int
    epoch: float
    reason: Literal["scheduled", "final", "paused", "released"]
    metrics: dict[str, float]
    spec: SpecJson
    weights_sha256: str
    size_bytes: int
    is_resumable: bool
    is_damaged: bool
    download: str
    created_at: Time

    @classmethod
    def of(cls, header: Checkpoint) -> "CheckpointView":
        return cls(
            id=header.id,
            job_id=header.job_id,
            attempt=header.attempt,
            step=header.step,
            epoch=header.epoch,
            reason=header.reason,
            metrics=header.metrics,
            spec=header.spec,
            weights_sha256=header.weights_sha256,
            size_bytes=header.weights_size,
            is_resumable=header.state_blob is not None and not header.bad,
            is_damaged=header.bad,
            download=f"/v1/checkpoints/{header.id}/download",
            created_at=rfc3339(header.created_at),
        )


@router.get("/jobs/{job_id}/checkpoints", summary="A job's checkpoints", responses=documented(404))
def of_job(context: Wired, job_id: JobId) -> Page[CheckpointView]:
    """All that are kept, newest first."""
    jobs.get(context.db, job_id)
    found = checkpoints.of_job(context.db, job_id)
    return Page(data=[CheckpointView.of(header) for header in found], has_more=False, next=None)


@router.get("/checkpoints/{checkpoint_id}", summary="Look at a checkpoint", responses=documented(404))
def shown(context: Wired, checkpoint_id: CheckpointId) -> CheckpointView:
    """Where it stands and what it measured."""
    return CheckpointView.of(checkpoints.get(context.db, checkpoint_id))


_BYTES = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file", "content": _BYTES},
    206: {"description": "The range that was asked for", "content": _BYTES},
    304: {"description": "The file that you have is the same"},
    **documented(404, 409, 416),
}
_Header = Annotated[str | None, Header()]


FileFormat = Annotated[
    Literal["safetensors", "onnx"],
    Query(
        alias="format",
        description="safetensors: the file as it is stored. onnx: float32 pixels (n, 784) from 0 to 255 to `logits` and "
        "`probabilities`, calibrated as the checkpoint's model is.",
    ),
]


@router.head("/checkpoints/{checkpoint_id}/download", include_in_schema=False)
@router.get(
    "/checkpoints/{checkpoint_id}/download",
    response_class=Response,
    summary="Download the weights",
    responses=_DOWNLOAD,
)
def download(
    context: Wired,
    request: Request,
    checkpoint_id: CheckpointId,
    file_format: FileFormat = "safetensors",
    if_none_match: _Header = None,
    if_range: _Header = None,
    range_: Annotated[str | None, Header(alias="Range", description="One range of bytes.")] = None,
) -> Response:
    """A file that alone rebuilds the network: its spec is in the metadata. The ETag is the SHA-256 of the
    bytes, which are checked before the first is sent. As ONNX it is made anew for each request, its metadata the id of
    the model, the SHA-256 of spec and weights, and the version of what makes the input of a picture."""
    file = _FORMATS[file_format](context, checkpoints.get(context.db, checkpoint_id))
    etag = f'"{file.sha256}"'
    common = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers=common)
    size = file.size
    asked = None
    if range_ is not None and if_range in (None, etag):
        asked = _range(range_, size)
    start, stop = asked or (0, size)
    headers = common | {
        "Content-Length": str(stop - start),
        "Content-Disposition": f'attachment; filename="{file.stem}.{file_format}"',
    }
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 200 if asked is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=OCTETS)
    return StreamingResponse(file.read(start, stop), status, headers=headers, media_type=OCTETS)


@dataclass(frozen=True)
class _Served:
    """A file to send: what it is called, and its bytes from one place up to another."""

    stem: str
    sha256: str
    size: int
    read: Callable[[int, int], Iterable[bytes]]


def _stored(context: Context, header: Checkpoint) -> _Served:
    """As it lies in the store, a piece at a time."""

    def read(start: int, stop: int) -> Iterable[bytes]:
        _check(context.db, header)
        return blobs.read(context.db, header.weights_blob, start=start, stop=stop)

    return _Served(_stem(header), header.weights_sha256, header.weights_size, read)


def _exported(context: Context, header: Checkpoint) -> _Served:
    from service.serving.export import TooLarge, to_onnx  # it brings ONNX, which few processes have a use for

    model = models.of_checkpoint(context.db, header.id)
    calibration = None if model is None else Calibration.of_json(model.calibration)
    with context.decoding, _telling_damage():
        weights = decode_weights(checkpoints.weights(context.db, header))
        facts = {
            "checkpoint_id": header.id,
            "model_id": "" if model is None else model.id,
            "preprocessing": str(weights.metadata.get("preprocessing", "")),
            "spec_sha256": weights.spec.sha256,
            "weights_sha256": header.weights_sha256,
        }
        try:
            data = to_onnx(
                weights, temperature=1.0 if calibration is None else calibration.temperature, facts=facts
            )
        except TooLarge as error:
            raise Conflict(f"{error}: take it as safetensors", code="too_large_for_onnx") from None
    return _Served(
        _stem(header), hashlib.sha256(data).hexdigest(), len(data), lambda start, stop: [data[start:stop]]
    )


_FORMATS: dict[str, Callable[[Context, Checkpoint], _Served]] = {"safetensors": _stored, "onnx": _exported}


def _stem(header: Checkpoint) -> str:
    return f"{header.id}-step{header.step}"


def _range(value: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None if `value` is no single range, which RFC 9110 (section
    14.2) lets a server pass over. Raises RangeNotSatisfiable."""
    found = _RANGE.fullmatch(value.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        start, stop = max(size - int(found[2]), 0), size
    else:
        start, stop = int(found[1]), min(int(found[2] or size) + 1, size)
        if found[2] and int(found[2]) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiable(
            f"the file has {size:,} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, stop


def _check(db: Database, header: Checkpoint) -> None:
    with _telling_damage():
        checkpoints.check_weights(db, header)


@contextmanager
def _telling_damage() -> Iterator[None]:
    """Raises CheckpointDamaged for bytes that are not what was stored, or no checkpoint."""
    try:
        yield
    except (Damaged, CorruptCheckpoint) as damage:
        raise CheckpointDamaged(f"{damage}: take another checkpoint of the job") from damage
