"""The one rendering of errors, whoever raised them: RFC 9457 problem+json, and under `/v2` as the Open
Inference Protocol has it."""

import json
import logging
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from service.errors import FieldError, Invalid, NotFound, ServiceError

MEDIA_TYPE = "application/problem+json"
PROTOCOL = "/v2"  # where the Open Inference Protocol lies
MAX_ERRORS = 50  # a hostile payload has any number of mistakes
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = logging.getLogger(__name__)


class MethodNotAllowed(ServiceError):
    status, code, title = 405, "method_not_allowed", "This path has no such method"


class InferenceError(BaseModel):
    """What every error of the Open Inference Protocol looks like."""

    error: str


class FieldProblem(BaseModel):
    """One mistake: `pointer` leads to the field in the body (RFC 6901), or is `query/NAME`, `header/NAME`
    or `path/NAME`."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """What every error looks like (RFC 9457). `code` is stable, made for programs; `request_id` finds the
    request in the log."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem]

    model_config = {
        "json_schema_extra": {
            "example": {
                "type": "urn:numeral:problem:invalid_spec",
                "title": "The payload has mistakes",
                "status": 422,
                "detail": "the training spec has mistakes; each is listed with its field",
                "instance": "/v1/jobs",
                "code": "invalid_spec",
                "request_id": "019ab3c4d5e67f80912a3b4c5d6e7f80",
                "errors": [
                    {
                        "pointer": "#/network/hidden_widths/0",
                        "detail": "Input should be greater than or equal to 1",
                    }
                ],
            }
        }
    }


TITLES = {  # by status
    cls.status: cls.title for cls in ServiceError.__subclasses__() if cls.__module__ == "service.errors"
} | {
    507: "There is no room left to store this",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with these error statuses, and with the two that any
    route may: 422 for its parameters, 503 while the database is busy or away."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": TITLES[status], "content": content}
        for status in sorted({*statuses, 422, 503})
    }


def of_protocol(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As `documented`, for a route of the Open Inference Protocol."""
    return {
        status: {"description": TITLES[status], "model": InferenceError}
        for status in sorted({*statuses, 422, 503})
    }


def render(scope: Scope, error: ServiceError, **extensions: Any) -> Response:
    """The response to an error; `extensions` are further members of the problem."""
    if scope["path"].split("/", 2)[:2] == ["", PROTOCOL[1:]]:
        content = json.dumps({"error": error.detail}).encode()
        return Response(content, error.status, headers=error.headers, media_type="application/json")
    # in ASCII, since a message may quote text that is no Unicode
    content = json.dumps(described(scope, error) | extensions).encode()
    return Response(content, error.status, headers=error.headers, media_type=MEDIA_TYPE)


def described(scope: Scope, error: ServiceError) -> dict[str, Any]:
    """The members of a problem, as `Problem` has them."""
    shown = error.errors[:MAX_ERRORS]
    hidden = len(error.errors) - len(shown)
    return {
        "type": f"urn:numeral:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail + (f" ({hidden:,} more are not shown)" if hidden else ""),
        "instance": scope["path"],
        "code": error.code,
        "request_id": scope.get("state", {}).get("request_id", ""),
        "errors": [{"pointer": item.pointer, "detail": item.detail} for item in shown],
    }


def install(app: FastAPI) -> None:
    """Render every error of this application. Unexpected ones are the middleware's, see `limits`."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _gone)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error.detail)
    return render(request.scope, error, **error.extensions)


async def _bad_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(request.scope, bad_parameters(_pointed(error.errors())))


def bad_parameters(errors: Iterable[FieldError]) -> Invalid:
    """The error for mistakes in the query, the path or the headers."""
    listed = list(errors)
    detail = "; ".join(f"{item.pointer}: {item.detail}" for item in listed[:3])
    return Invalid(detail, code="invalid_parameter", errors=listed)


def _pointed(errors: Iterable[Any]) -> Iterable[FieldError]:
    for item in errors:
        yield FieldError("/".join(str(part) for part in item["loc"][:2]), item["msg"])


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return render(request.scope, _translated(request, error))


def _translated(request: Request, error: HTTPException) -> ServiceError:
    if error.status_code == 404:
        return NotFound("this path leads nowhere; see /openapi.json for those there are", code="no_such_path")
    if error.status_code == 405:
        allowed = ", ".join(_methods_of(request))
        return MethodNotAllowed(f"use one of {allowed}", headers={"Allow": allowed})
    translated = ServiceError(str(error.detail), code="http_error", headers=error.headers)
    translated.status = error.status_code
    return translated


def _methods_of(request: Request) -> list[str]:
    """Methods that some route has for this path."""
    routes = request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in routes)
    ]


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it
