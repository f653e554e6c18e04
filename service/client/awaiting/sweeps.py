"""Many jobs at once: `client.sweeps`."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pydantic import PrivateAttr

from service.client.awaiting.connection import AsyncConnection
from service.client.following import AWAY_SECONDS, Looks
from service.client.halves import apause, atell
from service.client.requests import Request, creation, given, path_of
from service.client.views import SweepFacts, SweepPlan


class AsyncSweep(SweepFacts):
    """A sweep, as it was when it was asked for; its methods ask again."""

    _sweeps: "AsyncSweeps | None" = PrivateAttr(None)

    async def refresh(self) -> "AsyncSweep":
        """The sweep as it is now, with its members."""
        return await self._all().get(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[["AsyncSweep"], Awaitable[Any] | Any] | None = None,
    ) -> "AsyncSweep":
        """The sweep when it has ended: see `client.sweeps.wait`."""
        return await self._all().wait(self.id, timeout=timeout, on_progress=on_progress)

    async def cancel(self) -> "AsyncSweep":
        return await self._all().cancel(self.id)

    def _all(self) -> "AsyncSweeps":
        if self._sweeps is None:
            raise ValueError("this sweep came from no client")
        return self._sweeps


class AsyncSweeps:
    """`client.sweeps`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        random: Mapping[str, Mapping[str, Any]] | None = None,
        count: int | None = None,
        seed: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncSweep:
        """Submit a job for every combination of a grid, {"optimizer.learning_rate": [0.1, 0.01]}, or `count` jobs
        at random, {"optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}; over a base that is a
        preset, a spec or both. Raises InvalidSpec, and then no job was made."""
        base = given(preset=preset, spec=spec, metadata=metadata, priority=priority)
        body = base | given(grid=grid, random=random, count=count, seed=seed)
        return self._sweep(await self._connection.json(creation("/v1/sweeps", idempotency_key, json=body)))

    async def dry_run(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        random: Mapping[str, Mapping[str, Any]] | None = None,
        count: int | None = None,
        seed: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
    ) -> SweepPlan:
        """What a sweep would come to: its members, their parameters, memory, steps and time."""
        base = given(preset=preset, spec=spec, metadata=metadata, priority=priority)
        body = base | given(grid=grid, random=random, count=count, seed=seed)
        request = Request("POST", "/v1/sweeps", params={"dry_run": True}, json=body)
        return SweepPlan.model_validate(await self._connection.json(request))

    async def get(self, sweep_id: str, *, sort: str | None = None) -> AsyncSweep:
        """With its members, the best first by the metric `sort`; or by `index`."""
        return await self._looked(sweep_id, sort, None)

    def list(self, *, limit: int | None = None) -> AsyncIterator[AsyncSweep]:
        """Sweeps, newest first, without their members, page by page as they are iterated."""
        return self._connection.pages("/v1/sweeps", self._sweep, {}, limit=limit)

    async def cancel(self, sweep_id: str) -> AsyncSweep:
        """End every member that has not ended."""
        request = Request("POST", path_of("sweeps", sweep_id, "cancel"))
        return self._sweep(await self._connection.json(request))

    async def plot(
        self,
        sweep_id: str,
        name: str = "metric",
        options: Mapping[str, Any] | None = None,
        *,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture that compares the members, `metric` or `series`, as `png` or `svg`, or its numbers as `csv`."""
        path = path_of("sweeps", sweep_id, "plots", f"{name}.{format}")
        return await self._connection.bytes(Request("GET", path, params=options or {}))

    async def follow(
        self,
        sweep_id: str,
        *,
        sort: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[AsyncSweep, None]:
        """The sweep now, and again each second or two while it goes on; the last one has ended. Raises TimedOut."""
        looks = Looks(sweep_id, time.monotonic(), timeout)
        while True:
            asked = time.monotonic()
            found = await self._looked(sweep_id, sort, AWAY_SECONDS)
            wait = 0.0 if found.ended else looks.pause(asked, time.monotonic())
            yield found
            if found.ended:
                return
            await apause(wait)

    async def wait(
        self,
        sweep_id: str,
        *,
        sort: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[AsyncSweep], Awaitable[Any] | Any] | None = None,
    ) -> AsyncSweep:
        """The sweep when all its members have ended, however they ended; a paused one is waited for, and a server that
        is started anew. Raises TimedOut."""
        async with aclosing(self.follow(sweep_id, sort=sort, timeout=timeout)) as looks:
            async for found in looks:
                await atell(on_progress, found)
        return found

    async def _looked(self, sweep_id: str, sort: str | None, patience: float | None) -> AsyncSweep:
        request = Request("GET", path_of("sweeps", sweep_id), params=given(sort=sort))
        return self._sweep(await self._connection.json(request, patience=patience))

    def _sweep(self, answer: Any) -> AsyncSweep:
        sweep = AsyncSweep.model_validate(answer)
        sweep._sweeps = self  # noqa: SLF001 - its own
        return sweep
