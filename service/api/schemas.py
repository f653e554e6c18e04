"""What several answers have in common."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field, WithJsonSchema

T = TypeVar("T")

Time = Annotated[str, Field(description="RFC 3339, UTC.", examples=["2026-01-31T12:00:00.000Z"])]
SpecJson = Annotated[
    dict[str, Any], WithJsonSchema({"allOf": [{"$ref": "#/components/schemas/TrainingSpec"}]})
]
Limit = Annotated[int, Field(ge=1, le=100, description="Entries a page.")]


class Page(BaseModel, Generic[T]):
    """A page of a list; `next` goes into `after` to get the following one."""

    data: list[T]
    has_more: bool
    next: str | None


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as text, in UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def maybe_rfc3339(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match header names the ETag; it is compared weakly (RFC 9110, section 13.1.2)."""
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given
