"""A look at deformed images before anything is trained on them."""

from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api import pictures
from service.api.bodies import JsonObject
from service.api.context import Wired
from service.api.jobs import drawings
from service.api.jobs.submissions import validated
from service.api.pictures import DRAWN, MEDIA_TYPES, Kind
from service.api.problems import documented
from service.catalog import CATALOG, BuiltIn
from service.mistakes import field_mistake
from service.spec import Augmentation, DatasetSpec

router = APIRouter(prefix="/v1/augmentations", tags=["pictures"])


class PreviewRequest(BaseModel):
    """What to deform, and how."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    dataset: Annotated[BuiltIn, Field(description="Whose training images.")] = "mnist"
    augmentation: Annotated[Augmentation, Field(description="As a TrainingSpec has it.")]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Chooses the images and deforms them.")] = 0
    count: Annotated[int, Field(ge=1, le=drawings.MAX_COLUMNS, description="Images.")] = 8
    variants: Annotated[int, Field(ge=1, le=10, description="Rows of variants.")] = 3
    progress: Annotated[
        float, Field(ge=0, le=1, description="Share of the run done, for the factor of `amplitude`.")
    ] = 0.0
    format: Annotated[Kind, Field(description="Of the answer.")] = "png"

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if CATALOG[self.dataset].task != "classification":
            raise field_mistake("dataset", f"{self.dataset} has no images: use mnist, or another that has")
        return self


def _schema() -> dict[str, Any]:
    schema = PreviewRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    del schema["$defs"]  # they are part of the TrainingSpec, which the description holds
    return schema


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema(),
                "example": {
                    "augmentation": {"rotation": 15, "scale": 0.15, "elastic": 1.2, "elastic_sigma": 6},
                    "seed": 1,
                    "variants": 2,
                },
            }
        },
    }
}


@router.post(
    "/preview",
    response_class=Response,
    summary="Look at an augmentation",
    responses={**documented(400, 413, 415), **DRAWN, **pictures.NEEDS_TORCH},
    openapi_extra=_BODY,
)
def preview(context: Wired, payload: JsonObject) -> Response:
    """Images of a dataset above, variants of them below, each row as a pass of training would see it. The same
    body gives the same picture. Nothing is kept."""
    asked = validated(PreviewRequest, payload)
    draw = partial(
        drawings.variants,
        context.shelf,
        DatasetSpec(name=asked.dataset),
        asked.augmentation,
        seed=asked.seed,
        count=asked.count,
        number=asked.variants,
        progress=asked.progress,
    )
    return Response(
        context.studio.drawn(draw, asked.format),
        headers={"Cache-Control": "no-store"},
        media_type=MEDIA_TYPES[asked.format],
    )
