"""The Open Inference Protocol, version 2, with Triton's extensions for binary tensors, classification,
statistics and the model repository: what other servers' clients speak.

`digits` is the model: it has every version that reads digits, and without a version it is the newest.
`latest`, an alias and a model's id are names of one version each.
"""

import time
import zlib
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from service.api import bodies, health
from service.api.bodies import RawBody
from service.api.context import Context, Wired
from service.api.inference import tensors
from service.api.inference.inference_schemas import (
    INDEX_BODY,
    INFERENCE_BODY,
    LENGTH_HEADER,
    LOAD_BODY,
    UNLOAD_BODY,
    IndexEntry,
    InferenceResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    StatisticsResponse,
    TensorMetadata,
)
from service.api.problems import PROTOCOL, of_protocol
from service.api.statistics import Spans
from service.errors import BadRequest, NotFound, PayloadTooLarge, Unavailable, UnsupportedMedia
from service.serving.classifier import Loaded, NoModel
from service.store import models
from service.store.models import FAMILY, LATEST, Model

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "parameters", "statistics")
LISTED = 1000  # versions in a list, newest first
PLATFORM = "numeral_safetensors"

router = APIRouter(prefix=PROTOCOL, tags=["inference protocol"])

Name = Annotated[
    str,
    Path(
        description=f"`{FAMILY}`, `{LATEST}`, an alias, or a model's id.",
        examples=[FAMILY, "champion", "model_019ab3c4d5e67f80912a3b4c5d6e7f80"],
    ),
]
Version = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of a model version.", examples=[1])]


# The server


@router.get("/", response_model=ServerMetadata, include_in_schema=False)
@router.get("", summary="What this server is", responses=of_protocol())
async def server(request: Request) -> ServerMetadata:
    """Name, version and extensions."""
    return ServerMetadata(name="numeral", version=request.app.version, extensions=list(EXTENSIONS))


@router.get("/health/live", summary="Is the server up", responses=of_protocol())
async def live() -> Live:
    """Answers as long as the process does."""
    return Live(live=True)


@router.get("/health/ready", summary="Can the server infer", responses=of_protocol())
def ready(context: Wired) -> Ready:
    """200 if the database is there and the newest model, if there is one, is loaded; else 503. Jobs need
    more: see `/readyz`."""
    missing = [name for name, found in health.storage(context).items() if found != health.READY]
    if missing:
        raise Unavailable(f"not ready: {', '.join(missing)}", code="not_ready")
    with suppress(NoModel):  # none is trained yet, and all there are can be served
        if not context.classifier.is_unloaded(_resolved(context, LATEST, None).id):
            _loaded(context, LATEST, None)
    return Ready(ready=True)


# Statistics come before models, so that none is taken for a model's name


@router.get("/models/stats", summary="Count what was asked of all models", responses=of_protocol())
def all_statistics(context: Wired) -> StatisticsResponse:
    """Of every version that was asked, under the name `digits`."""
    shown = context.statistics.shown
    return StatisticsResponse(
        model_stats=[shown(FAMILY, version) for version in context.statistics.versions()]
    )


@router.get(
    "/models/{name}/stats", summary="Count what was asked of a model", responses=of_protocol(404, 409)
)
def statistics(context: Wired, name: Name) -> StatisticsResponse:
    """Of the version that the name stands for; of `digits`, of every version that was asked as well."""
    versions = {_resolved(context, name, None).version}
    if name == FAMILY:
        versions |= set(context.statistics.versions())
    return StatisticsResponse(
        model_stats=[context.statistics.shown(name, version) for version in sorted(versions)]
    )


@router.get(
    "/models/{name}/versions/{version}/stats",
    summary="Count what was asked of a model version",
    responses=of_protocol(404, 409),
)
def version_statistics(context: Wired, name: Name, version: Version) -> StatisticsResponse:
    """Of this version, zeros if it was never asked."""
    found = _resolved(context, name, version).version
    return StatisticsResponse(model_stats=[context.statistics.shown(name, found)])


# Models


@router.get("/models/{name}", summary="Look at a model's tensors", responses=of_protocol(404, 409))
def metadata(context: Wired, name: Name) -> ModelMetadata:
    """Its versions, newest first, and what goes in and comes out."""
    return _metadata(context, name, None)


