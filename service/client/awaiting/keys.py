"""API keys, for whoever has one of scope admin: `client.keys`."""

from collections.abc import AsyncIterator, Sequence

from service.client.awaiting.connection import AsyncConnection
from service.client.requests import Request, given, path_of
from service.client.views import Key, NewKey


class AsyncKeys:
    """`client.keys`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_in_seconds: int | None = None,
        max_queued_jobs: int | None = None,
        max_stored_bytes: int | None = None,
        requests_per_minute: int | None = None,
    ) -> NewKey:
        """Make a key. Its text is told this once and kept nowhere, so that this is the one create that has no
        idempotency key, and is not asked for again when the connection breaks."""
        limits = given(
            max_queued_jobs=max_queued_jobs,
            max_stored_bytes=max_stored_bytes,
            requests_per_minute=requests_per_minute,
        )
        body = given(
            name=name, scopes=list(scopes), expires_in_seconds=expires_in_seconds, limits=limits or None
        )
        request = Request("POST", "/v1/keys", json=body, repeatable=False)
        return NewKey.model_validate(await self._connection.json(request))

    async def get(self, key_id: str) -> Key:
        return Key.model_validate(await self._connection.json(Request("GET", path_of("keys", key_id))))

    def list(self, *, limit: int | None = None) -> AsyncIterator[Key]:
        """All keys by id, those that are good no longer among them."""
        return self._connection.pages("/v1/keys", Key.model_validate, {}, limit=limit)

    async def revoke(self, key_id: str) -> Key:
        """Let a key be good no longer."""
        request = Request("POST", path_of("keys", key_id, "revoke"))
        return Key.model_validate(await self._connection.json(request))
