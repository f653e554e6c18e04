"""Which digit is it: images in, label and ten probabilities out."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from service.api import uploads
from service.api.context import Wired
from service.api.included import Include, Included, told
from service.api.models import ModelRef
from service.api.problems import documented
from service.api.uploads import Batch, Uploaded
from service.classifier import Loaded
from service.data.digits import DigitWarning, Mode
from service.store.models import LATEST

router = APIRouter(prefix="/v1", tags=["predictions"])


class Prediction(Included):
    """What the model sees in one image."""

    label: Annotated[int, Field(ge=0, le=9, description="The likeliest class.")]
    confidence: Annotated[float, Field(description="Its probability.")]
    probabilities: Annotated[list[float], Field(min_length=10, max_length=10)]
    warnings: Annotated[list[DigitWarning], Field(description="What is odd about the image.")]


class Predictions(BaseModel):
    """One prediction an image, in the order in which they came."""

    model: Annotated[str, Field(description="Id of the model that answered all of them.")]
    version: int
    predictions: list[Prediction]


_PIXELS: dict[str, Any] = {
    "oneOf": [
        {"type": "array", "items": {"type": "number"}, "minItems": 784, "maxItems": 784},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 28, "maxItems": 28},
            "minItems": 28,
            "maxItems": 28,
        },
        {"type": "string", "description": "An image file in base64, or a data: URL."},
    ]
}
_PREPROCESS = {
    "type": "string",
    "enum": ["auto", "mnist", "none"],
    "description": "auto (of image files): as MNIST where it is not so already; mnist: always; none (of "
    "numbers): only resize.",
}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "Told by its content, whatever the Content-Type says.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "images": {"type": "array", "items": _PIXELS, "minItems": 1},
                        "image": _PIXELS,
                        "scale": {
                            "type": "string",
                            "enum": ["byte", "unit"],
                            "default": "byte",
                            "description": "byte: 0 to 255; unit: 0 to 1. White ink on black.",
                        },
                        "preprocess": _PREPROCESS,
                    },
                },
                "example": {"images": [[0] * 784], "scale": "byte"},
            },
            "image/png": _FILE,
            "image/jpeg": _FILE,
            "image/webp": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "preprocess": _PREPROCESS,
                    },
                }
            },
        },
    }
}
_REFUSALS = (400, 409, 413, 415)
Preprocess = Annotated[Mode | None, Query(description="How images are brought to what MNIST looks like.")]


@router.post(
    "/predict",
    response_model=Predictions,
    summary="Read digits with the latest model",
    responses=documented(*_REFUSALS),
    openapi_extra=_BODY,
)
def predict(context: Wired, upload: Uploaded, include: Include, preprocess: Preprocess = None) -> Response:
    """One image or many: image bytes, a form of files, or JSON with pixels or base64."""
    return _answer(context, LATEST, upload, preprocess, include)


@router.post(
    "/models/{reference}/predict",
    response_model=Predictions,
    summary="Read digits with a model",
    responses=documented(404, *_REFUSALS),
    openapi_extra=_BODY,
)
def predict_with(
    context: Wired, reference: ModelRef, upload: Uploaded, include: Include, preprocess: Preprocess = None
) -> Response:
    """As `POST /v1/predict`, with the model that the reference stands for."""
    return _answer(context, reference, upload, preprocess, include)


def _answer(
    context: Wired, reference: str, upload: Uploaded, preprocess: Mode | None, include: frozenset[str]
) -> Response:
    loaded = context.classifier.loaded(reference)
    batch = uploads.read(upload, preprocess, context.settings, loaded.model.preprocessing)
    answer = _predicted(loaded, batch)
    if include:
        seen = zip(answer["predictions"], batch.pixels, batch.digits, strict=True)
        for prediction, pixels, digit in seen:
            prediction |= told(include, pixels, digit)
    # thousands of images are encoded as they are: a pass through pydantic would take longer than the network
    return Response(json.dumps(answer, separators=(",", ":")), media_type="application/json")


def _predicted(loaded: Loaded, batch: Batch) -> dict[str, Any]:
    probabilities = loaded.network.probabilities(batch.pixels)
    labels = probabilities.argmax(axis=1)
    rows = zip(labels.tolist(), probabilities.tolist(), batch.warnings, strict=True)
    return {
        "model": loaded.model.id,
        "version": loaded.model.version,
        "predictions": [
            {"label": label, "confidence": row[label], "probabilities": row, "warnings": list(warnings)}
            for label, row, warnings in rows
        ],
    }