@router.get(
    "/models/{name}/versions/{version}",
    summary="Look at a model version's tensors",
    responses=of_protocol(404, 409),
)
def version_metadata(context: Wired, name: Name, version: Version) -> ModelMetadata:
    """What goes in and comes out."""
    return _metadata(context, name, version)


@router.get("/models/{name}/ready", summary="Can a model infer", responses=of_protocol(404, 409))
def model_ready(context: Wired, name: Name) -> ModelReady:
    """200 if a request would be answered, for which the model is loaded. 503 after an unload, until a load
    or a request."""
    return _ready(context, name, None)


@router.get(
    "/models/{name}/versions/{version}/ready",
    summary="Can a model version infer",
    responses=of_protocol(404, 409),
)
def version_ready(context: Wired, name: Name, version: Version) -> ModelReady:
    """As without a version."""
    return _ready(context, name, version)


LengthHeader = Annotated[
    str | None,
    Header(
        alias=LENGTH_HEADER,
        description="Bytes of JSON, before the binary data.",
        json_schema_extra={"pattern": tensors.LENGTH.pattern},
    ),
]
_INFERENCE: dict[str, Any] = {
    "response_model": InferenceResponse,
    "responses": of_protocol(400, 404, 409, 413, 415),
    "openapi_extra": INFERENCE_BODY,
}


@router.post("/models/{name}/infer", summary="Infer", **_INFERENCE)
def infer(
    context: Wired, request: Request, raw: RawBody, name: Name, length: LengthHeader = None
) -> Response:
    """Images in as one tensor, `probabilities`, `label` and `confidence` out as tensors."""
    return _inferred(context, request, raw, length, name, None)


@router.post("/models/{name}/versions/{version}/infer", summary="Infer with a model version", **_INFERENCE)
def version_infer(
    context: Wired,
    request: Request,
    raw: RawBody,
    name: Name,
    version: Version,
    length: LengthHeader = None,
) -> Response:
    """As without a version."""
    return _inferred(context, request, raw, length, name, version)


# The model repository


@router.post(
    "/repository/index",
    summary="List models",
    responses=of_protocol(400, 413),
    openapi_extra=INDEX_BODY,
)
def index(context: Wired, raw: RawBody) -> list[IndexEntry]:
    """Every version of `digits`, newest first (of more than 1,000, those), then `latest` and the aliases.
    With `ready`, those in memory."""
    only_ready = _body(raw, "ready").get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequest("ready must be true or false")
    versions = models.classifiers(context.db, limit=LISTED)
    numbers = dict(versions)
    named = [(FAMILY, model_id) for model_id, _ in versions]
    named += [(name, it) for name, it in sorted(models.pointers(context.db).items()) if it in numbers]
    entries = [_entry(context, name, model_id, numbers[model_id]) for name, model_id in named]
    return [entry for entry in entries if entry.state == "READY" or not only_ready]


@router.post(
    "/repository/models/{name}/load",
    summary="Load a model",
    responses=of_protocol(400, 404, 409, 413),
    response_class=Response,
    openapi_extra=LOAD_BODY,
)
def load(context: Wired, raw: RawBody, name: Name) -> Response:
    """Bring the model that the name stands for into this process's memory, so that the first request need
    not wait for it. What a model is cannot be changed: no parameter is known."""
    tensors.parameters(_body(raw, "parameters"), "a load", {})
    _loaded(context, name, None)
    return Response()


@router.post(
    "/repository/models/{name}/unload",
    summary="Unload a model",
    responses=of_protocol(400, 404, 409, 413),
    response_class=Response,
    openapi_extra=UNLOAD_BODY,
)
def unload(context: Wired, raw: RawBody, name: Name) -> Response:
    """Drop the model that the name stands for from this process's memory. No request fails for it: the next
    one that needs the model loads it again. Nothing is deleted."""
    tensors.parameters(_body(raw, "parameters"), "an unload", {"unload_dependents": bool})  # none has any
    context.classifier.unload(_resolved(context, name, None).id)
    return Response()


# What the routes share


