"""The client without a server: what it sends, when it sends it again, and what it makes of the answers; both halves."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import (
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    InvalidSpec,
    Job,
    NotFound,
    Overloaded,
    StorageFull,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unreachable,
    unasync,
)
from service.client.following import AWAY_SECONDS, SILENCE_SECONDS, Following
from service.client.pictures import bodies, file_of
from service.client.retries import Retries
from tests.unit.halves import HALVES, connected

JOB = {
    "id": "job_0",
    "state": "queued",
    "parameter_count": 1,
    "attempt": 0,
    "created_at": "2026-01-31T12:00:00Z",
}
DIGIT = {"label": 7, "confidence": 0.5, "probabilities": [0.1] * 10, "warnings": []}

both = pytest.mark.parametrize("half", HALVES)


def answered(status: int = 200, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


class Script:
    """A server that gives these answers in turn, errors among them, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = iter(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_blocking_half_is_as_it_would_be_written() -> None:
    written = dict(unasync.written())
    there = set((Path(unasync.HERE) / "blocking").glob("*.py"))
    assert written.keys() == there
    for file, text in written.items():
        assert file.read_text() == text, "run python -m service.client.unasync"
        assert not re.search(r"\b(async|await|Async\w+|aclose|anext)\b", text), file


def test_the_client_loads_nothing_that_it_does_not_need() -> None:
    heavy = (
        "numpy",
        "PIL",
        "torch",
        "sqlalchemy",
        "fastapi",
        "celery",
        "typer",
        "service.spec",
        "service.settings",
    )
    code = (
        f"import sys, service.client; sys.exit(str([name for name in {heavy} if name in sys.modules] or ''))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""


# Trying again


def test_pauses_grow_and_stop_at_the_deadline() -> None:
    retries = Retries(deadline=60.0)
    error = httpx.ConnectError("refused")
    pauses = [retries.after_break(error, 0.0) or 0.0 for _ in range(6)]
    for pause, longest in zip(pauses, (0.2, 0.4, 0.8, 1.6, 3.2, 5.0), strict=True):
        assert longest / 2 <= pause <= longest
    assert retries.after_break(error, 58.0) is None


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "at_least"),
    [
        (429, {"Retry-After": "7"}, True, 7.0),
        (503, {"Retry-After": "7"}, False, 7.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, True, 0.0),
        (503, {"Retry-After": "31"}, True, None),
        (502, {}, True, 0.0),
        (502, {}, False, None),
        (500, {}, True, None),
        (404, {}, True, None),
        (202, {}, True, None),
    ],
)
def test_what_is_answered_decides(
    status: int, headers: dict[str, str], repeatable: bool, at_least: float | None
) -> None:
    answer = httpx.Response(status, headers=headers)
    pause = Retries(30.0, repeatable=repeatable).after_answer(answer, 0.0)
    assert pause is None if at_least is None else pause is not None and pause >= at_least


def test_what_may_have_arrived_is_sent_again_only_if_twice_is_the_same_as_once() -> None:
    once = Retries(30.0, repeatable=False)
    assert once.after_break(httpx.ReadError("reset"), 0.0) is None
    assert once.after_break(httpx.ConnectError("refused"), 0.0) is not None


