"""The client itself: what it is made of, and reading digits."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from service.client.awaiting.batches import AsyncBatches
from service.client.awaiting.catalog import AsyncDatasets, AsyncPresets
from service.client.awaiting.connection import AsyncConnection
from service.client.awaiting.feedback import AsyncFeedback
from service.client.awaiting.jobs import AsyncJobs
from service.client.awaiting.keys import AsyncKeys
from service.client.awaiting.models import AsyncModels
from service.client.awaiting.sweeps import AsyncSweeps
from service.client.pictures import Picture, bodies, file_of
from service.client.requests import Request, given, path_of
from service.client.views import Answer, Digit, Explanation, Reading, Status, Worker


class AsyncClient:
    """One server. `url` defaults to NUMERAL_URL, then to this machine's port 8000; `api_key`, which it never shows, to
    NUMERAL_API_KEY. Answers of 503 and 429 and broken connections are tried again for as long as `patience` seconds;
    an answer may take `timeout`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        patience: float = 10.0,
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = AsyncConnection(url, api_key, patience, timeout, transport)
        self.url = self._connection.url
        self.jobs = AsyncJobs(self._connection)
        self.sweeps = AsyncSweeps(self._connection)
        self.models = AsyncModels(self._connection)
        self.batches = AsyncBatches(self._connection)
        self.datasets = AsyncDatasets(self._connection)
        self.presets = AsyncPresets(self._connection)
        self.feedback = AsyncFeedback(self._connection)
        self.keys = AsyncKeys(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        model: str = "latest",
        preprocess: str | None = None,
        min_confidence: float | None = None,
        coverage: float | None = None,
        include: Sequence[str] = (),
        store: bool = False,
    ) -> Answer:
        """Read digits, one an image: paths, bytes of files (PNG, JPEG, WebP, a ZIP of them), open files, images of
        Pillow, arrays (784 numbers or 28 rows of 28, one or many, white ink on black; of any other shape a picture), or
        a list of them. Any number: they are sent in as many requests as it takes, and read by one model.

        Abstain from those that are less probable than `min_confidence` or no digits, and tell the labels that hold the
        true one in a share `coverage` of all cases. `include` asks for more of each: image, box, polarity, not_a_digit.
        `store` keeps what the network saw of each, see `client.feedback`.
        Raises ValueError and TypeError for what is no picture."""
        params = given(
            preprocess=preprocess,
            min_confidence=min_confidence,
            coverage=coverage,
            include=",".join(include) or None,
            store=store or None,
        )
        found: Answer | None = None
        digits: list[Digit] = []
        for body in bodies(images):
            reader = model if found is None else found.model
            request = Request(
                "POST", path_of("models", reader, "predict"), params=params, repeatable=not store, **body
            )
            found = Answer.model_validate(await self._connection.json(request))
            digits += found.predictions
        assert found is not None, "there is one body at least"
        return found.model_copy(update={"predictions": digits})

    async def read(self, image: Picture, *, model: str = "latest") -> Reading:
        """Read all digits of one picture, given in any way that `predict` takes."""
        request = Request("POST", path_of("models", model, "read"), content=file_of(image))
        return Reading.model_validate(await self._connection.json(request))

    async def explain(
        self, image: Picture, *, model: str = "latest", label: int | None = None
    ) -> Explanation:
        """Why a model reads one image as it does, or is not sure that it is `label`; given as `predict` takes it."""
        path, params = path_of("models", model, "explain"), given(label=label)
        (body,) = bodies(image)
        return Explanation.model_validate(
            await self._connection.json(Request("POST", path, params=params, **body))
        )

    async def status(self) -> Status:
        """What is going on: jobs by state, the depth of the queues."""
        return Status.model_validate(await self._connection.json(Request("GET", "/v1/status")))

    def workers(self) -> AsyncIterator[Worker]:
        """The processes that train, or read batches, and are alive."""
        return self._connection.whole("/v1/workers", Worker.model_validate)

    async def call(self, method: str, path: str, **fields: Any) -> Any:
        """Any request, for what has no method here: `params`, `json`, `content`, `files`, `headers`; a POST is sent
        again after a broken connection only if it has `repeatable=True`. Returns the decoded answer."""
        return await self._connection.json(_any(method, path, fields))

    async def fetch(self, method: str, path: str, **fields: Any) -> bytes:
        """As `call`, where the answer is a file."""
        return await self._connection.bytes(_any(method, path, fields))


def _any(method: str, path: str, fields: dict[str, Any]) -> Request:
    return Request(method, path, **{"repeatable": method != "POST"} | fields)
