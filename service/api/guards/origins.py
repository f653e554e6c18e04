"""Under which names the API may be asked, and by the pages of which sites.

A page that a browser has from elsewhere may reach a server on loopback: by a name that its owner lets point there (DNS
rebinding), which `Host` gives away, or by posting without being able to read the answer, which `Origin` gives away."""

import ipaddress
import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.errors import Forbidden, Misdirected, ServiceError
from service.settings import Settings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
READING = ("GET", "HEAD", "OPTIONS")
SENT = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"),
    *("If-Match", "If-None-Match", "If-Range", "Range"),
)
SHOWN = (
    *("Content-Disposition", "Content-Range", "ETag", "Idempotent-Replayed", "Job-Reused", "Location"),
    *("RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"),
    *("X-Model", "X-Model-Version", "X-Request-ID"),
)
PROBES = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")  # asked by the address of the day
MAX_AGE = 600  # seconds for which a browser need not ask again what it may send
_PORT = re.compile(r":\d*$")


class Names:
    """The names under which this server answers."""

    def __init__(self, settings: Settings) -> None:
        self._any = settings.trusted_hosts is None and not settings.is_local
        named = {*(settings.trusted_hosts or ()), settings.host.lower()}
        self._exact = {name.strip("[]") for name in named if not name.startswith("*.")}
        self._endings = tuple(name[1:] for name in named if name.startswith("*."))

    def has(self, host: str) -> bool:
        """Whether a `Host` header, with its port or without, is one of them. One that is empty comes from no browser."""
        if self._any or not host:
            return True
        name = _PORT.sub("", host.lower()).strip("[]").removesuffix(".")
        return name in self._exact or name.endswith(self._endings) or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class Origins:
    """Refuses a request under another name, and one that changes something for a page of another site."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = Names(settings)
        self._allowed: Sequence[str] = settings.cors_origins or ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problems.render(scope, refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["path"] in PROBES:
            return None
        if not self._names.has(host):
            return Misdirected(
                f"{host[:100]!r} is none of this server's names: list it in NUMERAL_TRUSTED_HOSTS"
            )
        origin = headers.get("origin", "").lower()
        if not origin or scope["method"] in READING or self._is_allowed(origin, host.lower()):
            return None
        return Forbidden(
            f"a page of {origin[:100]!r} may not do this: list that origin in NUMERAL_CORS_ORIGINS",
            code="untrusted_origin",
        )

    def _is_allowed(self, origin: str, host: str) -> bool:
        return origin.partition("://")[2] == host or origin in self._allowed or "*" in self._allowed


def install(app: FastAPI, settings: Settings) -> None:
    """Both checks, and what lets pages of the origins that are set read the answers. Their requests
    bring no cookie: keys are sent by whoever has them."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=SHOWN,
            max_age=MAX_AGE,
        )
    app.add_middleware(Origins, settings=settings)
