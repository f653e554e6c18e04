"""Which request, trace, job and attempt a piece of work belongs to. Each line that is logged meanwhile says so, and what
is queued keeps the request and the trace in its row, so that they go on with it in whichever process takes it: a
message could be lost, and come twice."""

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass

REQUEST_ID = "request_id"
TRACEPARENT = re.compile(
    r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)  # W3C Trace Context


@dataclass(frozen=True)
class Trail:
    """What the work at hand belongs to, by the names that a log has; and where it stands in its trace."""

    ids: Mapping[str, object]
    traceparent: str | None


_NONE = Trail({}, None)
_here: ContextVar[Trail] = ContextVar("trail", default=_NONE)


def here() -> Trail:
    """Of the work at hand."""
    return _here.get()


def request_id() -> str | None:
    """Of the request at hand, or that which once asked for this work."""
    found = _here.get().ids.get(REQUEST_ID)
    return None if found is None else str(found)


class Following:
    """A context, to be entered as often as one likes: what the work in it belongs to, beside what it belonged to where
    this was made. Names without a value are left out."""

    def __init__(self, traceparent: str | None, **known: object) -> None:
        outer = _here.get()
        ids = {**outer.ids, **{name: value for name, value in known.items() if value is not None}}
        found = None if traceparent is None else TRACEPARENT.fullmatch(traceparent)
        if found is not None:
            ids["trace_id"] = found[1]
        self._trail = Trail(ids, traceparent)
        self._before: list[Token[Trail]] = []

    def __enter__(self) -> None:
        self._before.append(_here.set(self._trail))

    def __exit__(self, *_: object) -> None:
        _here.reset(self._before.pop())


def given(header: str | None) -> str | None:
    """A client's `traceparent`; None if it sent none, or none that is good."""
    found = None if header is None else TRACEPARENT.fullmatch(header)
    return None if found is None else found[0]


def begun() -> str:
    """The first `traceparent` of a new trace, which nobody records."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
