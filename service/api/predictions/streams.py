"""Any number of images as lines of JSON, each answered by a line as they come, in constant memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api import bodies
from service.api.context import Context, Wired
from service.api.models import ModelRef
from service.api.predictions.batches import Way
from service.api.predictions.predictions import Preprocess, encoded, predicted, unread
from service.api.problems import documented
from service.data.digits import Mode, Scale
from service.errors import BadRequest, FieldError, PayloadTooLarge, ServiceError
from service.serving.batcher import Batcher, Overloaded
from service.serving.classifier import Loaded
from service.settings import Settings
from service.store.models import LATEST

MEDIA_TYPE = "application/x-ndjson"
WAIT_SECONDS = 0.1  # between two tries while the network has too much to do
CHUNK = 256  # lines that go through the network at once, if so many are there
FIELDS = ("id", "image", "pixels")
MAX_ID = 1024  # characters

router = APIRouter(prefix="/v1", tags=["predictions"])

_LINE = (
    "One image a line: 784 numbers, 28 rows of 28, or an object with these as `pixels`, or as `image`, which may "
    "also be an image file in base64; and an `id`, which comes back."
)
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": f"{_LINE} Empty lines are passed over, and no line at all is answered with none.",
        "content": {
            MEDIA_TYPE: {"schema": {"type": "string"}, "example": '{"id": "a", "image": "iVBORw0KGgo="}\n'}
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A line for each line: its number as `line`, its `id`, and a prediction, or the problem "
        "as `error`",
        "headers": {
            "X-Model": {
                "schema": {"type": "string"},
                "description": "Id of the model that answers all lines.",
            },
            "X-Model-Version": {"schema": {"type": "integer"}, "description": "Its version."},
        },
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": '{"line":1,"id":"a","label":7,"confidence":0.99,"probabilities":[0.01],"warnings":[]}\n',
            }
        },
    }
}
LineScale = Annotated[
    Scale, Query(description="Of numbers, in all lines. byte: 0 to 255; unit: 0 to 1. White ink on black.")
]


@router.post(
    "/predict/stream",
    summary="Read any number of digits with the latest model",
    response_class=StreamingResponse,
    responses=_ANSWER | documented(409),
    openapi_extra=_BODY,
)
async def predict(
    context: Wired, request: Request, preprocess: Preprocess = None, scale: LineScale = "byte"
) -> Response:
    """Lines of JSON in, lines of JSON out, in their order and while they come, however many. A line that is
    wrong costs its own answer only. Read while you send: who does not is waited for."""
    return await _answers(context, request, LATEST, preprocess, scale)


@router.post(
    "/models/{reference}/predict/stream",
    summary="Read any number of digits with a model",
    response_class=StreamingResponse,
    responses=_ANSWER | documented(404, 409),
    openapi_extra=_BODY,
)
async def predict_with(
    context: Wired,
    request: Request,
    reference: ModelRef,
    preprocess: Preprocess = None,
    scale: LineScale = "byte",
) -> Response:
    """As `POST /v1/predict/stream`, with the model that the reference stands for."""
    return await _answers(context, request, reference, preprocess, scale)


async def _answers(
    context: Context, request: Request, reference: str, mode: Mode | None, scale: Scale
) -> Response:
    loaded = await run_in_threadpool(context.classifier.loaded, reference)
    reader = Reader(context.settings, context.batcher, loaded, request.scope, mode, scale)
    headers = {"X-Model": loaded.model.id, "X-Model-Version": str(loaded.model.version)}
    body = await _begun(request) if "expect" in request.headers else request.stream()
    return _Duplex(_answered(body, reader), headers=headers, media_type=MEDIA_TYPE)


async def _begun(request: Request) -> AsyncIterator[bytes]:
    """The body, whose begin is awaited: that is what makes the server say 100 to a client that waits for it.
    Once the answer has begun it would not, and the client need not send anything."""
    body = request.stream()
    first = await anext(body)

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for data in body:
            yield data

    return whole()


class _Duplex(StreamingResponse):
    """One whose content reads the request: the usual one reads it too, to see whether the client left."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _answered(body: AsyncIterator[bytes], reader: "Reader") -> AsyncIterator[bytes]:
    """Answers what lines there are whenever some came, so that nothing waits for a chunk to be full; while
    they are answered the next ones gather."""
    lines = Lines(reader.settings.max_json_bytes)
    try:
        async for data in body:
            found = lines.feed(data) if data else lines.end()
            for start in range(0, len(found), CHUNK):
                yield await _patiently(reader, found[start : start + CHUNK])
    except ClientDisconnect:
        return  # nobody is there to read an answer


