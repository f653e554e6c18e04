"""The few things that the awaiting half of the client does otherwise than the blocking half: each twice, under the names
that `service.client.unasync` exchanges."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


async def apause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def pause(seconds: float) -> None:
    time.sleep(seconds)


async def atell(listener: Callable[[T], Awaitable[Any] | Any] | None, news: T) -> None:
    """Call who wants to know, and wait for it if it is a coroutine function."""
    if listener is None:
        return
    said = listener(news)
    if isinstance(said, Awaitable):
        await said


def tell(listener: Callable[[T], Any] | None, news: T) -> None:
    """Call who wants to know."""
    if listener is not None:
        listener(news)


def apieces(content: bytes | Iterable[bytes] | None) -> bytes | AsyncIterator[bytes] | None:
    """A body as the HTTP library wants it."""
    if content is None or isinstance(content, bytes):
        return content
    return _each(content)


async def _each(content: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def pieces(content: bytes | Iterable[bytes] | None) -> bytes | Iterator[bytes] | None:
    """A body as the HTTP library wants it."""
    return content if content is None or isinstance(content, bytes) else iter(content)
