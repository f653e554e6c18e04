"""Bodies as bytes and as strict JSON, and query parameters that are known. What comes in is hostile until
it has passed here."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Never

from fastapi import Depends, Request

from service.api import problems
from service.errors import BadRequest, FieldError, Invalid, PayloadTooLarge, UnsupportedMedia

MAX_DEPTH = 32
# what a document may hold, numbers and lists as one each and names as eight, each 32 bytes or so: 4,096 images of numbers
MAX_VALUES = 3_300_000
MAX_VALUES_OF_REQUESTS = 2**18  # a spec or a sweep
SMALL = 2**16  # bytes of a document that is not counted
LARGE = 2**20  # bytes of a document, from which on one is read at a time
_reading = threading.Lock()


class MalformedJson(BadRequest):
    code = "malformed_json"


async def _raw(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw)]


def media_type(request: Request) -> str:
    """Of the body, without its parameters; empty if the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def decode(raw: bytes, what: str = "the body", *, most: int = MAX_VALUES) -> Any:
    """JSON as RFC 8259 has it: no NaN, no infinity, no key twice. Raises MalformedJson, and PayloadTooLarge for more
    than so many values, which take many times the memory that their text does."""
    if len(raw) > SMALL and _values(raw) > most:
        raise PayloadTooLarge(
            f"{what} holds more than {most:,} values: send them in parts, or images as bytes "
            "(application/octet-stream)",
            code="too_many_values",
        )
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise MalformedJson("the JSON is nested too deeply") from None
    except ValueError as error:
        raise MalformedJson(f"{what} is not JSON: {error}") from None


def _values(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + 8 * (raw.count(b":") + raw.count(b"{"))


@contextmanager
def alone(raw: bytes) -> Iterator[None]:
    """For what is done with a large document, the block is entered by one thread at a time."""
    with _reading if len(raw) > LARGE else nullcontext():
        yield


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number that JSON has")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


async def _object(request: Request, raw: RawBody) -> dict[str, Any]:
    """A JSON object of a shallow depth, whose text every database can store."""
    media = media_type(request)
    if not is_json(
        media
    ):  # a browser may not send this type to another site unasked, so no page can post here
        raise UnsupportedMedia(
            f"found {media or 'no Content-Type'}: send application/json", code="unsupported_media_type"
        )
    payload = decode(raw, most=MAX_VALUES_OF_REQUESTS)
    if not isinstance(payload, dict):
        raise Invalid(
            "the body must be a JSON object", code="not_an_object", errors=[FieldError("#", "not an object")]
        )
    _check_values(payload)
    return payload


JsonObject = Annotated[dict[str, Any], Depends(_object)]


def _check_values(payload: object) -> None:
    waiting: list[tuple[object, int]] = [(payload, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise MalformedJson(f"the JSON is nested deeper than {MAX_DEPTH} levels")
            waiting.extend((item, depth + 1) for item in value)
            if isinstance(value, dict):
                waiting.extend((item, depth + 1) for item in value.values())


def _check_text(text: str) -> None:
    if "\0" in text:
        raise MalformedJson("a text holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedJson("a text holds half a surrogate pair, which is no Unicode") from None


async def known_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not have: `?dryrun=true` must not submit a job."""
    if not request.query_params:
        return
    known = _names(request.scope["route"].dependant)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        expected = f"there are {', '.join(sorted(known))}" if known else "there are none here"
        raise problems.bad_parameters(
            FieldError(f"query/{name}", f"there is no such parameter; {expected}") for name in unknown
        )


def _names(dependant: Any) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_names(inner) for inner in dependant.dependencies))
