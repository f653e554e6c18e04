"""Followers of one job share what is read for them, and nothing that is old."""

import asyncio
from typing import Any, cast

import pytest

from service.api import feed
from service.api.feed import PREAMBLE, EventFeed
from service.errors import Unavailable

FOLLOWERS = 50


class Job:
    """Stands for what is read of a job that has ended: counts, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.reads, self.failures = 0, failures

    def news(self, _db: object, _job_id: str, after: int) -> Any:
        self.reads += 1
        if self.reads <= self.failures:
            raise Unavailable("locked")
        return feed._News(f"read {self.reads}\n\n", after + 1, is_full=False, is_last=True)


async def heard(events: EventFeed) -> list[str]:
    return [text async for text in events.stream("job_1", 0)]


def test_those_who_follow_together_cost_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job()
    monkeypatch.setattr(feed, "_news", job.news)

    async def follow() -> list[list[str]]:
        events = EventFeed(cast(Any, None))
        return await asyncio.gather(*(heard(events) for _ in range(FOLLOWERS)))

    assert asyncio.run(follow()) == [[PREAMBLE, "read 1\n\n"]] * FOLLOWERS
    assert job.reads == 1


def test_who_comes_when_all_have_left_is_read_to_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job()
    monkeypatch.setattr(feed, "_news", job.news)

    async def follow() -> list[list[str]]:
        events = EventFeed(cast(Any, None))
        return [await heard(events), await heard(events)]

    assert asyncio.run(follow()) == [[PREAMBLE, "read 1\n\n"], [PREAMBLE, "read 2\n\n"]]


def test_a_read_that_failed_is_not_told_to_who_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(failures=1)
    monkeypatch.setattr(feed, "_news", job.news)

    async def follow() -> list[str]:
        events = EventFeed(cast(Any, None))
        with events._following("job_1", 7):  # another stays, so that not all is forgotten
            with pytest.raises(Unavailable):
                await heard(events)
            return await heard(events)

    assert asyncio.run(follow()) == [PREAMBLE, "read 2\n\n"]
