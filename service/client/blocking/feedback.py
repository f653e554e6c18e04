# Written by service.client.unasync from awaiting/feedback.py; change that.
"""Images that were kept, and what they are: `client.feedback`."""

from collections.abc import Iterator

from service.client.blocking.connection import Connection
from service.client.requests import Request, given, path_of
from service.client.views import Dataset, Sample


class Feedback:
    """`client.feedback`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, labelled: bool | None = None, limit: int | None = None) -> Iterator[Sample]:
        """Kept images, newest first; only those with a label, or without one."""
        params = given(labelled=labelled)
        return self._connection.pages("/v1/feedback", Sample.model_validate, params, limit=limit)

    def get(self, sample_id: str) -> Sample:
        return Sample.model_validate(self._connection.json(Request("GET", path_of("feedback", sample_id))))

    def label(self, sample_id: str, label: int | None) -> Sample:
        """Say which digit it shows; None takes an earlier label back."""
        request = Request("PUT", path_of("feedback", sample_id, "label"), json={"label": label})
        return Sample.model_validate(self._connection.json(request))

    def delete(self, sample_id: str) -> None:
        self._connection.json(Request("DELETE", path_of("feedback", sample_id)))

    def dataset(self, name: str = "feedback") -> Dataset:
        """A dataset of all labelled images; if nothing has changed since the last one, that."""
        request = Request("POST", "/v1/feedback/dataset", json={"name": name})
        return Dataset.model_validate(self._connection.json(request))