def _resolved(context: Context, name: str, version: int | None) -> Model:
    """The model, by the database. Raises NotFound, NoModel and NotAClassifier."""
    if name == FAMILY and version is not None:
        found = models.of_version(context.db, version)
        if found.task != "classification":
            raise NotFound(f"version {version} is a {found.task} and none of {FAMILY}")
        return found
    found = context.classifier.resolve(LATEST if name == FAMILY else name)
    if version not in (None, found.version):
        raise NotFound(f"{name} has no version {version}: it stands for version {found.version}")
    return found


def _loaded(context: Context, name: str, version: int | None) -> Loaded:
    """The model, in memory. Raises as `_resolved`, and ModelDamaged."""
    if version is None:
        return context.classifier.loaded(LATEST if name == FAMILY else name)
    return context.classifier.loaded(_resolved(context, name, version).id)


def _metadata(context: Context, name: str, version: int | None) -> ModelMetadata:
    versions = [_resolved(context, name, version).version]
    if name == FAMILY and version is None:
        versions = [number for _, number in models.classifiers(context.db, limit=LISTED)]
    return ModelMetadata(
        name=name,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=[TensorMetadata(name=tensors.INPUT, datatype="FP32", shape=[-1, tensors.PIXELS])],
        outputs=[
            TensorMetadata(
                name=output,
                datatype=datatype,
                shape=[-1, tensors.CLASSES] if output == "probabilities" else [-1],
            )
            for output, datatype in tensors.OUTPUTS.items()
        ],
    )


def _ready(context: Context, name: str, version: int | None) -> ModelReady:
    found = _resolved(context, name, version)
    if context.classifier.is_unloaded(found.id):
        raise Unavailable(f"{name} is unloaded: load it, or send a request", code="unloaded")
    _loaded(context, name, version)
    return ModelReady(name=name, ready=True)


def _entry(context: Context, name: str, model_id: str, version: int) -> IndexEntry:
    reason = context.classifier.absence(model_id)
    state = "UNAVAILABLE" if reason else "READY"
    return IndexEntry(name=name, version=str(version), state=state, reason=reason)


def _body(raw: bytes, *known: str) -> dict[str, Any]:
    """A JSON object with these fields, or nothing."""
    return tensors.fields(bodies.decode(raw) if raw.strip() else {}, "the request", known)


def _inferred(
    context: Context, request: Request, raw: bytes, length: str | None, name: str, version: int | None
) -> Response:
    loaded = _loaded(context, name, version)
    served = loaded.model.version
    began = time.perf_counter_ns()
    try:
        body = _unpacked(request.headers.get("content-encoding", ""), raw, context.settings.max_body_bytes)
        inference = tensors.decode(body, length, max_images=context.settings.max_images)
        read = time.perf_counter_ns()
        logits = context.batcher.logits_in_thread(loaded.network, inference.pixels)
        probabilities = loaded.predicted(logits, inference.pixels).probabilities
        inferred = time.perf_counter_ns()
        answer = tensors.encode(inference, probabilities, name=name, version=str(served))
    except Exception:
        context.statistics.failed(served, time.perf_counter_ns() - began)
        raise
    spans = Spans(read - began, inferred - read, time.perf_counter_ns() - inferred)
    context.statistics.succeeded(served, len(probabilities), spans)
    if answer.header_length is None:
        return Response(answer.body, media_type="application/json")
    headers = {LENGTH_HEADER: str(answer.header_length)}
    return Response(answer.body, headers=headers, media_type="application/octet-stream")


def _unpacked(coding: str, raw: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding. Raises UnsupportedMedia, BadRequest and PayloadTooLarge."""
    if coding.lower() in ("", "identity"):
        return raw
    if coding.lower() not in ("gzip", "deflate"):
        raise UnsupportedMedia("Content-Encoding must be gzip or deflate, if there is one")
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # of either kind, by its first bytes
    try:
        body = unpacking.decompress(raw, limit)
    except zlib.error as error:
        raise BadRequest(f"the body is not {coding.lower()}: {error}") from None
    if unpacking.unconsumed_tail:
        raise PayloadTooLarge(f"the body unpacks to over {limit:,} bytes (NUMERAL_MAX_BODY_BYTES)")
    if not unpacking.eof or unpacking.unused_data:
        raise BadRequest(f"the body is not one whole {coding.lower()} stream")
    return body
