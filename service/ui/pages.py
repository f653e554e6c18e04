"""Which page lies where, and the headers that each is sent with."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from service.presets import PRESETS
from service.spec import TrainingSpec
from service.ui import reference
from service.ui.assets import Assets, Content
from service.ui.form import form_of

TEMPLATES = Path(__file__).parent / "templates"
VIEWS = {  # by path: template
    "/": "draw",
    "/train": "train",
    "/jobs": "jobs",
    "/jobs/{job_id}": "job",
    "/compare": "compare",
    "/look": "look",
    "/models": "models",
    "/data": "data",
    "/status": "status",
    "/docs": "docs",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}
FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}

Description = Callable[[], Mapping[str, Any]]


class _ForPeople(Route):
    """A page that shares its path with an answer for programs: it is for who asks for HTML."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accepted = dict(scope.get("headers", ())).get(b"accept", b"")
        if b"text/html" not in accepted:
            return Match.NONE, {}
        return super().matches(scope)


class Site:
    """Every page, made when it is first asked for. None depends on who asks, so that each is made once."""

    def __init__(self, describe: Description) -> None:
        self._describe = describe
        self._assets = Assets()
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"static": self._assets.address, "version": version("numeral")}
        self._templates.filters["marked"] = reference.marked
        self.page = lru_cache(maxsize=None)(self._page)

    def routes(self) -> list[BaseRoute]:
        pages = [
            (_ForPeople if path == "/" else Route)(path, self._shown(view), include_in_schema=False)
            for path, view in VIEWS.items()
        ]
        return [
            *pages,
            Route("/favicon.ico", self._icon, include_in_schema=False),
            Route("/static/{digest}/{name:path}", self._static, include_in_schema=False),
        ]

    def _page(self, view: str) -> Content:
        facts: dict[str, Any] = {"view": view}
        if view == "train":
            facts |= {"presets": PRESETS.values(), "form": form_of(TrainingSpec.model_json_schema())}
        if view == "docs":
            facts["chapters"] = reference.chapters(self._describe())
        text = self._templates.get_template(f"{view}.html").render(facts)
        return Content.of(re.sub(r"\n\s*\n+", "\n", text).encode(), "text/html; charset=utf-8")

    def _shown(self, view: str) -> Callable[[Request], Response]:
        def show(request: Request) -> Response:
            return _sent(request, self.page(view), HEADERS)

        return show

    def _static(self, request: Request) -> Response:
        found = self._assets.find(request.path_params["digest"], request.path_params["name"])
        if found is None:
            return Response("no such file\n", 404, media_type="text/plain")
        return _sent(request, found, FOR_GOOD)

    def _icon(self, request: Request) -> Response:
        found = self._assets.find(self._assets.digest, "icon.svg")
        assert found is not None
        return _sent(request, found, {"Cache-Control": "public, max-age=86400"})


def _sent(request: Request, content: Content, headers: Mapping[str, str]) -> Response:
    sent = {**headers, "ETag": content.etag}
    if content.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=sent)
    body = content.plain
    if content.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body, sent["Content-Encoding"] = content.packed, "gzip"
    return Response(body, headers=sent, media_type=content.media_type)


def routes(describe: Description) -> list[BaseRoute]:
    """Of all pages and static files; `describe` gives the OpenAPI description."""
    return Site(describe).routes()
