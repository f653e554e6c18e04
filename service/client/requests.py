"""What is asked: requests as values, which both halves of the client send, and where they go."""

import os
import platform
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Request:
    """One call of the API. It is sent again after a broken connection only if it is `repeatable`: if a second one
    changes nothing that the first has not. `content` in pieces is iterated anew each time that it is sent."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | Iterable[bytes] | None = None
    files: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True


def creation(path: str, key: str | None, **fields: Any) -> Request:
    """A request that makes something, with an idempotency key, so that sending it again makes nothing twice."""
    headers = {"Idempotency-Key": key or str(uuid.uuid4()), **fields.pop("headers", {})}
    return Request("POST", path, headers=headers, **fields)


def path_of(*parts: str) -> str:
    """A path under /v1; what a part holds stays in that part, also a slash or `..`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def url_of(url: str | None) -> str:
    """The server: as given, or NUMERAL_URL, or this machine's port 8000."""
    return (url or os.environ.get("NUMERAL_URL") or DEFAULT_URL).rstrip("/")


def headers_of(api_key: str | None) -> dict[str, str]:
    """Of every request: who asks. Raises ValueError for a key that is none."""
    agent = f"numeral/{version('numeral')} python/{platform.python_version()}"
    key = (api_key or os.environ.get("NUMERAL_API_KEY") or "").strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key holds characters that no key has")  # the HTTP library would show it
    return {"User-Agent": agent} | ({"Authorization": f"Bearer {key}"} if key else {})
