"""What a submit asks for, read strictly from JSON."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from service import presets
from service import spec as specs
from service.api.jobs import teachers, uploads
from service.errors import FieldError, Invalid, NotFound
from service.mistakes import field_mistake, pointed
from service.store.database import Database

DEFAULT_PRIORITY = 5
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_KEY = 64

M = TypeVar("M", bound=BaseModel)


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY:
            raise field_mistake("", f"{key[:20]!r}... is over {MAX_METADATA_KEY} characters: shorten the key")
        if not isinstance(value, str | int | float | bool | None):
            raise field_mistake("", f"{key!r} is nested: give a text, a number, a boolean or null")
    try:
        size = len(json.dumps(metadata, allow_nan=False))
    except ValueError:
        raise field_mistake("", "a number is infinite, or has thousands of digits") from None
    if size > MAX_METADATA_BYTES:
        raise field_mistake("", f"{size:,} bytes are over the limit of {MAX_METADATA_BYTES:,}")
    return metadata


Metadata = Annotated[
    dict[str, Any],
    Field(max_length=50, description="Your own notes: texts, numbers, booleans and null by name."),
    AfterValidator(_checked_metadata),
]
Priority = Annotated[int, Field(ge=0, le=9, description="0 goes first, 9 last.")]


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JobRequest(Payload):
    """A job with more than its spec. The spec is laid over the preset if both are given."""

    preset: Annotated[str | None, Field(description="One of `GET /v1/presets`.")] = None
    spec: Annotated[dict[str, Any] | None, Field(description="A TrainingSpec, or the part of it to set.")] = (
        None
    )
    metadata: Metadata = {}
    priority: Priority = DEFAULT_PRIORITY


class JobChange(Payload):
    """What may change; a field left out stays as it is."""

    metadata: Annotated[Metadata | None, Field(description="Replaces all that was there.")] = None
    priority: Priority | None = None


class Submission:
    """What a submit asks for, read strictly; its teacher, if it has one, named by id, and its
    uploaded datasets by what they are. Raises Invalid."""

    def __init__(self, payload: dict[str, Any], db: Database, *, max_parameters: int) -> None:
        is_envelope = not payload.keys().isdisjoint(JobRequest.model_fields)
        self.request = validated(JobRequest, payload) if is_envelope else JobRequest(spec=payload)
        merged = uploads.named(db, self.request.spec or {}, where="#/spec" if is_envelope else "#")
        if self.request.preset is not None:
            merged = presets.with_overrides(_preset(self.request.preset), merged)
        try:
            parsed = specs.parse(merged, max_parameters=max_parameters)
        except Invalid as error:
            if not is_envelope:
                raise
            raise _repointed(error, "#/preset" if self.request.spec is None else "#/spec") from None
        # also where a preset named it: this is the field to set
        where = f"{'#/spec' if is_envelope else '#'}/distillation/teacher"
        self.spec = teachers.named(db, parsed, where=where)


def validated(kind: type[M], payload: object) -> M:
    """The payload as that model. Raises Invalid with a pointer to each mistake."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise Invalid("the body has mistakes; each is listed with its field", errors=pointed(error)) from None


def _preset(name: str) -> dict[str, Any]:
    try:
        return presets.find(name).spec.model_dump(mode="json")
    except NotFound as error:
        raise Invalid(
            error.detail, code="unknown_preset", errors=[FieldError("#/preset", error.detail)]
        ) from None


def _repointed(error: Invalid, prefix: str) -> Invalid:
    def pointer(old: str) -> str:
        return prefix + old.removeprefix("#") if prefix == "#/spec" else prefix

    errors = [FieldError(pointer(item.pointer), item.detail) for item in error.errors]
    return Invalid(error.detail, code=error.code, errors=errors)
