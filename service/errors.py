"""Errors a caller may see: each carries its HTTP status, a stable code and, where there is one, the
remedy. They are rendered once, as RFC 9457 problem+json, by `service.api.problems`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class FieldError:
    """One mistake in a payload. `pointer` is an RFC 6901 JSON pointer, such as `#/network/hidden_widths/0`."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """The one base of all errors that a caller is meant to read."""

    status = 500
    code = "internal_error"
    title = "Something failed on our side"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extensions: Mapping[str, Any] = {}  # further members of the problem, as JSON

    def kept(self) -> Self:
        """Itself, to be told later: a traceback would keep alive what its frames hold, pictures of megabytes."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class BadRequest(ServiceError):
    status, code, title = 400, "bad_request", "The request cannot be read"


class Unauthenticated(ServiceError):
    """No API key, or none that is good: the answer says how one is sent (RFC 6750, section 3)."""

    status, code, title = 401, "invalid_api_key", "A good API key is needed"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        reason = "" if self.code == "missing_api_key" else ', error="invalid_token"'
        self.headers = {"WWW-Authenticate": f'Bearer realm="numeral"{reason}'}


class Forbidden(ServiceError):
    status, code, title = 403, "forbidden", "This is not allowed"


class NotFound(ServiceError):
    status, code, title = 404, "not_found", "There is no such thing"


class Conflict(ServiceError):
    status, code, title = 409, "conflict", "The present state does not allow this"


class PayloadTooLarge(ServiceError):
    status, code, title = 413, "payload_too_large", "The body is over the limit"


class UnsupportedMedia(ServiceError):
    status, code, title = 415, "unsupported_media_type", "This kind of body is not read"


class RangeNotSatisfiable(ServiceError):
    status, code, title = 416, "range_not_satisfiable", "The range lies outside the content"


class Misdirected(ServiceError):
    status, code, title = 421, "untrusted_host", "This server does not answer under that name"


class Invalid(ServiceError):
    status, code, title = 422, "invalid", "The payload has mistakes"


class TooManyRequests(ServiceError):
    """Later: `retry_after` seconds goes out as the Retry-After header."""

    status, code, title = 429, "rate_limited", "Too many at a time"

    def __init__(self, detail: str, *, retry_after: int, code: str | None = None) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after)})


class Unavailable(ServiceError):
    """Try again: `retry_after` seconds goes out as the Retry-After header."""

    status, code, title = 503, "unavailable", "Not just now"

    def __init__(self, detail: str, *, retry_after: int = 2, code: str | None = None) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after)})
