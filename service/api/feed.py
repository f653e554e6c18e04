"""Events as they happen: one poller a process wakes whoever follows a job, however many do."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from service.errors import NotFound, ServiceError
from service.store import events, jobs
from service.store.database import Database
from service.store.events import Event

POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
BATCH = 500
AT_ONCE = 8  # followers that are woken in one turn of the event loop: predictions are answered in between
PREAMBLE = "retry: 2000\n\n"  # milliseconds after which a client that was cut off comes again
KEEP_ALIVE = ": keep-alive\n\n"

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Follower:
    job_id: str
    after: int  # the number of the last event that was sent
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class EventFeed:
    """Used in one event loop; reads the database in the thread pool."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._followers: set[_Follower] = set()
        self._watched = asyncio.Event()
        self._reads: dict[tuple[str, int], asyncio.Task[_News]] = {}  # since the last look, by job and number
        self._is_stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll meanwhile, but only while someone follows."""
        poller = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self.stop()
            poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await poller

    def stop(self) -> None:
        """End every stream soon, so that the server can leave. Called in the event loop."""
        self._is_stopped = True
        for follower in self._followers:
            follower.wake.set()

    async def stream(self, job_id: str, after: int) -> AsyncIterator[str]:
        """Server-Sent Events of a job with a number over `after`: those there are, then each as it is
        stored, until the job has ended and all of them are sent, or it is deleted."""
        yield PREAMBLE
        with self._following(job_id, after) as follower:
            while not self._is_stopped:
                follower.wake.clear()
                news = await self._read(job_id, follower.after)
                if news.text:
                    yield news.text
                    follower.after = news.newest
                if news.is_last:
                    return
                if not news.is_full and not await _woken(follower):
                    yield KEEP_ALIVE

    async def _read(self, job_id: str, after: int) -> "_News":
        """What is new for a follower, read once for all who ask for the same between two looks. What comes meanwhile is
        seen by the next look."""
        key = job_id, after
        if key not in self._reads:
            self._reads[key] = asyncio.create_task(run_in_threadpool(_news, self._db, job_id, after))
        try:
            return await asyncio.shield(self._reads[key])  # one that leaves takes it from no other
        except Exception:
            self._reads.pop(key, None)  # who comes next tries again
            raise

    @contextmanager
    def _following(self, job_id: str, after: int) -> Iterator[_Follower]:
        follower = _Follower(job_id, after)
        self._followers.add(follower)
        self._watched.set()
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._watched.clear()
                self._reads.clear()  # nobody looks any more

    async def _poll(self) -> None:
        while True:
            await self._watched.wait()
            try:
                await self._look()
            except ServiceError as error:
                log.warning("events are looked at later: %s", error.detail)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("could not look for events")
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        job_ids = sorted({follower.job_id for follower in self._followers})
        heads = await run_in_threadpool(events.heads, self._db, job_ids)
        behind = [
            follower
            for follower in self._followers
            if follower.job_id in job_ids
            and (heads.get(follower.job_id) is None or heads[follower.job_id] > follower.after)
        ]
        self._reads = {key: read for key, read in self._reads.items() if not read.done()}
        await asyncio.gather(*(self._read(*key) for key in {(one.job_id, one.after) for one in behind}))
        for number, follower in enumerate(behind, 1):
            follower.wake.set()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)


@dataclass(frozen=True)
class _News:
    """Events as they are sent, the number of the last of them, whether there may be more now, and whether none will
    follow."""

    text: str
    newest: int
    is_full: bool
    is_last: bool


def _news(db: Database, job_id: str, after: int) -> _News:
    try:
        job = jobs.get(db, job_id)  # first: if it has ended by now, its last event is there by now
    except NotFound:
        return _News("", after, is_full=False, is_last=True)
    batch = events.page(db, job_id, after=after, limit=BATCH)
    has_ended = job.is_terminal or any(event.type == "end" for event in batch)
    is_full = len(batch) >= BATCH
    newest = batch[-1].seq if batch else after
    return _News("".join(map(_as_text, batch)), newest, is_full, has_ended and not is_full)


async def _woken(follower: _Follower) -> bool:
    try:
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            await follower.wake.wait()
    except TimeoutError:
        return False
    return True


def _as_text(event: Event) -> str:
    data = json.dumps(event.data, separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
