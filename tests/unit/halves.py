"""Both halves of the client behind one face, so that one test drives either."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from service.client import AsyncClient, Client

HALVES = ("blocking", "awaiting")
Answer = Callable[[httpx.Request], httpx.Response]


class _Awaited:
    """Something of the awaiting half; what it would have to be awaited for is waited for here."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if callable(found):
            return lambda *words, **named: self._waited(found(*words, **named))
        return _Awaited(found, self._runner) if type(found).__name__.startswith("Async") else found

    def _waited(self, found: Any) -> Any:
        if isinstance(found, Coroutine):
            found = self._runner.run(found)
        if isinstance(found, AsyncIterator):
            return self._each(found)
        return _Awaited(found, self._runner) if type(found).__name__.startswith("Async") else found

    def _each(self, found: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._waited(self._runner.run(anext(found)))  # type: ignore[arg-type]
            except StopAsyncIteration:
                return


@contextmanager
def connected(
    half: str, url: str = "http://test", answer: Answer | None = None, **options: Any
) -> Iterator[Any]:
    """A client of that half; of a server, or of a function that stands in for one."""
    if answer is not None:
        options["transport"] = httpx.MockTransport(answer)
    if half == "blocking":
        with Client(url, **options) as blocking:
            yield blocking
        return
    with asyncio.Runner() as runner:
        awaiting = AsyncClient(url, **options)
        yield _Awaited(awaiting, runner)
        runner.run(awaiting.close())
