"""Which number is it: one picture of several digits in, boxes and a text out."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api import uploads
from service.api.context import Wired
from service.api.included import Box, Include, boxed, told
from service.api.models import ModelRef
from service.api.predictions import Prediction
from service.api.problems import documented
from service.api.uploads import Uploaded
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
    response_model_exclude_unset=True,
    summary="Read all digits of a picture with the latest model",
    responses=documented(*_REFUSALS),
    openapi_extra=_BODY,
)
def read(context: Wired, upload: Uploaded, include: Include) -> Any:
    """One picture with any number of digits, up to a hundred, in lines: where each stands and what it is, and the
    text they make. Digits that touch are parted where the ink between them is thin; where it is not, the shape is
    read as one and has the warning `several_digits`."""
    return _answer(context, LATEST, upload, include)


@router.post(
    "/models/{reference}/read",
    response_model=Reading,
    response_model_exclude_unset=True,
    summary="Read all digits of a picture with a model",
    responses=documented(404, *_REFUSALS),
    openapi_extra=_BODY,
)
def read_with(context: Wired, reference: ModelRef, upload: Uploaded, include: Include) -> Any:
    """As `POST /v1/read`, with the model that the reference stands for."""
    return _answer(context, reference, upload, include)


def _answer(context: Wired, reference: str, upload: Uploaded, include: frozenset[str]) -> dict[str, Any]:
    loaded = context.classifier.loaded(reference)
    lines = uploads.read_all(upload, context.settings)
    found = [(index, digit) for index, line in enumerate(lines) for digit in line]
    pixels = np.array([digit.pixels for _, digit in found])
    rows = loaded.network.probabilities(pixels).tolist() if found else []
    labels = [row.index(max(row)) for row in rows]
    return {
        "model": loaded.model.id,
        "version": loaded.model.version,
        "text": "\n".join(
            "".join(str(label) for label, (at, _) in zip(labels, found, strict=True) if at == index)
            for index in range(len(lines))
        ),
        "digits": [
            {
                "label": label,
                "confidence": row[label],
                "probabilities": row,
                "warnings": list(digit.warnings),
                "line": index,
                **told(include, digit.pixels, digit),
                "box": boxed(digit),
            }
            for label, row, (index, digit) in zip(labels, rows, found, strict=True)
        ],
        "warnings": [] if found else ["blank"],
    }
