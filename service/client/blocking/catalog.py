# Written by service.client.unasync from awaiting/catalog.py; change that.
"""What there is to choose from: `client.datasets` and `client.presets`."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.client.blocking.connection import Connection
from service.client.pictures import Picture, file_of
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

    def get(self, name: str) -> Dataset:
        """By name, or an uploaded one by id."""
        return Dataset.model_validate(self._connection.json(Request("GET", path_of("datasets", name))))

    def upload(self, name: str, archive: Picture, *, preprocess: str | None = None) -> Dataset:
        """Store a ZIP of IDX files, of an NPZ, or of pictures in folders 0 to 9, as the newest version of a name; the same
        content under the same name is the dataset that is there. A spec names it in `dataset.uploads`."""
        params = given(name=name, preprocess=preprocess)
        request = Request("POST", "/v1/datasets", params=params, content=file_of(archive))
        return Dataset.model_validate(self._connection.json(request))

    def delete(self, dataset_id: str) -> None:
        """Forget an uploaded dataset that nothing learns from."""
        self._connection.json(Request("DELETE", path_of("datasets", dataset_id)))

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
