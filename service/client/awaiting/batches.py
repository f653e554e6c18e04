"""Large sets of images, read in the background: `client.batches`."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

import httpx
from pydantic import PrivateAttr

from service.client.awaiting.connection import AsyncConnection
from service.client.errors import Unreachable
from service.client.following import AWAY_SECONDS, Looks
from service.client.halves import apause, atell
from service.client.requests import Request, creation, given, path_of
from service.client.views import BatchFacts, Digit


class AsyncBatch(BatchFacts):
    """A batch, as it was when it was asked for; its methods ask again."""

    _batches: "AsyncBatches | None" = PrivateAttr(None)

    async def refresh(self) -> "AsyncBatch":
        """The batch as it is now."""
        return await self._all().get(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[["AsyncBatch"], Awaitable[Any] | Any] | None = None,
    ) -> "AsyncBatch":
        """The batch when it has ended: see `client.batches.wait`."""
        return await self._all().wait(self.id, timeout=timeout, on_progress=on_progress)

    def results(self) -> AsyncIterator[Digit]:
        """Its answers: see `client.batches.results`."""
        return self._all().results(self.id)

    async def cancel(self) -> "AsyncBatch":
        return await self._all().cancel(self.id)

    def _all(self) -> "AsyncBatches":
        if self._batches is None:
            raise ValueError("this batch came from no client")
        return self._batches


class AsyncBatches:
    """`client.batches`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        content: bytes | Iterable[bytes],
        *,
        model: str = "latest",
        preprocess: str | None = None,
        scale: str | None = None,
        media_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncBatch:
        """Submit lines of JSON, pixels (`media_type` application/octet-stream) or a ZIP: bytes, or what gives their
        pieces, anew each time that it is iterated."""
        request = creation(
            "/v1/batches",
            idempotency_key,
            params=given(model=model, preprocess=preprocess, scale=scale),
            content=content,
            headers={} if media_type is None else {"Content-Type": media_type},
        )
        return self._batch(await self._connection.json(request))

    async def get(self, batch_id: str) -> AsyncBatch:
        return self._batch(await self._connection.json(Request("GET", path_of("batches", batch_id))))

    def list(self, *, state: str | None = None, limit: int | None = None) -> AsyncIterator[AsyncBatch]:
        """Batches, newest first, page by page as they are iterated."""
        return self._connection.pages("/v1/batches", self._batch, given(state=state), limit=limit)

    async def cancel(self, batch_id: str) -> AsyncBatch:
        """End it; what it has answered stays."""
        request = Request("POST", path_of("batches", batch_id, "cancel"))
        return self._batch(await self._connection.json(request))

    async def delete(self, batch_id: str) -> None:
        """Forget a batch that has ended, with its answers."""
        await self._connection.json(Request("DELETE", path_of("batches", batch_id)))

    async def follow(
        self,
        batch_id: str,
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[AsyncBatch, None]:
        """The batch now, and again each second while it goes on; the last one has ended. Raises TimedOut."""
        looks = Looks(batch_id, time.monotonic(), timeout)
        path = path_of("batches", batch_id)
        while True:
            asked = time.monotonic()
            found = self._batch(await self._connection.json(Request("GET", path), patience=AWAY_SECONDS))
            wait = 0.0 if found.ended else looks.pause(asked, time.monotonic())
            yield found
            if found.ended:
                return
            await apause(wait)

    async def wait(
        self,
        batch_id: str,
        *,
        timeout: float | None = None,
        on_progress: Callable[[AsyncBatch], Awaitable[Any] | Any] | None = None,
    ) -> AsyncBatch:
        """The batch when it has ended, however it ended; a server that is started anew meanwhile is waited for. Raises
        TimedOut."""
        async with aclosing(self.follow(batch_id, timeout=timeout)) as looks:
            async for found in looks:
                await atell(on_progress, found)
        return found

    async def results(self, batch_id: str) -> AsyncIterator[Digit]:
        """What was read, image by image, in their order; `error` of one that could not be. Raises as `lines`."""
        async with aclosing(self.lines(batch_id)) as lines:
            async for line in lines:
                yield Digit.model_validate(json.loads(line))

    async def lines(self, batch_id: str) -> AsyncGenerator[bytes, None]:
        """The answers as the server tells them, each a line of JSON without its end. Raises Conflict for a batch that
        goes on, and Unreachable when they break off."""
        path = path_of("batches", batch_id, "results")
        rest = b""
        try:
            async with self._connection.stream(Request("GET", path)) as response:
                async for piece in response.aiter_bytes():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        yield line
        except httpx.TransportError as error:
            raise Unreachable(f"the answers of {batch_id} broke off: {error}") from error

    def _batch(self, answer: Any) -> AsyncBatch:
        batch = AsyncBatch.model_validate(answer)
        batch._batches = self  # noqa: SLF001 - its own
        return batch
