"""Who may come in: API keys, their scopes and their rates, for every request but those of open routes.

A key is looked up in the database once a second at most, however often it comes; what is known of it meanwhile is all
that the short ways of `express` and `wire` ask for. So a revoked key is refused within a second, everywhere."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import keys as texts
from service.api import problems
from service.api.guards import scopes
from service.api.guards.origins import Names
from service.api.guards.rates import Header, RateLimited, Rates, Share, network_of
from service.errors import Forbidden, ServiceError, Unauthenticated, Unavailable
from service.observing import tracing
from service.settings import Settings
from service.store import keys
from service.store.database import Database
from service.store.keys import Key, Submitter

GOOD_SECONDS = 1.0  # for which nobody asks the database again
PATIENT_SECONDS = 60.0  # and if it does not answer: it could not be told of a revocation either
COOKIE = "numeral_key"  # see `session`
KEPT = 10_000  # keys, and names of hosts

Headed = Iterable[tuple[bytes, bytes]]

log = logging.getLogger(__name__)


class MissingScope(Forbidden):
    code, title = "insufficient_scope", "The API key does not reach as far as this"

    def __init__(self, key: Key, needed: scopes.Needed) -> None:
        has = ", ".join(key.scopes)
        super().__init__(f"this asks for the scope {' or '.join(needed)}; the API key {key.id} has {has}")
        challenge = f'Bearer realm="numeral", error="insufficient_scope", scope="{needed[0]}"'
        self.headers = {"WWW-Authenticate": challenge}


@dataclass(frozen=True)
class Visitor:
    """Who asks, as far as rates are concerned; without a limit they are not."""

    name: str = ""
    limit: int | None = None


_ANYBODY = Visitor()


@dataclass(frozen=True)
class _Seen:
    key: Key
    at: float  # of this process's monotonic clock


class Access:
    """What one process knows of the keys that were sent to it, and of their rates. Used in its event loop."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db
        self._names = Names(settings)
        self._rates = Rates(settings.api_processes)
        self._seen: dict[bytes, _Seen] = {}  # by a digest of the header
        self._hosts: set[bytes] = set()  # names that were found to be good
        self._noting: set[asyncio.Task[None]] = set()
        self.is_counting = is_counting(settings)

    async def identified(self, authorization: str) -> Key | None:
        """The key of an Authorization header; None where none is needed. Raises Unauthenticated."""
        if not self._settings.requires_key:
            return None
        mark = _mark(authorization.encode("latin-1"))
        seen = self._seen.get(mark)
        if seen is not None and time.monotonic() < seen.at + GOOD_SECONDS:
            return seen.key
        secret = _secret(authorization)
        try:
            key = await run_in_threadpool(keys.verified, self._db, secret)
        except Unauthenticated:
            self._seen.pop(mark, None)
            raise
        except Unavailable:
            if seen is None or time.monotonic() > seen.at + PATIENT_SECONDS:
                raise
            return seen.key
        if len(self._seen) >= KEPT:
            self._seen.clear()
        self._seen[mark] = _Seen(key, time.monotonic())
        self._note_use(key)
        return key

    def _note_use(self, key: Key) -> None:
        """Beside the request, which need not wait for it."""
        if not key.is_freshly_used:
            task = asyncio.create_task(self._noted(key.id))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def _noted(self, key_id: str) -> None:
        try:
            await run_in_threadpool(keys.note_use, self._db, key_id)
        except ServiceError as error:
            log.warning("that %s was used is not noted: %s", key_id, error.detail)

    def visitor(self, headers: Headed, address: str) -> Visitor | None:
        """Who asks for a prediction, if all that has to be known of them is at hand and lets them in. None goes the
        long way, on which is said what is wrong."""
        host = authorization = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"authorization":
                authorization = value
            elif name in (b"origin", b"x-forwarded-for") or (name == b"traceparent" and tracing.is_on()):
                return None
        if host not in self._hosts and not self._has_name(host):
            return None
        return self._counted(authorization, address) if self.is_counting else _ANYBODY

    def _has_name(self, host: bytes) -> bool:
        if not self._names.has(host.decode("latin-1")):
            return False
        if len(self._hosts) < KEPT:
            self._hosts.add(host)
        return True

    def _counted(self, authorization: bytes, address: str) -> Visitor | None:
        key = None
        if self._settings.requires_key:
            seen = self._seen.get(_mark(authorization))
            if seen is None or time.monotonic() >= seen.at + GOOD_SECONDS:
                return None
            key = seen.key
            if not key.may(*scopes.PREDICT):
                return None
        visitor = self.of(key, address)
        is_over = visitor.limit is not None and self._rates.is_empty(visitor.name, visitor.limit)
        return None if is_over else visitor

    def of(self, key: Key | None, address: str) -> Visitor:
        """As whom a request counts: its key, or without one its client's address."""
        limit = self._settings.requests_per_minute
        if key is None:
            return Visitor(network_of(address), limit) if limit is not None else _ANYBODY
        return Visitor(key.id, key.limits.requests_per_minute or limit)

    def charged(self, visitor: Visitor) -> Share | None:
        """Take a request from the visitor's rate. None if there is no limit. Raises RateLimited."""
        return None if visitor.limit is None else self._rates.take(visitor.name, visitor.limit)

    def submitter(self, key: Key | None) -> Submitter | None:
        """Whose quotas a submit counts against."""
        if key is None:
            return None
        own, usual = key.limits, self._settings
        return Submitter(
            key.id,
            own.max_queued_jobs or usual.key_queued_jobs,
            own.max_stored_bytes or usual.key_stored_bytes,
        )