@both
def test_a_create_is_sent_again_with_its_key(half: str) -> None:
    script = Script(answered(503, {}), httpx.ReadError("reset"), answered(202, JOB), answered(202, JOB))
    with connected(half, answer=script) as client:
        job = client.jobs.create(preset="slp-200")
        assert (job.id, job.state, job.ended) == ("job_0", "queued", False)
        client.jobs.create(preset="slp-200")
    keys = [request.headers["Idempotency-Key"] for request in script.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert json.loads(script.asked[2].content) == {"preset": "slp-200"}


@both
def test_a_rollback_is_not_sent_twice(half: str) -> None:
    script = Script(httpx.ReadError("reset"))
    with connected(half, answer=script) as client, pytest.raises(Unreachable, match="http://test"):
        client.models.rollback("champion")
    assert len(script.asked) == 1


@both
def test_content_in_pieces_is_sent_whole_each_time(half: str) -> None:
    batch = {"id": "batch_0", "state": "queued", "model_id": "m", "counts": {}, "created_at": ""}
    bodies_seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies_seen.append(request.content)
        return answered(503, {}) if len(bodies_seen) == 1 else answered(202, batch)

    async def aread(request: httpx.Request) -> httpx.Response:
        await request.aread()
        return answer(request)

    def read(request: httpx.Request) -> httpx.Response:
        request.read()
        return answer(request)

    handler: Any = read if half == "blocking" else aread
    with connected(half, answer=handler) as client:
        assert client.batches.create([b"1\n", b"2\n"]).id == "batch_0"
    assert bodies_seen == [b"1\n2\n"] * 2


@both
def test_who_asks_is_told(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_API_KEY", "num_secret")
    monkeypatch.setenv("NUMERAL_URL", "http://elsewhere:1/")
    script = Script(answered(200, JOB))
    with connected(half, "", script) as client:
        client.jobs.get("../models")
    (request,) = script.asked
    assert str(request.url) == "http://elsewhere:1/v1/jobs/..%2Fmodels"
    assert request.headers["Authorization"] == "Bearer num_secret"
    assert re.fullmatch(r"numeral/\d\S* python/3\S*", request.headers["User-Agent"])


# Errors


@both
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "missing_api_key", Unauthorized),
        (403, "insufficient_scope", Forbidden),
        (404, "job_not_found", NotFound),
        (409, "illegal_transition", Conflict),
        (413, "too_many_images", TooLarge),
        (422, "invalid_spec", InvalidSpec),
        (422, "parameter_budget", InvalidSpec),
        (422, "invalid_parameter", Invalid),
        (429, "rate_limited", Overloaded),
        (503, "queue_full", Overloaded),
        (507, "disk_full", StorageFull),
        (418, "something_new", ApiError),
    ],
)
def test_an_error_is_typed_by_its_code(half: str, status: int, code: str, kind: type[ApiError]) -> None:
    problem = {
        "code": code,
        "detail": "no",
        "request_id": "r",
        "errors": [{"pointer": "#/seed", "detail": "too small"}],
    }
    script = Script(answered(status, problem, Retry_After="3"))
    with connected(half, answer=script, patience=0) as client, pytest.raises(ApiError) as refusal:
        client.jobs.create({})
    error = refusal.value
    assert type(error) is kind
    assert (error.status, error.code, error.request_id, error.retry_after) == (status, code, "r", 3.0)
    assert [(one.pointer, one.detail) for one in error.errors] == [("#/seed", "too small")]
    assert str(error) == "no\n#/seed: too small"


@both
def test_an_error_of_something_between_is_quoted(half: str) -> None:
    script = Script(httpx.Response(502, text="<h1>Bad gateway</h1>"))
    with connected(half, answer=script, patience=0) as client, pytest.raises(ApiError, match="Bad gateway"):
        client.jobs.get("job_0")


# Pages


