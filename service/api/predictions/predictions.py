"""Which digit is it: images in, label and ten probabilities out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.types import Scope

from service.api import problems
from service.api.context import Context, Wired
from service.api.models import ModelRef
from service.api.predictions import abstention, included
from service.api.predictions.abstention import Asked, Coverage, MinConfidence, Reason, asked
from service.api.predictions.batches import Batch, OnError, Way
from service.api.predictions.included import Include, Included
from service.api.predictions.uploads import Upload, Uploaded
from service.api.problems import Problem, documented
from service.data.digits import PREPROCESSING_VERSION, DigitWarning, Mode
from service.errors import Forbidden, ServiceError
from service.serving.batcher import Batcher
from service.serving.classifier import Loaded
from service.serving.confidence import Predicted
from service.store import feedback
from service.store.feedback import Seen
from service.store.models import LATEST, Model

router = APIRouter(prefix="/v1", tags=["predictions"])


class FeedbackOff(Forbidden):
    code = "feedback_off"


class Prediction(Included):
    """What the model sees in one image."""

    label: Annotated[
        int | None, Field(ge=0, le=9, description="The likeliest class; null: the prediction abstains.")
    ]
    confidence: Annotated[float, Field(description="The likeliest class's probability.")]
    probabilities: Annotated[
        list[float],
        Field(
            min_length=10, max_length=10, description="Calibrated: of those at 0.9, nine in ten are right."
        ),
    ]
    warnings: Annotated[
        list[DigitWarning | Literal["not_a_digit"]], Field(description="What is odd about the image.")
    ]
    abstained: Annotated[bool | None, Field(description="Whether it abstains; with `min_confidence`.")] = None
    reason: Annotated[
        Reason | None, Field(description="Why it abstains; null: it does not. With `min_confidence`.")
    ] = None
    set: Annotated[
        list[int] | None,
        Field(
            description="The likeliest labels, likeliest first, which hold the true one in `coverage` of all cases; "
            "empty: no label is likely enough for it. With `coverage`."
        ),
    ] = None
    not_a_digit: Annotated[
        float | None,
        Field(
            description="Share of digits that look more like one, from 0 to 1; null: the model cannot tell. With "
            "`include=not_a_digit`."
        ),
    ] = None
    name: Annotated[str | None, Field(description="Of the file in an archive.")] = None
    feedback_id: Annotated[
        str | None, Field(description="Under which the image is kept, to be labelled. With `store=true`.")
    ] = None


class Unread(BaseModel):
    """What is wrong with one image of several, in its place."""

    error: Problem
    name: Annotated[str | None, Field(description="Of the file in an archive.")] = None


class Predictions(BaseModel):
    """One prediction an image, in the order in which they came."""

    model: Annotated[str, Field(description="Id of the model that answered all of them.")]
    version: int
    predictions: list[Prediction | Unread]


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
BODY = {
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
                        **abstention.SCHEMAS,
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
            "application/zip": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "preprocess": _PREPROCESS,
                        **abstention.SCHEMAS,
                    },
                }
            },
        },
    }
}
_REFUSALS = (400, 403, 409, 413, 415, 507)
Preprocess = Annotated[Mode | None, Query(description="How images are brought to what MNIST looks like.")]
OnErrorChoice = Annotated[
    OnError | None,
    Query(
        description="What an image of several that cannot be read costs: batch, the whole answer; item, its "
        "own, where a problem stands instead. Unset: item for a ZIP, else batch."
    ),
]


Exact = Annotated[
    bool, Query(description="Answer by the weights in float32, also where a faster form of them agrees.")
]


Store = Annotated[
    bool,
    Query(
        description="Keep the 28 x 28 that the network saw of each image, to be labelled and learnt from, until it is "
        "deleted; `feedback_id` of each prediction is its name."
    ),
]


@dataclass(frozen=True)
class Question:
    """What a request asks, whichever model answers."""

    scope: Scope
    upload: Upload
    way: Way  # its version is still to be the model's
    include: frozenset[str]
    min_confidence: float | None
    coverage: float | None
    exact: bool
    store: bool

    def wanted(self, batch: Batch) -> Asked:
        """Beyond the answer that everybody gets."""
        return asked(batch.asked, self.min_confidence, self.coverage, self.include)


async def _question(
    context: Wired,
    request: Request,
    upload: Uploaded,
    include: Include,
    preprocess: Preprocess = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    on_error: OnErrorChoice = None,
    exact: Exact = False,
    store: Store = False,
) -> Question:
    if store and not context.settings.max_feedback:
        raise FeedbackOff("no images are kept here (NUMERAL_MAX_FEEDBACK is 0): ask without store")
    way = Way(context.settings, PREPROCESSING_VERSION, preprocess, on_error)
    return Question(request.scope, upload, way, include, min_confidence, coverage, exact, store)


Questioned = Annotated[Question, Depends(_question)]


@router.post(
    "/predict",
    response_model=Predictions,
    summary="Read digits with the latest model",
    responses=documented(*_REFUSALS),
    openapi_extra=BODY,
)
def predict(context: Wired, question: Questioned) -> Response:
    """One image or many: image bytes, a form or a ZIP of files, raw pixels, or JSON with pixels or base64."""
    return _answer(context, LATEST, question)


@router.post(
    "/models/{reference}/predict",
    response_model=Predictions,
    summary="Read digits with a model",
    responses=documented(404, *_REFUSALS),
    openapi_extra=BODY,
)
def predict_with(context: Wired, reference: ModelRef, question: Questioned) -> Response:
    """As `POST /v1/predict`, with the model that the reference stands for."""
    return _answer(context, reference, question)


def _answer(context: Context, reference: str, question: Question) -> Response:
    loaded, batch = _read(context, reference, question)
    told = predicted(
        context.batcher, loaded, batch, question.scope, question.wanted(batch), exact=question.exact
    )
    if question.store:
        _keep(context, loaded.model, batch, told)
    return Response(answered(loaded.model, encoded(told)), media_type="application/json")


def _keep(context: Context, model: Model, batch: Batch, told: list[dict[str, Any]]) -> None:
    """Keep the images that could be read, and tell under which names."""
    read = [index for index in range(len(told)) if index not in batch.errors]
    seen = (
        Seen(
            np.asarray(batch.pixels[index]).round().astype(np.uint8),
            int(np.argmax(told[index]["probabilities"])),  # also where it abstains
            float(np.max(told[index]["probabilities"])),
        )
        for index in read
    )
    at_most = context.settings.max_feedback
    names = feedback.keep(
        context.db, seen, model_id=model.id, preprocessing=model.preprocessing, at_most=at_most
    )
    for index, name in zip(read, names, strict=True):
        told[index]["feedback_id"] = name


def _read(context: Context, reference: str, question: Question) -> tuple[Loaded, Batch]:
    """The model, and the images as it asks for them. What is wrong with the images is told before that there is no
    such model: it stays wrong when there is one."""
    try:
        loaded = context.classifier.loaded(reference)
    except ServiceError:
        question.way.read(question.upload)
        raise
    return loaded, replace(question.way, version=loaded.model.preprocessing).read(question.upload)


def predicted(
    batcher: Batcher,
    loaded: Loaded,
    batch: Batch,
    scope: Scope,
    wanted: Asked | None = None,
    *,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """What is told of each image of a batch, in its order; for `encoded`."""
    network = loaded.exact if exact else loaded.network
    found = loaded.predicted(batcher.logits_in_thread(network, batch.pixels), batch.pixels)
    judges = wanted is not None and wanted.judges
    told = described(found, batch.warnings, [judges or digit is not None for digit in batch.digits])
    if wanted is not None:
        wanted.add_to(told, found, loaded)
        for prediction, pixels, digit in zip(told, batch.pixels, batch.digits, strict=True):
            prediction |= included.told(wanted.include, pixels, digit)
    for index, error in batch.errors.items():
        told[index] = unread(scope, error)
    if batch.names is not None:
        told = [{"name": name} | one for name, one in zip(batch.names, told, strict=True)]
    return told


def unread(scope: Scope, error: ServiceError) -> dict[str, Any]:
    """What is told of an image that cannot be read. The message may quote text that is no Unicode."""
    return {"error": orjson.Fragment(json.dumps(problems.described(scope, error)))}


def described(
    found: Predicted, warnings: Sequence[Sequence[str]], judged: Sequence[bool]
) -> list[dict[str, Any]]:
    """What everybody is told about each image, of those that are to be `judged` also whether they show a digit."""
    rows = zip(
        found.labels, found.probabilities, found.confidences, warned(found, warnings, judged), strict=True
    )
    return [
        {"label": label, "confidence": confidence, "probabilities": row, "warnings": odd}
        for label, row, confidence, odd in rows
    ]


def warned(
    found: Predicted, warnings: Sequence[Sequence[str]], judged: Sequence[bool]
) -> Sequence[Sequence[str]]:
    """Those of each image. Those that are to be `judged` may turn out to be no digit: pictures are; numbers have been
    made by a program, and to look at them costs as much as the network."""
    if not any(judged):
        return warnings
    flags = (found.flagged & judged).tolist()
    return [[*odd, "not_a_digit"] if flagged else odd for odd, flagged in zip(warnings, flags, strict=True)]


def answered(model: Model, told: bytes) -> bytes:
    """`Predictions` as JSON, of a list of what is told of each image."""
    return b'%b,"predictions":%b}' % (encoded({"model": model.id, "version": model.version})[:-1], told)


def encoded(value: object) -> bytes:
    """JSON past pydantic, which would take longer than the network; numbers of arrays are as short as gives them
    back."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
