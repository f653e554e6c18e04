"""Model versions, and the names that point at them: `client.models`."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from service.client.awaiting.connection import AsyncConnection
from service.client.requests import Request, path_of
from service.client.views import Alias, Model, Promotion


class AsyncModels:
    """`client.models`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, reference: str = "latest") -> Model:
        """By id, alias, or `latest`."""
        answer = await self._connection.json(Request("GET", path_of("models", reference)))
        return Model.model_validate(answer)

    def list(self, *, limit: int | None = None) -> AsyncIterator[Model]:
        """Models, newest first, page by page as they are iterated."""
        return self._connection.pages("/v1/models", Model.model_validate, {}, limit=limit)

    def aliases(self) -> AsyncIterator[Alias]:
        """Every alias, by name."""
        return self._connection.whole("/v1/aliases", Alias.model_validate)

    async def alias(self, name: str) -> Alias:
        """An alias with its moves, newest first."""
        return Alias.model_validate(await self._connection.json(Request("GET", path_of("aliases", name))))

    async def promote(self, alias: str, reference: str) -> Alias:
        """Point an alias at a model."""
        request = Request("PUT", path_of("aliases", alias), json={"model": reference})
        return Alias.model_validate(await self._connection.json(request))

    async def promote_unless_worse(self, alias: str, reference: str, *, level: float = 0.05) -> Promotion:
        """Point an alias at a model unless that is worse than the present one by a paired test on its test set. Raises
        Conflict (`worse_than_present`) if it is."""
        request = Request(
            "POST", path_of("aliases", alias, "promote"), json={"model": reference, "level": level}
        )
        return Promotion.model_validate(await self._connection.json(request))

    async def rollback(self, alias: str) -> Alias:
        """Point an alias at what it pointed at before. It is not asked for again when the connection breaks, since
        twice would go back twice."""
        request = Request("POST", path_of("aliases", alias, "rollback"), repeatable=False)
        return Alias.model_validate(await self._connection.json(request))

    async def download(
        self,
        reference: str,
        to: str | os.PathLike[str],
        *,
        format: str = "safetensors",  # noqa: A002
    ) -> Path:
        """The weights as safetensors, or the network as onnx, into a file that has its name only once it is whole. Raises
        Unreachable when they break off."""
        checkpoint = (await self.get(reference)).checkpoint_id
        assert checkpoint is not None, "a model has a checkpoint"
        request = Request("GET", path_of("checkpoints", checkpoint, "download"), params={"format": format})
        return await self._connection.file(request, Path(to), what=f"the weights of {reference}")
