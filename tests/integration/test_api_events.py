"""Events and series, as pages and live."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.store import attempts, events, jobs
from service.store.attempts import Attempt, Point
from tests.integration.conftest import Live, eventually, serving

Told = tuple[int, str, dict[str, Any]]


@contextmanager
def stream(live: Live, job_id: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    sent = {"Accept": "text/event-stream", **(headers or {})}
    with live.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=sent) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        yield answer


def told(answer: httpx.Response) -> Iterator[Told]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def followed(live: Live, job_id: str, headers: dict[str, str] | None = None) -> list[Told]:
    """All events to the end of the stream."""
    with stream(live, job_id, headers) as answer:
        return list(told(answer))


def stored(live: Live, job_id: str) -> list[Told]:
    page = live.http.get(f"/v1/jobs/{job_id}/events?limit=1000").json()
    assert not page["has_more"]
    return [(event["seq"], event["type"], event["data"]) for event in page["data"]]


def progress(live: Live, attempt: Attempt, steps: range) -> None:
    for step in steps:
        attempts.write_progress(live.db, attempt, progress={"step": step})


def end(live: Live, attempt: Attempt) -> None:
    attempts.fail(live.db, attempt, code="diverged", detail="x", runtime=1)


def test_pages_of_events(live: Live) -> None:
    job_id = live.submit()
    progress(live, live.claim(job_id), range(5))
    path = f"/v1/jobs/{job_id}/events"
    first = live.http.get(path, params={"limit": 3}).json()
    rest = live.http.get(path, params={"limit": 4, "after": first["next"]}).json()
    assert [event["seq"] for event in first["data"] + rest["data"]] == [1, 2, 3, 4, 5, 6, 7]
    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert first["data"][0]["type"] == "status"
    assert first["data"][0]["data"] == {"state": "queued"}
    assert first["data"][0]["time"].endswith("Z")


def test_the_stream_of_a_job_that_has_ended_ends_at_once(live: Live) -> None:
    job_id = live.submit()
    attempt = live.claim(job_id)
    progress(live, attempt, range(600))  # more than one batch
    end(live, attempt)

    events = followed(live, job_id)

    assert events == stored(live, job_id)
    assert [seq for seq, _, _ in events] == list(range(1, 605))
    assert events[-1][1] == "end"
    assert followed(live, job_id, {"Last-Event-ID": "602"}) == events[602:]
    assert followed(live, job_id, {"Last-Event-ID": "604"}) == []
    with live.http.stream(
        "GET", f"/v1/jobs/{job_id}/events?after=600", headers={"Accept": "text/event-stream"}
    ) as answer:
        assert list(told(answer)) == events[600:]


def test_events_come_live_to_many_followers_without_a_gap_or_a_repeat(live_on_each: Live) -> None:
    live = live_on_each
    job_id = live.submit()
    seen: list[list[Told]] = [[] for _ in range(6)]

    def follow(events: list[Told]) -> None:
        with stream(live, job_id) as answer:
            events.extend(told(answer))

    def follow_in_pieces(events: list[Told]) -> None:
        """Cut off and come again, until the end is seen."""
        while not events or events[-1][1] != "end":
            last = {"Last-Event-ID": str(events[-1][0])} if events else {}
            with stream(live, job_id, last) as answer:
                for count, event in enumerate(told(answer)):
                    events.append(event)
                    if count == 6:
                        break

    threads = [
        threading.Thread(target=follow if index % 2 else follow_in_pieces, args=(events,))
        for index, events in enumerate(seen)
    ]
    for thread in threads:
        thread.start()
    attempt = live.claim(job_id)
    for step in range(40):
        progress(live, attempt, range(step, step + 1))
        time.sleep(0.01 if step % 10 else 0.15)
    end(live, attempt)
    for thread in threads:
        thread.join(timeout=20)

    expected = stored(live, job_id)
    assert len(expected) == 44
    assert all(events == expected for events in seen)


def test_an_event_arrives_soon(live: Live) -> None:
    job_id = live.submit()
    with stream(live, job_id) as answer:
        events = told(answer)
        assert next(events)[1:] == ("status", {"state": "queued"})
        began = time.monotonic()
        jobs.cancel(live.db, job_id)
        assert [kind for _, kind, _ in events] == ["status", "end"]
        assert time.monotonic() - began < 2


def test_a_job_that_ends_between_two_reads_ends_its_stream(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = live.submit()
    attempt = live.claim(job_id)
    read = events.page

    def page(*arguments: Any, **options: Any) -> list[events.Event]:
        if jobs.get(live.db, job_id).state == "running":
            end(live, attempt)
        return read(*arguments, **options)

    monkeypatch.setattr("service.store.events.page", page)
    began = time.monotonic()
    assert followed(live, job_id)[-1][1] == "end"
    assert time.monotonic() - began < 5


def test_a_quiet_stream_says_that_it_is_alive(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.feed.KEEP_ALIVE_SECONDS", 0.05)
    with stream(live, live.submit()) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith(":"))
        assert next(lines) == next(lines) == ": keep-alive"


def test_the_stream_of_a_job_that_is_deleted_ends(live: Live) -> None:
    job_id = live.submit()
    jobs.pause(live.db, job_id)
    with stream(live, job_id) as answer:
        events = told(answer)
        assert [next(events)[0], next(events)[0]] == [1, 2]
        jobs.remove(live.db, job_id)
        assert list(events) == []


def test_a_follower_that_left_is_forgotten(live: Live) -> None:
    feed = live.server.application.state.context.feed
    with stream(live, live.submit()) as answer:
        events_of_it = told(answer)  # held: its end would close the connection
        next(events_of_it)
        assert len(feed._followers) == 1
    eventually(lambda: not feed._followers)


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", "9" * 30, "٣"])
def test_a_last_event_id_that_is_none(live: Live, last: str) -> None:
    answer = live.http.get(
        f"/v1/jobs/{live.submit()}/events",
        headers=[(b"Accept", b"text/event-stream"), (b"Last-Event-ID", last.encode())],
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert answer.json()["errors"][0]["pointer"] == "header/Last-Event-ID"


def test_streams_end_when_the_server_stops(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    with serving(settings_for(tmp_path)) as live:
        job_id = live.submit()
        with stream(live, job_id) as answer:
            events = told(answer)
            next(events)
            began = time.monotonic()
            live.server.should_exit = True
            assert list(events) == []  # ended by the server, and not cut
            assert time.monotonic() - began < 2
        live.stop()
        assert time.monotonic() - began < 4


def test_series(live: Live) -> None:
    job_id = live.submit()
    attempt = live.claim(job_id)
    points = [
        Point(name, step, step / 10, step * 2.0) for name in ("a_loss", "b_loss") for step in range(100)
    ]
    attempts.write_progress(live.db, attempt, progress={}, points=points)

    def found(**params: Any) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = []
        while True:
            page = live.http.get(f"/v1/jobs/{job_id}/metrics", params=params).json()
            data += page["data"]
            if not page["has_more"]:
                return data
            params["after"] = page["next"]

    everything = found()
    assert len(everything) == 200
    assert everything[3].keys() == {"name", "step", "epoch", "value", "time"}
    assert (everything[3]["name"], everything[3]["step"], everything[3]["value"]) == ("a_loss", 3, 6.0)
    assert found(limit=7) == everything
    assert [point["step"] for point in found(name="b_loss", after_step=97)] == [98, 99]
    thin = found(max_points=10, limit=3)
    assert [point["step"] for point in thin if point["name"] == "a_loss"] == [*range(0, 100, 11)]
    assert found(name="none_such") == []