@both
def test_pages_are_turned_as_they_are_read(half: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("after", 0))
        limit = int(request.url.params["limit"])
        data = [JOB | {"id": f"job_{start + index}"} for index in range(limit)]
        return answered(200, {"data": data, "has_more": start + limit < 300, "next": str(start + limit)})

    asked: list[httpx.Request] = []

    def counted(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer(request)

    with connected(half, answer=counted) as client:
        found = client.jobs.list(state=["queued", "running"])
        assert asked == []
        assert next(found).id == "job_0"
        assert len(asked) == 1
        assert [job.id for job in client.jobs.list(limit=230)] == [f"job_{index}" for index in range(230)]
        assert [request.url.params["limit"] for request in asked[1:]] == ["100", "100", "30"]
        assert len(list(client.jobs.list())) == 300
        assert list(client.jobs.list(limit=0)) == []
    assert asked[0].url.params.get_list("state") == ["queued", "running"]


# Events


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream of these lines, and then, if it is to break, an error."""

    def __init__(self, text: str, *, breaks: bool) -> None:
        self._text, self._breaks = text, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield self._text.encode()
        if self._breaks:
            raise httpx.ReadError("reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def streamed(*numbers: int, breaks: bool = True, rest: str = "") -> httpx.Response:
    text = "retry: 2000\n\n: keep-alive\n\n"
    for number in numbers:
        kind = "end" if number == 6 else "progress"
        text += f'id: {number}\nevent: {kind}\ndata: {{"step": {number}}}\n\n'
    return httpx.Response(200, stream=Broken(text + rest, breaks=breaks))


@both
def test_events_are_taken_up_where_they_broke_off(half: str) -> None:
    script = Script(
        streamed(1, 2, rest="id: 3\nevent: progress\ndata: {"),  # in the middle of an event
        answered(200, JOB | {"state": "running"}),
        httpx.ConnectError("refused"),
        answered(503, {"code": "unavailable"}),
        streamed(2, 3, 4, breaks=False),  # one comes again, and the server says goodbye
        answered(200, JOB | {"state": "running"}),
        streamed(5, 6, breaks=False),
    )
    with connected(half, answer=script) as client:
        events = list(client.jobs.events("job_0"))
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].type == "end"
    streams = [request for request in script.asked if request.url.path.endswith("/events")]
    assert [request.headers["Last-Event-ID"] for request in streams] == ["0", "2", "2", "2", "4"]


@both
def test_a_job_whose_events_are_all_told_is_over(half: str) -> None:
    script = Script(
        streamed(1, breaks=False),
        answered(200, JOB | {"state": "failed"}),
        answered(200, {"data": [{"seq": 2}]}),  # there is one more
        streamed(2, breaks=False),
        answered(200, JOB | {"state": "failed"}),
        answered(200, {"data": []}),
    )
    with connected(half, answer=script) as client:
        assert [event.seq for event in client.jobs.events("job_0")] == [1, 2]


@both
def test_waiting_tells_of_progress(half: str) -> None:
    done = JOB | {"state": "succeeded", "metrics": {"test_accuracy": 0.9}}
    script = Script(answered(202, JOB), streamed(1, 2, 6, breaks=False), answered(200, done))
    told: list[int | None] = []
    with connected(half, answer=script) as client:
        job = client.jobs.create({}).wait(on_progress=lambda progress: told.append(progress.step))
        assert (job.state, job.ended, job.metrics["test_accuracy"]) == ("succeeded", True, 0.9)
    assert told == [1, 2]


def test_a_coroutine_that_is_told_is_awaited() -> None:
    script = Script(streamed(1, 6, breaks=False), answered(200, JOB | {"state": "succeeded"}))
    told: list[int | None] = []

    async def tell(progress: Any) -> None:
        told.append(progress.step)

    with connected("awaiting", answer=script) as client:
        client.jobs.wait("job_0", on_progress=tell)
    assert told == [1]


def test_reads_get_shorter_as_the_end_comes_near() -> None:
    following = Following("job_0", 0, now=0.0, timeout=200.0)
    following.request(0.0)
    assert following.read_seconds == SILENCE_SECONDS
    assert not following.is_near(100.0)
    assert following.is_near(160.0)
    following.request(160.0)
    assert following.read_seconds == 20.0
    assert following.patience(190.0) == 10.0
    following.request(199.9)
    assert following.read_seconds <= 0.2
    with pytest.raises(TimedOut, match="job_0"):
        following.take("", 200.0)
    with pytest.raises(TimedOut):
        following.broke(httpx.ReadTimeout("silent"), 201.0)


def test_a_server_may_be_away_for_a_while_and_a_slow_listener_is_no_absence() -> None:
    following = Following("job_0", 0, now=0.0)
    error = httpx.ReadError("reset")
    following.take("", 0.0)
    following.broke(error, 1000.0)  # the first in a thousand seconds
    following.broke(error, 1000.0 + AWAY_SECONDS)
    with pytest.raises(Unreachable):
        following.broke(error, 1001.0 + AWAY_SECONDS)
    following.take("", 2000.0)
    following.broke(error, 3000.0)


def test_a_job_of_no_client_cannot_ask() -> None:
    with pytest.raises(ValueError, match="came from no client"):
        Job.model_validate(JOB).wait()


def test_what_is_told_is_frozen_and_kept() -> None:
    job = Job.model_validate(JOB | {"new_field": 1})
    assert job.as_told() == JOB | {"new_field": 1}
    with pytest.raises(ValueError, match="frozen"):
        setattr(job, "state", "running")  # noqa: B010 - as somebody would by mistake


# Pictures


def sent(images: Any) -> list[dict[str, Any]]:
    return [dict(body) for body in bodies(images)]


GREYS = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)


@pytest.mark.parametrize(
    "array",
    [
        GREYS,
        GREYS.reshape(3, 784),
        GREYS.reshape(3, 1, 28, 28),
        GREYS.astype(np.int64),
        GREYS.astype(np.float32),
        (GREYS / 255).astype(np.float32),
        list(GREYS),
        [GREYS[0], GREYS[1:].reshape(2, 784)],
    ],
)
def test_whole_numbers_travel_as_bytes(array: Any) -> None:
    (body,) = sent(array)
    assert body["content"] == GREYS.tobytes()
    assert body["headers"] == {"Content-Type": "application/octet-stream"}


def test_other_numbers_travel_as_they_are() -> None:
    share = np.full(784, 0.1234)
    assert sent(share) == [{"json": {"images": [[0.1234] * 784], "scale": "unit"}}]
    assert sent(share * 255)[0]["json"]["scale"] == "byte"
    assert sent(np.ones((28, 28), bool))[0]["content"] == b"\xff" * 784


def test_files_travel_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(GREYS[0]).save(file)
    data = file.read_bytes()
    with file.open("rb") as opened:
        for image in (file, str(file), data, bytearray(data), opened):
            assert sent(image) == [{"content": data}]
    (body,) = sent([file, data])
    assert [name for name, _ in body["files"]] == ["files", "files"]
    assert file_of(Image.open(file))[:4] == b"\x89PNG"
    assert sent(np.zeros((50, 40, 3), np.uint8))[0]["content"][:4] == b"\x89PNG"
    assert sent(np.zeros((50, 40)))[0]["content"][:4] == b"\x89PNG"


def test_an_order_is_kept_and_a_request_is_never_too_large() -> None:
    found = sent([b"file", GREYS[0], GREYS[1], b"file"])
    assert [next(iter(body)) for body in found] == ["content"] * 3
    assert [len(body["content"]) for body in found] == [4, 2 * 784, 4]
    assert [len(body["content"]) for body in sent(np.zeros((2500, 784), np.uint8))] == [
        784_000,
        784_000,
        392_000,
    ]
    megabytes = [bytes(3 * 1024**2)] * 5
    assert [len(body["files"]) if "files" in body else 1 for body in sent(megabytes)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("images", "kind", "said"),
    [
        ([], ValueError, "no image"),
        (np.full(784, np.nan), ValueError, "finite"),
        (np.full(784, -1), ValueError, "between 0 and 255"),
        (np.full((50, 50), 256), ValueError, "between 0 and 255"),
        (np.array(["7"] * 784), ValueError, "numbers"),
        (7, TypeError, "int is no picture"),
        ([[0] * 784], TypeError, "list is no picture"),
        ("no-such-file.png", OSError, "no-such-file"),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_sent(
    images: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        sent(images)


def test_a_file_that_is_open_as_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("7")
    with file.open() as opened, pytest.raises(TypeError, match="'rb'"):
        sent(opened)


@both
def test_all_requests_of_one_call_are_read_by_one_model(half: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        count = len(request.content) // 784
        return answered(200, {"model": "model_1", "version": 1, "predictions": [DIGIT] * count})

    asked: list[str] = []

    def counted(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.path}?{request.url.query.decode()}")
        return answer(request)

    with connected(half, answer=counted) as client:
        found = client.predict(np.zeros((1500, 28, 28), np.uint8), coverage=0.9, include=["box", "image"])
        assert (len(found.predictions), found.labels[:2]) == (1500, [7, 7])
        with pytest.raises(ValueError, match="1500 images"):
            _ = found.label
    query = "?coverage=0.9&include=box%2Cimage"
    assert asked == [f"/v1/models/latest/predict{query}", f"/v1/models/model_1/predict{query}"]


@both
def test_several_files_are_one_form(half: str) -> None:
    seen: list[bytes] = []

    def read(request: httpx.Request) -> httpx.Response:
        seen.append(request.read())
        return answered(200, {"model": "m", "version": 1, "predictions": [DIGIT] * 2})

    async def aread(request: httpx.Request) -> httpx.Response:
        seen.append(await request.aread())
        return answered(200, {"model": "m", "version": 1, "predictions": [DIGIT] * 2})

    handler: Any = read if half == "blocking" else aread
    with connected(half, answer=handler) as client:
        assert client.predict([b"first file", b"second file"]).labels == [7, 7]
    (form,) = seen
    assert form.index(b"first file") < form.index(b"second file")
    assert form.count(b'name="files"') == 2
