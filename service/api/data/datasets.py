"""Datasets that are uploaded, and deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from service.api.bodies import RawBody
from service.api.catalog import DatasetView
from service.api.context import Wired
from service.api.data.unpacking import unpacked
from service.api.guards.access import Submitting
from service.api.predictions.predictions import Preprocess
from service.api.problems import documented
from service.errors import BadRequest
from service.store import datasets
from service.store.datasets import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
DatasetId = Annotated[
    str,
    Path(
        pattern="^ds_[0-9a-f]{32}$",
        description="Id of an uploaded dataset.",
        examples=["ds_019ab3c4d5e67f80912a3b4c5d6e7f80"],
    ),
]
STORED: dict[int | str, dict[str, Any]] = {
    200: {"model": DatasetView, "description": "The same was stored under this name before: this is it"},
    201: {
        "model": DatasetView,
        "description": "Stored",
        "headers": {"Location": {"description": "The dataset's address.", "schema": {"type": "string"}}},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "A ZIP, told by the names of its files. IDX, gzipped or not: train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, and with t10k- or test- the same to test with. NPZ: x_train, y_train, x_test, y_test, "
        "or images and labels; images uint8 (n, 28, 28) or (n, 784), white ink on black. Pictures (PNG, JPEG, WebP): in "
        "folders 0/ to 9/, or train/0/ and test/0/.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "",
    status_code=201,
    response_model=DatasetView,
    summary="Upload a dataset",
    responses={**STORED, **documented(400, 409, 413, 415, 507)},
    openapi_extra=_BODY,
)
def create(
    context: Wired,
    response: Response,
    raw: RawBody,
    submitter: Submitting,
    name: Annotated[
        str, Query(pattern=NAME, description="What it is called; its versions share it.", examples=["mine"])
    ],
    preprocess: Preprocess = None,
) -> DatasetView:
    """Images of 28 x 28 with labels from 0 to 9, to train on and perhaps to test with. It is checked whole before it is
    stored, and never changes after. A spec names it in `dataset.uploads`. The same content under the same name is the
    dataset that is there."""
    if not raw:
        raise BadRequest("the body is empty: send a ZIP", code="no_dataset")
    with context.decoding:
        found = unpacked(raw, context.settings, preprocess or "auto")
        stored = datasets.add(
            context.db,
            found.content,
            name=name,
            source=found.source,
            preprocessing=found.preprocessing,
            submitter=submitter,
        )
    return answered(response, stored)


def answered(response: Response, stored: tuple[Dataset, bool]) -> DatasetView:
    """A dataset that is stored, 201 if it is new."""
    dataset, is_new = stored
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return DatasetView.uploaded(dataset)


@router.delete("/{name}", status_code=204, summary="Delete a dataset", responses=documented(404, 409, 507))
def deleted(context: Wired, name: DatasetId) -> None:
    """Forget an uploaded dataset that no job learns from, and no model has learnt from."""
    datasets.remove(context.db, name)
