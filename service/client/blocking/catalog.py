# Written by service.client.unasync from awaiting/catalog.py; change that.
"""What there is to choose from: `client.datasets` and `client.presets`."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.client.blocking.connection import Connection
from service.client.requests import Request, given, path_of
from service.client.views import Dataset, Preset


class Presets:
    """`client.presets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[Preset]:
        """The experiments that the server knows by name."""
        return self._connection.whole("/v1/presets", Preset.model_validate)

    def get(self, name: str) -> Preset:
        return Preset.model_validate(self._connection.json(Request("GET", path_of("presets", name))))


class Datasets:
    """`client.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[Dataset]:
        """The datasets that a spec may name."""
        return self._connection.whole("/v1/datasets", Dataset.model_validate)

    def samples(
        self,
        name: str,
        *,
        seed: int = 0,
        count: int | None = None,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture (png, svg, csv) of some examples of a dataset."""
        path = path_of("datasets", name, f"samples.{format}")
        return self._connection.bytes(Request("GET", path, params=given(seed=seed, count=count)))

    def preview(
        self,
        augmentation: Mapping[str, Any],
        *,
        dataset: str = "mnist",
        seed: int = 0,
        count: int | None = None,
        variants: int | None = None,
        progress: float | None = None,
        format: str = "png",  # noqa: A002
    ) -> bytes:
        """A picture (png, svg, csv) of `count` training images above, and `variants` of each, deformed by the
        block of a spec, below; at a share `progress` of the run."""
        body = given(
            augmentation=augmentation,
            dataset=dataset,
            seed=seed,
            count=count,
            variants=variants,
            progress=progress,
            format=format,
        )
        return self._connection.bytes(Request("POST", "/v1/augmentations/preview", json=body))
