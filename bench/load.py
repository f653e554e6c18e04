"""Everything at once, on a real `numeral up`: predictions from JSON and from PNG at a steady pace, first alone, then while
a worker trains a large network and writes checkpoints of 50 MB, jobs are submitted, followers listen to their events and
pages are looked at. Bounds: the 99th percentile of a prediction at 3 times that of one alone, the 99th percentile of an
event's way from its row to a follower at a second, no request that failed.

    python -m bench.load [--seconds 60] [--followers 200] [--queued 500]
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from bench.serving import pictures, png
from service.client import Client
from tests.acceptance.conftest import running

RATIO_BOUND, LAG_BOUND = 3.0, 1.0
SMALL = {"network": {"hidden_widths": [32]}, "epochs": 1}
LARGE = {
    "network": {"hidden_widths": [2500, 2000, 1500, 1000, 500]},
    "epochs": 1000,
    "evaluation": {"every_steps": 5},
    "checkpoints": {"every_epochs": None, "every_steps": 5, "min_seconds": 0, "keep": "newest", "newest": 2},
}
PAGES = ("/", "/v1/jobs", "/v1/models", "/v1/workers", "/v1/status", "/v1/presets")
A_SECOND = {"predict json": 20.0, "predict png": 20.0, "submit": 1.0, "page": 2.0}  # requests of each kind
PREDICTIONS = ("predict json", "predict png")
DIGITS = 16  # different ones
TIMEOUT_SECONDS = 30
RETRY_SECONDS = 0.2


@dataclass
class Taken:
    """What a load came to: milliseconds of each answer by kind, when each event came by job and number, and what
    failed how often."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    events: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)

    def p99(self, kinds: Collection[str]) -> float:
        return float(np.percentile([one for kind in kinds for one in self.milliseconds[kind]], 99))


def load(
    url: str,
    until: threading.Event,
    *,
    kinds: Collection[str] = tuple(A_SECOND),
    follow: Sequence[str] = (),
    followers: int = 0,
    key: str | None = None,
) -> Taken:
    """Ask an API for all these kinds of things at their paces until told to stop, with followers of these jobs' events
    beside; a stream that breaks goes on from its last event. Whatever was not answered as it should is a failure."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    taken = Taken()
    calls = [threading.Thread(target=_calls, args=(url, headers, kind, until, taken)) for kind in kinds]
    listening = threading.Thread(target=_listen, args=(url, headers, follow, followers, until, taken))
    for thread in (*calls, listening):
        thread.start()
    for thread in (*calls, listening):
        thread.join()
    return taken


def _calls(url: str, headers: Mapping[str, str], kind: str, until: threading.Event, taken: Taken) -> None:
    due = time.monotonic()
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as http:
        for request in _requests(http, kind):
            if until.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + 1 / A_SECOND[kind], time.monotonic())  # what is late is not caught up with
            began = time.perf_counter()
            try:
                status = request().status_code
            except httpx.TransportError as error:
                taken.failures[f"{kind}: {type(error).__name__}"] += 1
                continue
            taken.milliseconds[kind].append((time.perf_counter() - began) * 1000)
            if status not in (200, 202):
                taken.failures[f"{kind}: {status}"] += 1


def _requests(http: httpx.Client, kind: str) -> Iterator[Callable[[], httpx.Response]]:
    if kind in PREDICTIONS:
        for body, typed in itertools.cycle(_bodies(kind)):
            yield partial(http.post, "/v1/predict", content=body, headers=typed)
    elif kind == "submit":
        while True:
            yield partial(http.post, "/v1/jobs", json=SMALL)
    else:
        for path in itertools.cycle(PAGES):
            yield partial(http.get, path)


def _bodies(kind: str) -> list[tuple[bytes, dict[str, str]]]:
    if kind == "predict png":
        return [(png(grey), {"Content-Type": "image/png"}) for grey in pictures(DIGITS)]
    flat = pictures(DIGITS).reshape(DIGITS, -1).tolist()
    return [(json.dumps({"images": [one]}).encode(), {"Content-Type": "application/json"}) for one in flat]


def _listen(
    url: str,
    headers: Mapping[str, str],
    follow: Sequence[str],
    followers: int,
    until: threading.Event,
    taken: Taken,
) -> None:
    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, limits=limits
        ) as http:
            tasks = [
                asyncio.create_task(_followed(http, job_id, taken))
                for job_id in itertools.islice(itertools.cycle(follow), followers)
            ]
            while not until.is_set():
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    if follow and followers:
        asyncio.run(all_of_them())


async def _followed(http: httpx.AsyncClient, job_id: str, taken: Taken) -> None:
    """One follower, which hears of a job to its end."""
    last = 0
    while True:
        try:
            asked = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
            async with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=asked) as answer:
                if answer.status_code != 200:
                    taken.failures[f"follow: {answer.status_code}"] += 1
                async for line in answer.aiter_lines():
                    if line.startswith("id:"):
                        last = int(line[3:])
                        taken.events[job_id].append((last, time.time()))
                    elif line == "event: end":
                        return
        except httpx.TransportError as error:
            taken.failures[f"follow: {type(error).__name__}"] += 1
        await asyncio.sleep(RETRY_SECONDS)


def lags(client: Client, taken: Taken, since: float) -> list[float]:
    """Seconds from an event's row to each follower that heard of it, of events after a moment."""
    found = []
    for job_id, heard in taken.events.items():
        told = _told(client, job_id)
        found += [at - told[number] for number, at in heard if told.get(number, 0) > since]
    return found