async def _patiently(reader: "Reader", lines: list["Line"]) -> bytes:
    """The answers, once there is room for the lines: a stream can be held back, so it need not be refused."""
    while True:
        try:
            return await run_in_threadpool(reader.answer, lines)
        except Overloaded:
            await asyncio.sleep(WAIT_SECONDS)


@dataclass(frozen=True)
class Line:
    """A line of the body, its number counted from 1."""

    number: int
    text: bytes


class Lines:
    """Cuts a body into lines as it comes. Keeps one byte over the limit of a line that is longer."""

    def __init__(self, limit: int) -> None:
        self._kept = limit + 1
        self._partial = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> list[Line]:
        """The lines that end in these bytes, without empty ones."""
        *ended, rest = data.split(b"\n")
        found = [line for piece in ended if (line := self._ended(piece)).text.strip()]
        self._add(rest)
        return found

    def end(self) -> list[Line]:
        """What stands behind the last line's end."""
        return self.feed(b"\n")

    def _ended(self, piece: bytes) -> Line:
        self._add(piece)
        self._number += 1
        line = Line(self._number, bytes(self._partial))
        self._partial.clear()
        return line

    def _add(self, piece: bytes) -> None:
        self._partial += piece[: self._kept - len(self._partial)]


@dataclass(frozen=True)
class _Item:
    """What a line holds: an image and where it stands, or an error."""

    told: dict[str, Any]  # the number, and the id if there is one
    image: object = None
    place: str = "#"
    error: ServiceError | None = None


@dataclass(frozen=True)
class Reader:
    """Lines -> lines, with one model. A line is limited by `max_json_bytes` of the settings."""

    settings: Settings
    batcher: Batcher
    loaded: Loaded
    scope: Scope
    mode: Mode | None
    scale: Scale

    def answer(self, lines: list[Line]) -> bytes:
        """The answers to some lines, in their order."""
        return written(self.told(lines))

    def told(self, lines: list[Line]) -> list[dict[str, Any]]:
        """The same, for `written`."""
        items = [self._item(line) for line in lines]
        read = [item for item in items if item.error is None]
        predictions = iter(self._predicted(read) if read else [])
        return [item.told | (self._problem(item) or next(predictions)) for item in items]

    def _predicted(self, items: list[_Item]) -> list[dict[str, Any]]:
        images, places = [item.image for item in items], [item.place for item in items]
        way = Way(self.settings, self.loaded.model.preprocessing, self.mode)
        batch = way.each(images, places, self.scale)
        return predicted(self.batcher, self.loaded, batch, self.scope)

    def _problem(self, item: _Item) -> dict[str, Any] | None:
        return None if item.error is None else unread(self.scope, item.error)

    def _item(self, line: Line) -> _Item:
        told: dict[str, Any] = {"line": line.number}
        try:
            limit = self.settings.max_json_bytes
            if len(line.text) > limit:
                raise PayloadTooLarge(
                    f"the line is over {limit:,} bytes (NUMERAL_MAX_JSON_BYTES)", code="line_too_large"
                )
            found = bodies.decode(line.text, "the line")
            if not isinstance(found, dict):
                return _Item(told, found)
            if "id" in found:
                told["id"] = orjson.Fragment(json.dumps(_identifier(found["id"])))  # which may be no Unicode
            return _Item(told, *_image(found))
        except ServiceError as error:
            return _Item(told, error=error)


def written(answers: Iterable[dict[str, Any]]) -> bytes:
    """A line of JSON for each answer."""
    return b"".join(encoded(answer) + b"\n" for answer in answers)


def _identifier(value: object) -> str | int:
    is_known = type(value) is int or (isinstance(value, str) and len(value) <= MAX_ID)
    if not is_known or not isinstance(value, str | int):
        detail = f"must be text of at most {MAX_ID} characters, or a whole number"
        raise BadRequest(f"id {detail}", errors=[FieldError("#/id", detail)])
    return value


def _image(found: dict[str, Any]) -> tuple[object, str]:
    """The image of an object, and where it stands."""
    unknown = sorted(found.keys() - set(FIELDS))
    if unknown:
        raise BadRequest(
            f"there is no field {unknown[0][:80]!r}: there are {', '.join(FIELDS)}", code="unknown_field"
        )
    if ("image" in found) == ("pixels" in found):
        raise BadRequest("give either image or pixels", code="no_images")
    name = "image" if "image" in found else "pixels"
    return found[name], f"#/{name}"
