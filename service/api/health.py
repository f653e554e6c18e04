"""Whether the process is up, and whether it can serve."""

from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api import problems
from service.api.context import Context, Wired
from service.api.problems import documented
from service.errors import ServiceError, Unavailable
from service.running import broker
from service.store import schema

READY = "ready"

router = APIRouter(tags=["health"])


class Front(BaseModel):
    """What this is."""

    name: str
    version: str
    docs: str
    openapi: str


class Liveness(BaseModel):
    """The process is up."""

    status: Literal["alive"]


class Readiness(BaseModel):
    """What serving needs, each `ready` or with what is wrong. A model may be missing: training makes one."""

    status: Literal["ready"]
    checks: Annotated[
        dict[str, str],
        Field(examples=[{"database": "ready", "schema": "ready", "broker": "ready", "model": "none yet"}]),
    ]


@router.get("/", summary="What this is", responses=documented())
async def front() -> Front:
    """Name, version, and where the description of the API is."""
    return Front(name="numeral", version=version("numeral"), docs="/openapi.json", openapi="/openapi.json")


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process up", responses=documented())
async def livez() -> Liveness:
    """Answers as long as the process does; looks at nothing else."""
    return Liveness(status="alive")


@router.head("/readyz", response_model=Readiness, include_in_schema=False)
@router.get("/readyz", response_model=Readiness, summary="Can it serve", responses=documented())
def readyz(context: Wired, request: Request) -> Readiness | Response:
    """200 if database, schema and broker are there; else 503, a problem whose `checks` name what is not."""
    checks = {**storage(context), "broker": _broker(context)}
    missing = [name for name, found in checks.items() if found != READY]
    checks["model"] = context.classifier.describe()
    if missing:
        error = Unavailable(f"not ready: {', '.join(missing)}", code="not_ready")
        return problems.render(request.scope, error, checks=checks)
    return Readiness(status="ready", checks=checks)


def storage(context: Context) -> dict[str, str]:
    """Whether the database is there, and of the schema that this code needs."""
    try:
        found = schema.version(context.db)
    except ServiceError as error:
        return {"database": error.detail, "schema": "unknown"}
    needed = schema.head()
    return {"database": READY, "schema": READY if found == needed else f"is {found}, needs {needed}"}


def _broker(context: Context) -> str:
    try:
        broker.check(context.settings)
    except ServiceError as error:
        return error.detail
    return READY
