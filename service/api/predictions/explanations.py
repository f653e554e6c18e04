"""Why a model reads an image as it does."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api.context import Wired
from service.api.models import ModelRef
from service.api.predictions.batches import Way
from service.api.predictions.predictions import BODY, Preprocess
from service.api.predictions.uploads import Uploaded
from service.api.problems import documented
from service.errors import Invalid
from service.serving.explanation import explained

router = APIRouter(prefix="/v1/models", tags=["predictions"])


class HiddenLayer(BaseModel):
    """What a hidden layer made of the image."""

    units: int
    activation: str
    values: Annotated[list[float], Field(description="Output of each unit.")]


class ExplanationView(BaseModel):
    """Why the model reads one image as it does."""

    model: Annotated[str, Field(description="Id of the model.")]
    version: int
    label: Annotated[int, Field(description="Which `saliency` is about.")]
    probabilities: Annotated[list[float], Field(description="By softmax alone, without calibration.")]
    warnings: list[str]
    pixels: Annotated[
        list[int], Field(description="784 from 0 to 255 that the network saw, row by row from the top.")
    ]
    saliency: Annotated[
        list[float],
        Field(
            description="784: by how much log p(label) would rise if the pixel went from black to white and all stayed "
            "as straight as it is here."
        ),
    ]
    layers: Annotated[
        list[HiddenLayer], Field(description="First to last; of a committee, those of its first member.")
    ]


@router.post(
    "/{reference}/explain",
    summary="Why a digit is read as it is",
    responses=documented(400, 404, 409, 413, 415),
    openapi_extra=BODY,
)
def explain(
    context: Wired,
    reference: ModelRef,
    upload: Uploaded,
    preprocess: Preprocess = None,
    label: Annotated[
        int | None, Query(ge=0, le=9, description="Explain this class; unset: the likeliest.")
    ] = None,
) -> ExplanationView:
    """One image, in any way in which `predict` takes one: the output of every hidden unit, and the gradient of the
    label's log-probability by each pixel."""
    loaded = context.classifier.loaded(reference)
    batch = Way(context.settings, loaded.model.preprocessing, preprocess, "batch").read(upload)
    if len(batch.pixels) != 1:
        raise Invalid(f"{len(batch.pixels)} images came: send one", code="one_image_only")
    found = explained(loaded.exact, batch.pixels[0], label)
    activation = loaded.exact.spec.network.activation
    return ExplanationView(
        model=loaded.model.id,
        version=loaded.model.version,
        label=found.label,
        probabilities=_rounded(found.probabilities),
        warnings=list(batch.warnings[0]),
        pixels=np.asarray(batch.pixels[0]).round().astype(int).tolist(),
        saliency=_rounded(found.saliency),
        layers=[
            HiddenLayer(units=len(values), activation=activation, values=_rounded(values))
            for values in found.hidden
        ],
    )


def _rounded(values: Any) -> list[float]:
    """To what a picture can show."""
    return [float(f"{value:.5g}") for value in values.tolist()]