def _told(client: Client, job_id: str) -> dict[int, float]:
    """When each event of a job was stored, by its number."""
    found: dict[int, float] = {}
    after = 0
    while True:
        page = client.call("GET", f"/v1/jobs/{job_id}/events", params={"after": after, "limit": 1000})
        for event in page["data"]:
            found[event["seq"]] = datetime.fromisoformat(event["time"]).timestamp()
        if not page["has_more"]:
            return found
        after = page["next"]


def after(seconds: float) -> threading.Event:
    """Set once they are over."""
    until = threading.Event()
    threading.Timer(seconds, until.set).start()
    return until


def measure(home: Path, seconds: int, followers: int, queued: int) -> int:
    with running(home, NUMERAL_LOG_LEVEL="error") as service:
        client = service.client
        client.jobs.wait(client.jobs.create(SMALL).id)  # what predictions are asked of
        load(service.url, after(5), kinds=PREDICTIONS)
        alone = load(service.url, after(seconds), kinds=PREDICTIONS)
        job = service.start(LARGE, at_step=1)
        for _ in range(queued):
            client.jobs.create(SMALL, priority=9)
        since = time.time() + 2  # by then all of them listen
        loaded = load(service.url, after(seconds), follow=[job.id], followers=followers)
        late = lags(client, loaded, since)
        written = len(client.call("GET", f"/v1/jobs/{job.id}/checkpoints")["data"])
        step = service.step(job.id)
    print(f"trained to step {step} meanwhile, {written} checkpoints of 50 MB are kept")
    return report(alone, loaded, late)


def report(alone: Taken, loaded: Taken, late: list[float]) -> int:
    for name, taken in (("alone", alone), ("loaded", loaded)):
        for kind, values in taken.milliseconds.items():
            halves = np.percentile(values, [50, 99])
            print(
                f"{name:7} {kind:13} {len(values):6,} answers, median {halves[0]:7.1f} ms, p99 {halves[1]:7.1f} ms"
            )
    failures = alone.failures + loaded.failures
    ratio = loaded.p99(PREDICTIONS) / alone.p99(PREDICTIONS)
    lag = float(np.percentile(late, 99)) if late else float("inf")
    print(f"p99 of a prediction, loaded to alone: {ratio:.2f} (bound {RATIO_BOUND:.0f})")
    print(f"p99 of an event's way to a follower, {len(late):,} heard: {lag:.2f} s (bound {LAG_BOUND:.0f})")
    print(f"failed: {json.dumps(failures)} (bound: none)")
    return 0 if ratio <= RATIO_BOUND and lag <= LAG_BOUND and not failures else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="Of each of the two.")
    parser.add_argument("--followers", type=int, default=200)
    parser.add_argument("--queued", type=int, default=500, help="Jobs that wait.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        return measure(Path(home), arguments.seconds, arguments.followers, arguments.queued)


if __name__ == "__main__":
    sys.exit(main())
