"""What may go wrong, by the code of the problem that the API answers (RFC 9457), or else by its status."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx


class NumeralError(Exception):
    """The one base of all that the client raises about the service."""


class Unreachable(NumeralError):
    """No server answers."""


class TimedOut(NumeralError, TimeoutError):
    """What was waited for goes on; the service has been told nothing."""


class FieldError(NamedTuple):
    """One mistake: `pointer` leads to the field in the body (RFC 6901), or is `query/NAME` and the like."""

    pointer: str
    detail: str


class ApiError(NumeralError):
    """The API refused. `code` is stable, `errors` names each field and what is wrong with it, `request_id` finds the
    request in the server's log, `retry_after` is in how many seconds it may be asked again, where it said so."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code", "http_error"))
        self.detail = str(problem.get("detail", problem.get("title", "")))
        self.errors = tuple(
            FieldError(item["pointer"], item["detail"]) for item in problem.get("errors") or ()
        )
        self.request_id = str(problem.get("request_id", ""))
        self.retry_after = retry_after
        fields = (f"{item.pointer}: {item.detail}" for item in self.errors)
        lines = [self.detail, *(line for line in fields if line not in self.detail)]
        super().__init__("\n".join(lines))


class Unauthorized(ApiError):
    """No API key, or none that is good (401)."""


class Forbidden(ApiError):
    """The API key does not reach as far as this (403)."""


class NotFound(ApiError):
    """There is no such thing (404)."""


class Conflict(ApiError):
    """The present state does not allow this (409)."""


class TooLarge(ApiError):
    """The body is over a limit (413)."""


class Unsupported(ApiError):
    """This kind of body is not read (415)."""


class Invalid(ApiError):
    """The payload, or a parameter, has mistakes (422)."""


class InvalidSpec(Invalid):
    """The training spec has mistakes: `errors` has each of them with its field."""


class NotSupported(ApiError):
    """Such an answer needs something that the server has not (501)."""


class Overloaded(ApiError):
    """Not just now (429, 503): `retry_after` is in how many seconds, where the server said so."""


class StorageFull(ApiError):
    """There is no room left where this is to be stored (507)."""


BY_CODE: Mapping[str, type[ApiError]] = {
    "invalid_spec": InvalidSpec,
    "parameter_budget": InvalidSpec,
    "unknown_preset": InvalidSpec,
    "too_many_members": InvalidSpec,
    "disk_full": StorageFull,
}
BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: Unsupported,
    422: Invalid,
    429: Overloaded,
    501: NotSupported,
    503: Overloaded,
    507: StorageFull,
}


def refusal(response: httpx.Response) -> ApiError:
    """The error that an answer means, whose body has been read; one that is no problem comes from something between
    here and the server, and is quoted."""
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:500] or response.reason_phrase}
    if not isinstance(problem, dict):
        problem = {"detail": str(problem)}
    status = response.status_code
    kind = BY_CODE.get(str(problem.get("code"))) or BY_STATUS.get(status, ApiError)
    return kind(status, problem, retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that a Retry-After header asks for; None if there is none, or if it names a date, as some proxies do and
    this service does not."""
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() else None
