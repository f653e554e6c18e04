"""API keys, for whoever has one of scope admin."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field, field_validator

from service.api.bodies import JsonObject
from service.api.context import Wired
from service.api.jobs.submissions import Payload, validated
from service.api.problems import documented
from service.api.schemas import Limit, Page, Time, maybe_rfc3339, rfc3339
from service.errors import Conflict
from service.keys import ID, Scope, Secret
from service.store import keys
from service.store.keys import Key, Limits

MAX_SECONDS = 10 * 366 * 86_400

Count = Annotated[int | None, Field(ge=1, le=2**53 - 1)]


async def required(context: Wired) -> None:
    """Raises Conflict where no request needs a key."""
    if not context.settings.requires_key:
        raise Conflict(
            "NUMERAL_AUTH is off, and whoever may do everything now is not to keep that for later: make keys with "
            "`numeral keys create`, or turn it on",
            code="auth_off",
        )


router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[Depends(required)])


class KeyLimits(Payload):
    """What one key may do; null leaves it to the settings."""

    max_queued_jobs: Annotated[Count, Field(description="Jobs that may wait at a time.")] = None
    max_stored_bytes: Annotated[
        Count, Field(description="Bytes of checkpoints and batches beyond which no more are submitted.")
    ] = None
    requests_per_minute: Annotated[
        Count, Field(description="Requests; each API process counts its share.")
    ] = None


class KeyRequest(Payload):
    """A key to make."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="What it is for.")]
    scopes: Annotated[
        list[Scope],
        Field(min_length=1, description="read, predict, train; admin is all of them and makes keys."),
    ]
    expires_in_seconds: Annotated[
        int | None, Field(ge=1, le=MAX_SECONDS, description="Null: good until it is revoked.")
    ] = None
    limits: KeyLimits = KeyLimits()

    @field_validator("scopes", mode="after")
    @classmethod
    def _once(cls, scopes: list[Scope]) -> list[Scope]:
        return sorted(set(scopes))


class KeyView(BaseModel):
    """A key, without what it is proved by."""

    id: Annotated[str, Field(description="With which its text begins.", examples=["num_k3xq7d2m"])]
    name: str
    scopes: list[Scope]
    limits: KeyLimits
    state: Literal["good", "expired", "revoked"]
    created_at: Time
    last_used_at: Annotated[Time | None, Field(description="To the minute.")]
    expires_at: Time | None
    revoked_at: Time | None

    @classmethod
    def of(cls, key: Key) -> "KeyView":
        return cls(
            id=key.id,
            name=key.name,
            scopes=list(key.scopes),
            limits=KeyLimits(**vars(key.limits)),
            state=key.state,
            created_at=rfc3339(key.created_at),
            last_used_at=maybe_rfc3339(key.last_used_at),
            expires_at=maybe_rfc3339(key.expires_at),
            revoked_at=maybe_rfc3339(key.revoked_at),
        )


class NewKey(KeyView):
    """A key that has just been made, and its text, which is told this once."""

    key: Annotated[str, Field(description="Send it as `Authorization: Bearer num_...`.")]


KeyId = Annotated[str, Path(pattern=f"^{ID}$", description="Id of a key.", examples=["num_k3xq7d2m"])]
Cursor = Annotated[str | None, Query(pattern=f"^{ID}$", description="`next` of the page before.")]

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/KeyRequest"},
                "example": {
                    "name": "the lab's scanner",
                    "scopes": ["predict"],
                    "expires_in_seconds": 31_536_000,
                },
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=NewKey,
    summary="Make an API key",
    responses=documented(400, 409, 413, 415, 507),
    openapi_extra=_BODY,
)
def create(context: Wired, payload: JsonObject, response: Response) -> NewKey:
    """Its text is in this answer and nowhere else: the database keeps a SHA-256 of it."""
    asked = validated(KeyRequest, payload)
    secret = Secret.new()
    made = keys.create(
        context.db,
        secret,
        name=asked.name,
        scopes=asked.scopes,
        expires_in=asked.expires_in_seconds,
        limits=Limits(**asked.limits.model_dump()),
    )
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKey(**KeyView.of(made).model_dump(), key=secret.text)


@router.get("", summary="List API keys", responses=documented(409))
def listed(context: Wired, limit: Limit = 20, after: Cursor = None) -> Page[KeyView]:
    """A page of keys by id, those that are good no longer among them."""
    found, has_more = keys.page(context.db, limit=limit, after=after)
    return Page(
        data=[KeyView.of(key) for key in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
    )


@router.get("/{key_id}", summary="Look at an API key", responses=documented(404, 409))
def shown(context: Wired, key_id: KeyId) -> KeyView:
    """Who may use it for what, and when it was used last."""
    return KeyView.of(keys.get(context.db, key_id))


@router.post("/{key_id}/revoke", summary="Revoke an API key", responses=documented(404, 409, 507))
def revoked(context: Wired, key_id: KeyId) -> KeyView:
    """Refused everywhere within a second, for good. Its jobs go on."""
    return KeyView.of(keys.revoke(context.db, key_id))
