"""How requests are sent, and sent again."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from service.client.errors import Unreachable, refusal
from service.client.halves import apause, apieces
from service.client.requests import Request, headers_of, url_of
from service.client.retries import Retries

MOST_A_PAGE = 100
CONNECT_SECONDS = 10.0

V = TypeVar("V")


class AsyncConnection:
    """One server, with a pool of connections to it."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        patience: float,
        timeout: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.url = url_of(url)
        self._patience = patience
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=headers_of(api_key), timeout=timeout, transport=transport
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def json(self, request: Request, *, patience: float | None = None) -> Any:
        """The decoded answer, or None if it is empty. Raises as `send`."""
        response = await self.send(request, patience=patience)
        return response.json() if response.content else None

    async def bytes(self, request: Request) -> bytes:
        """An answer that is a file. Raises as `send`."""
        response = await self.send(request)
        return response.content

    async def file(self, request: Request, to: Path, *, what: str) -> Path:
        """An answer into a file that has its name only once it is whole. Raises as `send`, and Unreachable when `what` it
        holds breaks off."""
        part = to.with_name(f"{to.name}.part")
        try:
            async with self.stream(request) as response:
                with part.open("wb") as opened:
                    async for piece in response.aiter_bytes():
                        opened.write(piece)
            return part.replace(to)
        except httpx.TransportError as error:
            raise Unreachable(f"{what} broke off: {error}") from error
        finally:
            part.unlink(missing_ok=True)

    async def pages(
        self,
        path: str,
        made: Callable[[Any], V],
        params: Mapping[str, Any],
        *,
        limit: int | None,
        size: int = MOST_A_PAGE,
    ) -> AsyncIterator[V]:
        """The entries of a list, `limit` of them at most, page by page of up to `size` as they are asked for; each is `made` of what is told of it."""
        after: dict[str, Any] = {}
        left = size if limit is None else limit
        while left > 0:
            asked = {**params, **after, "limit": min(left, size)}
            page = await self.json(Request("GET", path, params=asked))
            for item in page["data"]:
                yield made(item)
            if not page["has_more"]:
                return
            left -= 0 if limit is None else len(page["data"])
            after = {"after": page["next"]}

    async def whole(self, path: str, made: Callable[[Any], V]) -> AsyncIterator[V]:
        """The entries of a list that is short and has no pages."""
        for item in (await self.json(Request("GET", path)))["data"]:
            yield made(item)

    async def send(self, request: Request, *, patience: float | None = None) -> httpx.Response:
        """The answer, all of it. Raises ApiError if it is a refusal, and Unreachable when nothing answers within
        `patience` seconds."""
        retries = self._retries(request, patience)
        while True:
            try:
                response = await self._http.send(self._built(request))
            except httpx.TransportError as error:
                wait = retries.after_break(error, time.monotonic())
                if wait is None:
                    raise self._unreachable(error) from error
            else:
                wait = retries.after_answer(response, time.monotonic())
                if wait is None:
                    return _accepted(response)
            await apause(wait)

    @asynccontextmanager
    async def stream(
        self, request: Request, *, patience: float | None = None, read: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes. Raises as `send` until it begins, and httpx.TransportError when it breaks
        or is silent for `read` seconds."""
        retries = self._retries(request, patience)
        response = await self._begun(request, retries, read)
        try:
            yield response
        finally:
            await response.aclose()

    async def _begun(self, request: Request, retries: Retries, read: float | None) -> httpx.Response:
        while True:
            try:
                response = await self._http.send(self._built(request, read), stream=True)
                if response.is_success:
                    return response
                await response.aread()
            except httpx.TransportError as error:
                wait = retries.after_break(error, time.monotonic())
                if wait is None:
                    raise self._unreachable(error) from error
            else:
                wait = retries.after_answer(response, time.monotonic())
                if wait is None:
                    raise refusal(response)
            await apause(wait)

    def _built(self, request: Request, read: float | None = None) -> httpx.Request:
        timeout = self._http.timeout if read is None else httpx.Timeout(CONNECT_SECONDS, read=read)
        return self._http.build_request(
            request.method,
            request.path,
            params=request.params or None,
            json=request.json,
            content=apieces(request.content),
            files=request.files,
            headers=request.headers,
            timeout=timeout,
        )

    def _retries(self, request: Request, patience: float | None) -> Retries:
        seconds = self._patience if patience is None else patience
        return Retries(time.monotonic() + seconds, repeatable=request.repeatable)

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(f"no answer from {self.url}: {str(error) or type(error).__name__}")


def _accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    raise refusal(response)
