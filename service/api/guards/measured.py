"""Counts every request that comes to the application, by route and status, with the time until its answer begins. An
event stream lasts for hours, and a download as long as its reader takes: neither says how fast the service is."""

import time
from collections.abc import Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observing.meter import GONE, Meter


class Measured:
    """The outermost of all, so that refusals of the others are counted too."""

    def __init__(self, app: ASGIApp, meter: Meter, pages: Iterable[Route]) -> None:
        """`pages` are routes of which the router notes the endpoint only."""
        self._app = app
        self._meter = meter
        self._pages = {page.endpoint: page.path_format for page in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, is_counted = time.perf_counter(), False

        def count(status: int) -> None:
            nonlocal is_counted
            if not is_counted:
                is_counted = True
                self._meter.answered(self._route(scope), status, time.perf_counter() - began)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            count(GONE)  # unless it was answered

    def _route(self, scope: Scope) -> int:
        """By what the router has noted in the scope."""
        endpoint = scope.get("endpoint")
        page = None if endpoint is None else self._pages.get(endpoint)
        template = getattr(scope.get("route"), "path_format", page)
        return 0 if template is None else self._meter.route(scope["method"], template)
