"""Images that were kept, and what they are: `client.feedback`."""

from collections.abc import AsyncIterator

from service.client.awaiting.connection import AsyncConnection
from service.client.requests import Request, given, path_of
from service.client.views import Dataset, Sample


class AsyncFeedback:
    """`client.feedback`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    def list(self, *, labelled: bool | None = None, limit: int | None = None) -> AsyncIterator[Sample]:
        """Kept images, newest first; only those with a label, or without one."""
        params = given(labelled=labelled)
        return self._connection.pages("/v1/feedback", Sample.model_validate, params, limit=limit)

    async def get(self, sample_id: str) -> Sample:
        return Sample.model_validate(
            await self._connection.json(Request("GET", path_of("feedback", sample_id)))
        )

    async def label(self, sample_id: str, label: int | None) -> Sample:
        """Say which digit it shows; None takes an earlier label back."""
        request = Request("PUT", path_of("feedback", sample_id, "label"), json={"label": label})
        return Sample.model_validate(await self._connection.json(request))

    async def delete(self, sample_id: str) -> None:
        await self._connection.json(Request("DELETE", path_of("feedback", sample_id)))

    async def dataset(self, name: str = "feedback") -> Dataset:
        """A dataset of all labelled images; if nothing has changed since the last one, that."""
        request = Request("POST", "/v1/feedback/dataset", json={"name": name})
        return Dataset.model_validate(await self._connection.json(request))
