"""Which digit is it: images in, label and ten probabilities out."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from service.api import uploads
from service.api.context import Wired
from service.api.models import ModelRef
from service.api.problems import documented
from service.api.uploads import Uploaded
from service.data.digits import DigitWarning, Mode
from service.inference import Floats
from service.store.models import LATEST, Model

router = APIRouter(prefix="/v1", tags=["predictions"])


class Prediction(BaseModel):
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
            "application/octet-stream": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "784 bytes an image, one after the other: rows from the top, white ink on black.",
                }
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
def predict(context: Wired, upload: Uploaded, preprocess: Preprocess = None) -> Response:
    """One image or many: image bytes, a form of files, or JSON with pixels or base64."""
    return _answer(context, LATEST, upload, preprocess)


@router.post(
    "/models/{reference}/predict",
    response_model=Predictions,
    summary="Read digits with a model",
    responses=documented(404, *_REFUSALS),
    openapi_extra=_BODY,
)
def predict_with(
    context: Wired, reference: ModelRef, upload: Uploaded, preprocess: Preprocess = None
) -> Response:
    """As `POST /v1/predict`, with the model that the reference stands for."""
    return _answer(context, reference, upload, preprocess)


def _answer(context: Wired, reference: str, upload: Uploaded, preprocess: Mode | None) -> Response:
    batch = uploads.read(upload, preprocess, context.settings)
    loaded = context.classifier.loaded(reference)
    probabilities = context.batcher.probabilities_in_thread(loaded.network, batch.pixels)
    return Response(encoded(loaded.model, probabilities, batch.warnings), media_type="application/json")


def encoded(model: Model, probabilities: Floats, warnings: Sequence[Sequence[str]]) -> bytes:
    """`Predictions` as JSON, past pydantic, which would take longer than the network."""
    labels = probabilities.argmax(axis=1).tolist()
    rows = zip(labels, probabilities, warnings, strict=True)
    answer = {
        "model": model.id,
        "version": model.version,
        "predictions": [
            {"label": label, "confidence": row[label], "probabilities": row, "warnings": list(odd)}
            for label, row, odd in rows
        ],
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
