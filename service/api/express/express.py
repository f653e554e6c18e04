"""The short way of a prediction, below FastAPI: routing, validation and encoding would cost more than the network.

It takes the requests that nearly all are: a POST to a predict path without a query, whose body `quick` reads and whose
model is in memory. Any other goes to the application as if nothing had looked at it. Both ways give the same answer,
and one description: that of the routes in `predictions`."""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from uuid_utils import uuid7

from service.api.context import Context
from service.api.express.quick import Reader
from service.api.express.turn import Question, Turn, written
from service.api.guards.access import Headed, Visitor
from service.api.guards.limits import POLICY, REQUEST_ID, SECURITY
from service.api.guards.rates import Header, RateLimited
from service.api.predictions import predictions
from service.errors import Unavailable
from service.observing.meter import Meter
from service.settings import Settings
from service.store.models import LATEST

log = logging.getLogger(__name__)

# bytes of a body that is looked at here, outside the room that bodies have: what parses JSON takes fourteen times as much
# and keeps it for the next one
LARGEST = 4 * 1024**2
_LATEST_PATH, _BEGIN, _END = b"/v1/predict", b"/v1/models/", b"/predict"
_REFERENCE = re.compile(rb"[A-Za-z0-9._-]+")
# with these a body is not what it looks like, or the client waits to be asked for it
LONG_WAY = frozenset((b"content-encoding", b"expect"))


class Express:
    """Answers what it can and passes on the rest."""

    def __init__(self, app: FastAPI, settings: Settings, meter: Meter) -> None:
        self._app = app
        self._meter = meter
        self._routes = {
            is_latest: meter.route("POST", template)
            for is_latest, template in ((True, "/v1/predict"), (False, "/v1/models/{reference}/predict"))
        }
        self._limit = min(settings.max_body_bytes, LARGEST)
        self._reader = Reader(settings.max_images)
        self.turn = Turn(lambda network, pixels: self._context.batcher.queued(network, pixels))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reference = _reference(scope)
        content_type = None if reference is None else self._content_type(scope["headers"])
        visitor = None if content_type is None else self.visitor(scope["headers"], scope.get("client"))
        if reference is None or content_type is None or visitor is None:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        messages, size = deque([await receive()]), 0
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
            del body  # a second one of perhaps many megabytes
        if answer is None:
            await self._app(scope, _again(messages, receive), send)
        else:
            await _reply(scope, answer, self.charged(visitor), send)
            self.answered(scope["path"].encode(), time.perf_counter() - began)

    def answered(self, path: bytes, seconds: float) -> None:
        """Count an answer that the application has not seen."""
        self._meter.answered(self._routes[path == _LATEST_PATH], 200, seconds)

    def _content_type(self, headers: Headed) -> bytes | None:
        """Empty if the request does not say; None if it is to go the long way."""
        found = b""
        for name, value in headers:
            if name == b"content-type":
                found = value
            elif name in LONG_WAY or (name == b"content-length" and int(value) > self._limit):
                return None
        return found

    def visitor(self, headers: Headed, client: tuple[str, int] | None) -> Visitor | None:
        """Who asks, if they may be answered here."""
        return self._context.access.visitor(headers, client[0] if client else "")

    def charged(self, visitor: Visitor) -> Sequence[Header]:
        """Take an answer from the visitor's rate; what is left, as headers."""
        if visitor.limit is None:
            return ()
        try:
            share = self._context.access.charged(visitor)
        except RateLimited as error:  # by others that were answered meanwhile
            share = error.share
        return () if share is None else share.headers

    def asked(
        self,
        reference: str,
        content_type: bytes,
        body: bytes,
        answer: Callable[[bytes | None], None],
        *,
        is_alone: bool,
    ) -> bool:
        """Whether `answer` is given the answer to a body of a content type: at the end of this turn, or now if it
        `is_alone`, unless it takes long; None if it has to be found the long way after all."""
        try:
            loaded = self._context.classifier.at_hand(reference)
            if loaded is None or len(body) > self._limit:
                return False
            pictures = self._reader.read(body, content_type, loaded.model.preprocessing)
        except Exception:
            log.exception("a prediction is answered the long way")
            return False
        if pictures is None:
            return False
        self.turn.add(Question(loaded, pictures, answer), is_last=is_alone)
        return True

    async def _answer(self, reference: str, content_type: bytes, body: bytes) -> bytes | None:
        loaded = self._context.classifier.at_hand(reference)
        if loaded is None or len(body) > self._limit:
            return None
        pictures = self._reader.read(body, content_type, loaded.model.preprocessing)
        if pictures is None:
            return None
        try:
            logits = await self._context.batcher.logits(loaded.network, pictures.pixels)
        except Unavailable:  # told by the long way, unless there is room by then
            return None
        told = written(loaded, pictures, logits)
        return predictions.answered(loaded.model, told.of(0, len(pictures.pixels)))

    @property
    def _context(self) -> Context:
        context: Context = self._app.state.context
        return context


def _reference(scope: Scope) -> str | None:
    """Of a request that may be answered here: what stands for the model."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    return reference_of(scope["path"].encode())


def reference_of(path: bytes) -> str | None:
    """What stands for the model in a path of those that predict; None of others, and where anything is escaped."""
    if path == _LATEST_PATH:
        return LATEST
    if not path.startswith(_BEGIN) or not path.endswith(_END):
        return None
    reference = path[len(_BEGIN) : -len(_END)]
    return reference.decode() if _REFERENCE.fullmatch(reference) else None


def _again(messages: deque[Message], receive: Receive) -> Receive:
    """What was received, once more, and then what is still to come. Nothing is kept of it here."""

    async def received() -> Message:
        return messages.popleft() if messages else await receive()

    return received


async def _reply(scope: Scope, answer: bytes, share: Sequence[Header], send: Send) -> None:
    headers = [*headers_of(answer, scope["headers"]), *SECURITY, POLICY, *share]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def headers_of(answer: bytes, asked: Headed) -> list[Header]:
    """Of an answer to a request with certain headers, but for those that every answer has."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
        (b"x-request-id", _request_id(asked)),
    ]


def _request_id(headers: Headed) -> bytes:
    """As `limits.RequestIdentity` gives it."""
    for name, value in headers:
        if name == b"x-request-id":
            return value if REQUEST_ID.fullmatch(value.decode("latin-1")) else uuid7().hex.encode()
    return uuid7().hex.encode()
