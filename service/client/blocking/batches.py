# Written by service.client.unasync from awaiting/batches.py; change that.
"""Large sets of images, read in the background: `client.batches`."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import httpx
from pydantic import PrivateAttr

from service.client.blocking.connection import Connection
from service.client.errors import Unreachable
from service.client.following import AWAY_SECONDS, Looks
from service.client.halves import pause, tell
from service.client.requests import Request, creation, given, path_of
from service.client.views import BatchFacts, Digit


class Batch(BatchFacts):
    """A batch, as it was when it was asked for; its methods ask again."""

    _batches: "Batches | None" = PrivateAttr(None)

    def refresh(self) -> "Batch":
        """The batch as it is now."""
        return self._all().get(self.id)

    def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[["Batch"], Any] | None = None,
    ) -> "Batch":
        """The batch when it has ended: see `client.batches.wait`."""
        return self._all().wait(self.id, timeout=timeout, on_progress=on_progress)

    def results(self) -> Iterator[Digit]:
        """Its answers: see `client.batches.results`."""
        return self._all().results(self.id)

    def cancel(self) -> "Batch":
        return self._all().cancel(self.id)

    def _all(self) -> "Batches":
        if self._batches is None:
            raise ValueError("this batch came from no client")
        return self._batches


class Batches:
    """`client.batches`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        content: bytes | Iterable[bytes],
        *,
        model: str = "latest",
        preprocess: str | None = None,
        scale: str | None = None,
        media_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Submit lines of JSON, pixels (`media_type` application/octet-stream) or a ZIP: bytes, or what gives their
        pieces, anew each time that it is iterated."""
        request = creation(
            "/v1/batches",
            idempotency_key,
            params=given(model=model, preprocess=preprocess, scale=scale),
            content=content,
            headers={} if media_type is None else {"Content-Type": media_type},
        )
        return self._batch(self._connection.json(request))

    def get(self, batch_id: str) -> Batch:
        return self._batch(self._connection.json(Request("GET", path_of("batches", batch_id))))

    def list(self, *, state: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Batches, newest first, page by page as they are iterated."""
        return self._connection.pages("/v1/batches", self._batch, given(state=state), limit=limit)

    def cancel(self, batch_id: str) -> Batch:
        """End it; what it has answered stays."""
        request = Request("POST", path_of("batches", batch_id, "cancel"))
        return self._batch(self._connection.json(request))

    def delete(self, batch_id: str) -> None:
        """Forget a batch that has ended, with its answers."""
        self._connection.json(Request("DELETE", path_of("batches", batch_id)))

    def follow(
        self,
        batch_id: str,
        *,
        timeout: float | None = None,
    ) -> Generator[Batch, None, None]:
        """The batch now, and again each second while it goes on; the last one has ended. Raises TimedOut."""
        looks = Looks(batch_id, time.monotonic(), timeout)
        path = path_of("batches", batch_id)
        while True:
            asked = time.monotonic()
            found = self._batch(self._connection.json(Request("GET", path), patience=AWAY_SECONDS))
            wait = 0.0 if found.ended else looks.pause(asked, time.monotonic())
            yield found
            if found.ended:
                return
            pause(wait)

    def wait(
        self,
        batch_id: str,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Batch], Any] | None = None,
    ) -> Batch:
        """The batch when it has ended, however it ended; a server that is started anew meanwhile is waited for. Raises
        TimedOut."""
        with closing(self.follow(batch_id, timeout=timeout)) as looks:
            for found in looks:
                tell(on_progress, found)
        return found

    def results(self, batch_id: str) -> Iterator[Digit]:
        """What was read, image by image, in their order; `error` of one that could not be. Raises as `lines`."""
        with closing(self.lines(batch_id)) as lines:
            for line in lines:
                yield Digit.model_validate(json.loads(line))

    def lines(self, batch_id: str) -> Generator[bytes, None, None]:
        """The answers as the server tells them, each a line of JSON without its end. Raises Conflict for a batch that
        goes on, and Unreachable when they break off."""
        path = path_of("batches", batch_id, "results")
        rest = b""
        try:
            with self._connection.stream(Request("GET", path)) as response:
                for piece in response.iter_bytes():
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from lines
        except httpx.TransportError as error:
            raise Unreachable(f"the answers of {batch_id} broke off: {error}") from error

    def _batch(self, answer: Any) -> Batch:
        batch = Batch.model_validate(answer)
        batch._batches = self  # noqa: SLF001 - its own
        return batch
