"""The short way of a prediction, below FastAPI: routing, validation and encoding would cost more than the network.

It takes the requests that nearly all are: a POST to a predict path without a query, whose body `quick` reads and whose
model is in memory. Any other goes to the application as if nothing had looked at it. Both ways give the same answer,
and one description: that of the routes in `predictions`."""

import logging
from collections.abc import Iterable

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from uuid_utils import uuid7

from service.api import predictions
from service.api.context import Context
from service.api.limits import REQUEST_ID
from service.api.quick import Reader
from service.errors import Unavailable
from service.settings import Settings
from service.store.models import LATEST

log = logging.getLogger(__name__)

_LATEST_PATH, _BEGIN, _END = "/v1/predict", "/v1/models/", "/predict"
# with these a body is not what it looks like, or the client waits to be asked for it
_LONG_WAY = frozenset((b"content-encoding", b"expect"))


class Express:
    """Answers what it can and passes on the rest."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._app = app
        self._limit = settings.max_body_bytes
        self._reader = Reader(settings.max_images)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reference = _reference(scope)
        content_type = None if reference is None else self._content_type(scope["headers"])
        if reference is None or content_type is None:
            await self._app(scope, receive, send)
            return
        messages, size = [await receive()], 0
        while messages[-1].get("more_body") and size <= self._limit:
            size += len(messages[-1].get("body", b""))
            messages.append(await receive())
        answer = None
        if messages[-1]["type"] == "http.request" and not messages[-1].get("more_body"):
            body = b"".join(message.get("body", b"") for message in messages)
            try:
                answer = await self._answer(reference, content_type, body)
            except Exception:
                log.exception("%s is answered the long way", scope["path"])
        if answer is None:
            await self._app(scope, _again(messages, receive), send)
        else:
            await _reply(scope, answer, send)

    def _content_type(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Empty if the request does not say; None if it is to go the long way."""
        found = b""
        for name, value in headers:
            if name == b"content-type":
                found = value
            elif name in _LONG_WAY or (name == b"content-length" and int(value) > self._limit):
                return None
        return found

    async def _answer(self, reference: str, content_type: bytes, body: bytes) -> bytes | None:
        context: Context = self._app.state.context
        loaded = context.classifier.at_hand(reference)
        if loaded is None or len(body) > self._limit:
            return None
        pictures = self._reader.read(body, content_type, loaded.model.preprocessing)
        if pictures is None:
            return None
        try:
            logits = await context.batcher.logits(loaded.network, pictures.pixels)
        except Unavailable:  # told by the long way, unless there is room by then
            return None
        found = loaded.predicted(logits, pictures.pixels)
        return predictions.answered(loaded.model, predictions.described(found, pictures.warnings))


def _reference(scope: Scope) -> str | None:
    """Of a request that may be answered here: what stands for the model."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    path: str = scope["path"]
    if path == _LATEST_PATH:
        return LATEST
    if not path.startswith(_BEGIN) or not path.endswith(_END):
        return None
    reference = path[len(_BEGIN) : -len(_END)]
    return reference if reference and "/" not in reference else None


def _again(messages: Iterable[Message], receive: Receive) -> Receive:
    """What was received, once more, and then what is still to come."""
    waiting = iter(messages)

    async def received() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return received


async def _reply(scope: Scope, answer: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
        (b"x-request-id", _request_id(scope)),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def _request_id(scope: Scope) -> bytes:
    """As `limits.RequestIdentity` gives it."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: bytes = value
            return given if REQUEST_ID.fullmatch(given.decode("latin-1")) else uuid7().hex.encode()
    return uuid7().hex.encode()
