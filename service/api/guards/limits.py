"""What is done to every request before anything reads it: a name for the log, a limit on its body, and a
last net under it."""

import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from service import trail
from service.api import problems
from service.errors import FieldError, PayloadTooLarge, ServiceError, Unavailable
from service.observing.tracing import Span
from service.settings import Settings
from service.trail import Following

SECURITY = (  # of every answer; a page may have a policy of its own
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PASSED_ON = ("/predict/stream", "/v1/batches")  # ends of paths whose bodies are never held as a whole
SMALL = 256 * 1024  # bytes of a body that is taken however many others there are
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

log = logging.getLogger(__name__)


class RequestIdentity:
    """Gives each request an id (the client's `X-Request-ID` if it is a decent one) and a place in a trace (its `traceparent`), sets the headers that
    every response has, and answers an unexpected error with a 500 that tells nothing but the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid7().hex
        scope.setdefault("state", {})["request_id"] = request_id
        span = Span(scope["method"], trail.given(headers.get("traceparent")), kind="server")
        try:
            with Following(span.traceparent or trail.begun(), request_id=request_id):
                await self._answer(scope, receive, send, request_id, span)
        finally:
            span.end()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str, span: Span) -> None:
        has_started = False

        async def send_marked(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = _secured(message.get("headers", ()), request_id)
                _tell(span, scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if has_started:
                raise  # cut the connection: half an answer must not pass for a whole one
            error = ServiceError(f"quote the request id {request_id} to whoever runs this service")
            await problems.render(scope, error)(scope, receive, send_marked)


def _tell(span: Span, scope: Scope, status: int) -> None:
    template = getattr(scope.get("route"), "path_format", None)
    attributes = {
        "http.request.method": scope["method"],
        "http.route": template,
        "url.path": scope["path"],
        "http.response.status_code": status,
    }
    span.tell(attributes, name=None if template is None else f"{scope['method']} {template}")
    if status >= 500:
        span.fail(str(status))


def _secured(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    marked = [*headers, (b"x-request-id", request_id.encode()), *SECURITY]
    return marked if any(name == POLICY[0] for name, _ in marked) else [*marked, POLICY]


class BodyLimit:
    """Refuses a body over the limit before it is parsed: at once if its Content-Length says so, else as
    soon as more has come. All bodies together have little more room than the largest. Also refuses NUL characters in
    an address, which no database stores."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._intake = _Intake(max(settings.max_body_bytes, settings.max_json_bytes) * 5 // 4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, setting = self._limit(scope["path"])
        declared = Headers(scope=scope).get("content-length", "")
        refusal: ServiceError | None = None
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            refusal = _holds_nul("path" if "\0" in scope["path"] else "query")
        elif declared.isdigit() and int(declared) > limit:
            refusal = _too_large(limit, setting)
        if refusal is not None:
            await problems.render(scope, refusal)(scope, receive, send)
            return
        is_passed_on = scope["path"].endswith(PASSED_ON)
        intake = None if is_passed_on else self._intake
        await _Counted(limit, setting, intake, receive, send).run(self._app, scope)

    def _limit(self, path: str) -> tuple[int, str]:
        if path.endswith("/predict/stream"):
            return sys.maxsize, ""  # each of its lines is limited where it is read
        if path == "/v1/batches":
            return self._settings.max_batch_bytes, "NUMERAL_MAX_BATCH_BYTES"
        if path.endswith(("/predict", "/read", "/infer", "/explain", "/v1/datasets")):
            return self._settings.max_body_bytes, "NUMERAL_MAX_BODY_BYTES"
        return self._settings.max_json_bytes, "NUMERAL_MAX_JSON_BYTES"


@dataclass
class _Intake:
    """Bytes of bodies that may be in memory at a time, and that are."""

    size: int
    held: int = 0


class _Counted:
    """One request whose body is counted as it comes; those of a stream are not held."""

    def __init__(
        self, limit: int, setting: str, intake: _Intake | None, receive: Receive, send: Send
    ) -> None:
        self._limit = limit
        self._setting = setting
        self._intake = intake
        self._receive = receive
        self._send = send
        self._received = 0
        self._has_started = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._counting_receive, self._noting_send)
        finally:
            if self._intake is not None:
                self._intake.held -= self._received

    async def _counting_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._received += size
            if self._intake is not None:
                self._intake.held += size
                if self._intake.held > self._intake.size and self._received > SMALL:
                    raise Unavailable(
                        f"bodies of {self._intake.size:,} bytes together are being read: try again",
                        retry_after=1,
                        code="busy_uploads",
                    )
            if self._received > self._limit:
                if self._has_started:
                    return {"type": "http.disconnect"}
                raise _too_large(self._limit, self._setting)
        return message

    async def _noting_send(self, message: Message) -> None:
        self._has_started = True
        await self._send(message)


def _holds_nul(part: str) -> ServiceError:
    return problems.bad_parameters([FieldError(part, "holds a NUL character: leave it out")])


def _too_large(limit: int, setting: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over {limit:,} bytes ({setting})")
