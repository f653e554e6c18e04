"""Log lines: JSON that programs read, with what the work belongs to, and without secrets."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service import trail
from service.observing import logs
from service.settings import Settings
from service.trail import Following

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
URL = "postgresql://numeral:hunter2@db/numeral"

log = logging.getLogger("service.somewhere")


@contextmanager
def lines(*, is_json: bool) -> Iterator[io.StringIO]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.formatter("api", is_json=is_json))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield written
    finally:
        log.removeHandler(handler)
        log.propagate = True


def only(written: io.StringIO) -> dict[str, Any]:
    (line,) = written.getvalue().splitlines()
    told: dict[str, Any] = json.loads(line)
    return told


def test_a_line_says_what_it_is_about() -> None:
    with (
        lines(is_json=True) as written,
        Following(PARENT, request_id="r-1", job_id="job_1", attempt=2, key=None),
    ):
        log.warning("%s fell silent", "it")
    told = only(written)
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "level": "warning", "process": "api", "event": "it fell silent", "logger": "service.somewhere",
        "request_id": "r-1", "job_id": "job_1", "attempt": 2, "trace_id": TRACE,
    }  # fmt: skip


def test_what_work_belongs_to_ends_with_it() -> None:
    outer = Following(PARENT, request_id="r-1")
    with outer:
        inner = Following(PARENT, job_id="job_1")
        with inner, inner:
            assert trail.here().ids == {"request_id": "r-1", "job_id": "job_1", "trace_id": TRACE}
        assert trail.request_id() == "r-1"
    assert trail.here() == trail.Trail({}, None)


def test_a_traceback_is_one_line_of_json_without_secrets() -> None:
    with lines(is_json=True) as written:
        try:
            raise ValueError(f"cannot reach {URL}")
        except ValueError:
            log.exception("no database at %s, says num_k3xq7d2m_%s", URL, "x" * 43)
    told = only(written)
    assert "Traceback" in told["exception"]
    assert "ter2" not in written.getvalue()
    assert "x" * 8 not in written.getvalue()
    assert told["event"].startswith("no database at postgresql://numeral:***@db/numeral")


def test_a_console_reads_as_people_do() -> None:
    with lines(is_json=False) as written, Following(PARENT, job_id="job_1"):
        secret = f"num_k3xq7d2m_{'x' * 43}"
        try:
            raise ValueError(secret)
        except ValueError:
            log.exception("it failed")
    text = written.getvalue()
    assert "it failed" in text
    assert "job_id=job_1" in text
    assert "Traceback (most recent call last)" in text
    assert "x" * 8 not in text, "neither the message nor a variable"


@pytest.mark.parametrize(
    ("chosen", "is_terminal", "is_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("console", False, False)],
)
def test_json_is_for_programs(
    monkeypatch: pytest.MonkeyPatch, chosen: str, is_terminal: bool, is_json: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(Settings(log_format=chosen), "worker")
        log.info("hello")
    finally:
        root.handlers, root.level = handlers, level
    assert written.getvalue().startswith("{") is is_json
    assert "hello" in written.getvalue()


@pytest.mark.parametrize(
    "header", [None, "", "00-0-0-00", PARENT.upper(), f"00-{'0' * 32}-b7ad6b7169203331-01", f"01{PARENT[2:]}"]
)
def test_a_trace_context_that_is_none_is_passed_over(header: str | None) -> None:
    assert trail.given(header) is None


def test_a_trace_begins_where_nobody_has_begun_one() -> None:
    assert trail.given(PARENT) == PARENT
    first, second = trail.begun(), trail.begun()
    assert first != second
    assert trail.given(first) == first