def is_counting(settings: Settings) -> bool:
    """Whether it matters who asks."""
    return settings.requires_key or settings.requests_per_minute is not None


def _authorization(request: Request) -> str:
    """As the header has it, or a page's cookie."""
    cookie = request.cookies.get(COOKIE)
    return request.headers.get("authorization", "" if cookie is None else f"Bearer {cookie}")


def _mark(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization).digest()


def _secret(authorization: str) -> texts.Secret:
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("send an API key, as `Authorization: Bearer num_...`", code="missing_api_key")
    secret = texts.Secret.parse(text.strip())
    if secret is None:
        raise Unauthenticated(
            "what was sent is not an API key: one has the form num_xxxxxxxx_ and 43 characters"
        )
    return secret


class _Withdrawn(Exception):
    """The key of a request is good no longer, and its answer is not over."""


class Gate:
    """Lets in whoever has a good key, where one is needed, and a request left. What the route asks for beyond that is
    looked at by `authorized`."""

    def __init__(self, app: ASGIApp, settings: Settings, open_routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._is_counting = is_counting(settings)
        self._open = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_counting or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        access: Access = scope["app"].state.context.access
        visit = _Visit(access, scope, send)
        try:
            await visit.begin()
        except ServiceError as error:
            await problems.render(scope, error)(scope, receive, visit.send)
            return
        try:
            await self._app(scope, receive, visit.send)
        except _Withdrawn:
            log.warning("an answer to %s is broken off: its API key is good no longer", visit.name)

    def _is_open(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._open)


class _Visit:
    """One request, whose answer tells what is left of its rate, and goes on only while its key is good."""

    def __init__(self, access: Access, scope: Scope, send: Send) -> None:
        self._access = access
        self._scope = scope
        self._send = send
        self._authorization = _authorization(Request(scope))
        self._address = (scope.get("client") or ("",))[0]
        self._told: list[Header] = []
        self.name = self._address

    async def begin(self) -> None:
        """Raises Unauthenticated and RateLimited."""
        try:
            key = await self._access.identified(self._authorization)
        except Unauthenticated:
            self._charge(None)  # guessing is limited too
            raise
        self._scope["state"]["key"] = key
        self._charge(key)

    def _charge(self, key: Key | None) -> None:
        visitor = self._access.of(key, self._address)
        self.name = visitor.name or self.name
        try:
            share = self._access.charged(visitor)
        except RateLimited as error:
            self._told = error.share.headers
            raise
        self._told = [] if share is None else share.headers

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *self._told]
        elif message.get("more_body"):
            await self._require_key()
        await self._send(message)

    async def _require_key(self) -> None:
        try:
            await self._access.identified(self._authorization)
        except Unauthenticated:
            raise _Withdrawn from None
        except Unavailable:
            return  # it was good when the answer began


async def key_of(request: Request) -> Key | None:
    """The key that a request came with; None where none is needed."""
    key: Key | None = request.scope["state"].get("key")
    return key


async def authorized(request: Request) -> None:
    """Refuse a key that has not the scope of the route."""
    needed = scopes.needed(request.scope["endpoint"])
    if request.app.requires_key and needed != scopes.OPEN:
        key: Key = request.scope["state"]["key"]
        if not key.may(*needed):
            raise MissingScope(key, needed)


async def _submitter(request: Request) -> Submitter | None:
    access: Access = request.app.state.context.access
    return access.submitter(await key_of(request))


Submitting = Annotated[Submitter | None, Depends(_submitter)]


def install(app: FastAPI, settings: Settings, open_routes: Sequence[BaseRoute]) -> None:
    app.add_middleware(Gate, settings=settings, open_routes=open_routes)
