"""Images that predictions kept on request: looked at, labelled, deleted, and made into a dataset to learn from."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from service.api.bodies import JsonObject
from service.api.catalog import DatasetView
from service.api.context import Wired
from service.api.data.datasets import NAME, STORED, answered
from service.api.guards.access import Submitting
from service.api.jobs.submissions import validated
from service.api.predictions.included import png_url
from service.api.problems import documented
from service.api.schemas import Limit, Page, Time, maybe_rfc3339, rfc3339
from service.store import datasets, feedback
from service.store.feedback import Sample


class _Sample(Convertor[str]):
    """What may stand for a kept image in a path: all but the name of the path beside it, which has methods of its own."""

    regex = "(?!dataset$)[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("sample", _Sample())
router = APIRouter(prefix="/v1/feedback", tags=["feedback"])

SAMPLE_ID = "^fb_[0-9a-f]{32}$"
SampleId = Annotated[
    str,
    Path(
        pattern=SAMPLE_ID,
        description="Id of an image, as `feedback_id` of its prediction.",
        examples=["fb_019ab3c4d5e67f80912a3b4c5d6e7f80"],
    ),
]


class SampleView(BaseModel):
    """An image that was kept."""

    id: str
    image: Annotated[str, Field(description="What the network saw, as a data: URL of a PNG of 28 x 28.")]
    model: Annotated[str, Field(description="Id of the model that read it.")]
    preprocessing: Annotated[str, Field(description="Version of what made the 28 x 28 of it.")]
    predicted: Annotated[int, Field(description="What it was read as.")]
    confidence: float
    label: Annotated[int | None, Field(description="What it is; null: nobody has said.")]
    created_at: Time
    labelled_at: Time | None

    @classmethod
    def of(cls, sample: Sample) -> "SampleView":
        return cls(
            id=sample.id,
            image=png_url(np.frombuffer(sample.pixels, np.uint8)),
            model=sample.model_id,
            preprocessing=sample.preprocessing,
            predicted=sample.predicted,
            confidence=sample.confidence,
            label=sample.label,
            created_at=rfc3339(sample.created_at),
            labelled_at=maybe_rfc3339(sample.labelled_at),
        )


class SamplePage(Page[SampleView]):
    """A page of images, and how many there are in all."""

    kept: int
    labelled: int


class LabelRequest(BaseModel):
    """What an image is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: Annotated[int | None, Field(ge=0, le=9, description="The digit; null takes an earlier one back.")]


class CollectRequest(BaseModel):
    """What the dataset is to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=NAME, description="Its versions share it.")] = "feedback"


def _body(schema: str, example: dict[str, object]) -> dict[str, object]:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


@router.get("", summary="List kept images, newest first", responses=documented())
def listed(
    context: Wired,
    limit: Limit = 20,
    after: Annotated[str | None, Query(pattern=SAMPLE_ID, description="`next` of the page before.")] = None,
    labelled: Annotated[bool | None, Query(description="Only those with a label, or without.")] = None,
) -> SamplePage:
    """Images that were kept with `store=true`. Each is what the network saw; the picture itself is not kept."""
    found, has_more = feedback.page(context.db, limit=limit, after=after, labelled=labelled)
    kept, with_label = feedback.counts(context.db)
    return SamplePage(
        data=[SampleView.of(sample) for sample in found],
        has_more=has_more,
        next=found[-1].id if has_more else None,
        kept=kept,
        labelled=with_label,
    )


@router.post(
    "/dataset",
    status_code=201,
    response_model=DatasetView,
    summary="Make a dataset of all labelled images",
    responses={**STORED, **documented(400, 409, 413, 415, 507)},
    openapi_extra=_body("CollectRequest", {"name": "feedback"}),
)
def collected(context: Wired, payload: JsonObject, response: Response, submitter: Submitting) -> DatasetView:
    """Every labelled image, as a dataset that never changes: what is labelled or deleted later is in the next version.
    `{"dataset": {"uploads": ["ds_..."]}}` in a spec learns from it beside MNIST. If nothing has changed since the last
    time, that dataset is the answer."""
    name = validated(CollectRequest, payload).name
    stored = datasets.add(
        context.db, feedback.examples(context.db), name=name, source="feedback", submitter=submitter
    )
    return answered(response, stored)


@router.get("/{sample_id:sample}", summary="Look at a kept image", responses=documented(404))
def shown(context: Wired, sample_id: SampleId) -> SampleView:
    """The image, what it was read as, and what it is if somebody has said so."""
    return SampleView.of(feedback.get(context.db, sample_id))


@router.put(
    "/{sample_id}/label",
    summary="Say what a kept image is",
    responses=documented(400, 404, 413, 415, 507),
    openapi_extra=_body("LabelRequest", {"label": 7}),
)
def labelled(context: Wired, sample_id: SampleId, payload: JsonObject) -> SampleView:
    """The digit that it shows, whether it was read right or wrong. The last word counts."""
    return SampleView.of(feedback.label(context.db, sample_id, validated(LabelRequest, payload).label))


@router.delete(
    "/{sample_id:sample}", status_code=204, summary="Delete a kept image", responses=documented(404, 507)
)
def deleted(context: Wired, sample_id: SampleId) -> None:
    """Forget it. Datasets that were made with it stay as they are, until they are deleted."""
    feedback.remove(context.db, sample_id)
