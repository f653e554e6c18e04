"""Which number is it: one picture of several digits in, boxes and a text out."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from service.api.context import Wired
from service.api.models import ModelRef
from service.api.predictions import included
from service.api.predictions.abstention import Asked
from service.api.predictions.batches import read_all
from service.api.predictions.included import Box, Include, boxed
from service.api.predictions.predictions import Prediction, described, encoded
from service.api.predictions.uploads import Uploaded
from service.api.problems import documented
from service.data.digits import Digit
from service.serving.classifier import Loaded
from service.store.models import LATEST

router = APIRouter(prefix="/v1", tags=["predictions"])


class Read(Prediction):
    """A digit in a picture."""

    line: Annotated[int, Field(description="Which line it stands in, from 0.")]
    box: Box


class Reading(BaseModel):
    """What stands in a picture, in reading order: lines from the top, each from the left."""

    model: Annotated[str, Field(description="Id of the model that answered.")]
    version: int
    text: Annotated[str, Field(description="The digits, with a line break between lines.", examples=["407"])]
    digits: list[Read]
    warnings: Annotated[list[str], Field(description="blank, if there is nothing to read.")]


_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One picture, told by its content, whatever the Content-Type says.",
        "content": {
            "image/png": _FILE,
            "image/jpeg": _FILE,
            "image/webp": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "string",
                            "description": "An image file in base64, or a data: URL.",
                        }
                    },
                },
                "example": {"image": "data:image/png;base64,iVBORw0KGgo="},
            },
        },
    }
}
_REFUSALS = (400, 409, 413, 415)


@router.post(
    "/read",
    response_model=Reading,
    summary="Read all digits of a picture with the latest model",
    responses=documented(*_REFUSALS),
    openapi_extra=_BODY,
)
def read(context: Wired, upload: Uploaded, include: Include) -> Response:
    """One picture with any number of digits, up to a hundred, in lines: where each stands and what it is, and the
    text they make. Digits that touch are parted where the ink between them is thin; where it is not, the shape is
    read as one and has the warning `several_digits`."""
    return _answer(context, LATEST, upload, include)


@router.post(
    "/models/{reference}/read",
    response_model=Reading,
    summary="Read all digits of a picture with a model",
    responses=documented(404, *_REFUSALS),
    openapi_extra=_BODY,
)
def read_with(context: Wired, reference: ModelRef, upload: Uploaded, include: Include) -> Response:
    """As `POST /v1/read`, with the model that the reference stands for."""
    return _answer(context, reference, upload, include)


def _answer(context: Wired, reference: str, upload: Uploaded, include: frozenset[str]) -> Response:
    loaded = context.classifier.loaded(reference)
    lines = read_all(upload, context.settings)
    digits = [digit for line in lines for digit in line]
    predictions = iter(_predictions(context, loaded, digits, include))
    read = [[next(predictions) | {"line": number} for _ in line] for number, line in enumerate(lines)]
    answer = {
        "model": loaded.model.id,
        "version": loaded.model.version,
        "text": "\n".join("".join(str(each["label"]) for each in line) for line in read),
        "digits": [each for line in read for each in line],
        "warnings": [] if digits else ["blank"],
    }
    return Response(encoded(answer), media_type="application/json")


def _predictions(
    context: Wired, loaded: Loaded, digits: list[Digit], include: frozenset[str]
) -> list[dict[str, Any]]:
    if not digits:
        return []
    pixels = np.stack([digit.pixels for digit in digits])
    found = loaded.predicted(context.batcher.logits_in_thread(loaded.network, pixels), pixels)
    told = described(found, [digit.warnings for digit in digits], [True] * len(digits))
    Asked(None, None, include).add_to(told, found, loaded)
    for prediction, digit in zip(told, digits, strict=True):
        prediction |= included.told(include, digit.pixels, digit)
        prediction["box"] = boxed(digit)
    return told
