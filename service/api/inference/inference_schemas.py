"""What the Open Inference Protocol's requests and answers look like."""

from typing import Any

from pydantic import BaseModel

from service.api.inference import tensors
from service.api.statistics import ModelStatistics

LENGTH_HEADER = "Inference-Header-Content-Length"


class Live(BaseModel):
    """The process is up."""

    live: bool


class Ready(BaseModel):
    """The service, or a model, can answer."""

    ready: bool


class ModelReady(Ready):
    """A model can answer."""

    name: str


class ServerMetadata(BaseModel):
    """What this is, and which extensions it has."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor that goes in or comes out; -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model and its tensors. Pixels may also be UINT8, and in rows of 28."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class StatisticsResponse(BaseModel):
    """What was asked of each model version, of this process, since it started."""

    model_stats: list[ModelStatistics]


class IndexEntry(BaseModel):
    """A model version under one of its names; READY if it is in this process's memory."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(BaseModel):
    """An output; its data follows the JSON if `parameters` tell a `binary_data_size`."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float | int | str] | None = None


class InferenceResponse(BaseModel):
    """The outputs that were asked for."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


_PARAMETERS = {"type": "object", "description": "Whatever is not listed is refused."}
_INFERENCE_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": tensors.MAX_ID, "description": "Comes back with the answer."},
        "parameters": _PARAMETERS
        | {
            "properties": {
                "scale": {
                    "type": "string",
                    "enum": list(tensors.SCALES),
                    "default": "byte",
                    "description": "byte: pixels from 0 to 255; unit: from 0 to 1. White ink on black.",
                },
                "binary_data_output": {"type": "boolean", "default": False},
            }
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string", "const": tensors.INPUT},
                    "shape": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1},
                        "description": "[n, 784], [n, 28, 28] or [n, 1, 28, 28].",
                    },
                    "datatype": {"type": "string", "enum": list(tensors.DATATYPES)},
                    "parameters": _PARAMETERS
                    | {"properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
                    "data": {"type": "array", "description": "Flat, or nested as the shape."},
                },
            },
        },
        "outputs": {
            "type": "array",
            "description": "Those wanted; all if none is listed.",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "enum": list(tensors.OUTPUTS)},
                    "parameters": _PARAMETERS
                    | {
                        "properties": {
                            "binary_data": {"type": "boolean"},
                            "classification": {
                                "type": "integer",
                                "minimum": 1,
                                "maximum": tensors.CLASSES,
                                "description": "So many likeliest classes of `probabilities`, each as the text "
                                "`score:index:label`.",
                            },
                        }
                    },
                },
            },
        },
    },
}
_EXAMPLE = {
    "inputs": [{"name": tensors.INPUT, "shape": [1, 784], "datatype": "UINT8", "data": [0] * 784}],
    "outputs": [{"name": "label"}],
}
INFERENCE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An inference request as JSON; with its tensor as binary data behind it if "
        f"`{LENGTH_HEADER}` says where the JSON ends. No Content-Type is needed; gzip and deflate are read.",
        "content": {
            "application/json": {"schema": _INFERENCE_REQUEST, "example": _EXAMPLE},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _optional_body(**properties: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": _object_of(**properties)}}
    return {"requestBody": {"required": False, "content": content}}


def _object_of(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with nothing else in it; what is null in it counts as left out."""
    known = {name: one | {"type": [one["type"], "null"]} for name, one in properties.items()}
    return {"type": "object", "properties": known, "additionalProperties": False}


INDEX_BODY = _optional_body(ready={"type": "boolean", "default": False})
LOAD_BODY = _optional_body(parameters=_object_of())
UNLOAD_BODY = _optional_body(parameters=_object_of(unload_dependents={"type": "boolean"}))
