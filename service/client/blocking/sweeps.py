# Written by service.client.unasync from awaiting/sweeps.py; change that.
"""Many jobs at once: `client.sweeps`."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from pydantic import PrivateAttr

from service.client.blocking.connection import Connection
from service.client.following import AWAY_SECONDS, Looks
from service.client.halves import pause, tell
from service.client.requests import Request, creation, given, path_of
from service.client.views import SweepFacts, SweepPlan


class Sweep(SweepFacts):
    """A sweep, as it was when it was asked for; its methods ask again."""

    _sweeps: "Sweeps | None" = PrivateAttr(None)

    def refresh(self) -> "Sweep":
        """The sweep as it is now, with its members."""
        return self._all().get(self.id)

    def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[["Sweep"], Any] | None = None,
    ) -> "Sweep":
        """The sweep when it has ended: see `client.sweeps.wait`."""
        return self._all().wait(self.id, timeout=timeout, on_progress=on_progress)

    def cancel(self) -> "Sweep":
        return self._all().cancel(self.id)

    def _all(self) -> "Sweeps":
        if self._sweeps is None:
            raise ValueError("this sweep came from no client")
        return self._sweeps


class Sweeps:
    """`client.sweeps`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
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
    ) -> Sweep:
        """Submit a job for every combination of a grid, {"optimizer.learning_rate": [0.1, 0.01]}, or `count` jobs
        at random, {"optimizer.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}; over a base that is a
        preset, a spec or both. Raises InvalidSpec, and then no job was made."""
        base = given(preset=preset, spec=spec, metadata=metadata, priority=priority)
        body = base | given(grid=grid, random=random, count=count, seed=seed)
        return self._sweep(self._connection.json(creation("/v1/sweeps", idempotency_key, json=body)))

    def dry_run(
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
        return SweepPlan.model_validate(self._connection.json(request))

    def get(self, sweep_id: str, *, sort: str | None = None) -> Sweep:
        """With its members, the best first by the metric `sort`; or by `index`."""
        return self._looked(sweep_id, sort, None)

    def list(self, *, limit: int | None = None) -> Iterator[Sweep]:
        """Sweeps, newest first, without their members, page by page as they are iterated."""
        return self._connection.pages("/v1/sweeps", self._sweep, {}, limit=limit)

    def cancel(self, sweep_id: str) -> Sweep:
        """End every member that has not ended."""
        request = Request("POST", path_of("sweeps", sweep_id, "cancel"))
        return self._sweep(self._connection.json(request))

    def plot(
        self,
        sweep_id: str,
        name: str = "metric",
        options: Mapping[str, Any] | None = None,
        *,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture that compares the members, `metric` or `series`, as `png` or `svg`, or its numbers as `csv`."""
        path = path_of("sweeps", sweep_id, "plots", f"{name}.{format}")
        return self._connection.bytes(Request("GET", path, params=options or {}))

    def follow(
        self,
        sweep_id: str,
        *,
        sort: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Sweep, None, None]:
        """The sweep now, and again each second or two while it goes on; the last one has ended. Raises TimedOut."""
        looks = Looks(sweep_id, time.monotonic(), timeout)
        while True:
            asked = time.monotonic()
            found = self._looked(sweep_id, sort, AWAY_SECONDS)
            wait = 0.0 if found.ended else looks.pause(asked, time.monotonic())
            yield found
            if found.ended:
                return
            pause(wait)

    def wait(
        self,
        sweep_id: str,
        *,
        sort: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Sweep], Any] | None = None,
    ) -> Sweep:
        """The sweep when all its members have ended, however they ended; a paused one is waited for, and a server that
        is started anew. Raises TimedOut."""
        with closing(self.follow(sweep_id, sort=sort, timeout=timeout)) as looks:
            for found in looks:
                tell(on_progress, found)
        return found

    def _looked(self, sweep_id: str, sort: str | None, patience: float | None) -> Sweep:
        request = Request("GET", path_of("sweeps", sweep_id), params=given(sort=sort))
        return self._sweep(self._connection.json(request, patience=patience))

    def _sweep(self, answer: Any) -> Sweep:
        sweep = Sweep.model_validate(answer)
        sweep._sweeps = self  # noqa: SLF001 - its own
        return sweep
