"""Tensors of the Open Inference Protocol, as JSON and as binary data: a request's bytes -> pixels, and
probabilities -> the bytes of an answer.

The protocol is KServe's (predict-api/v2/required_api.md); binary data and classification are Triton's
extensions of it (docs/protocol/extension_binary_data.md and extension_classification.md).
"""

import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api import bodies
from service.data.digits import SIDE
from service.errors import BadRequest, PayloadTooLarge

INPUT = "images"
PIXELS = SIDE * SIDE
CLASSES = 10
SHAPES = ((PIXELS,), (SIDE, SIDE), (1, SIDE, SIDE))  # of one image
DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
OUTPUTS = {"probabilities": "FP32", "label": "INT64", "confidence": "FP32"}
SCALES = {"byte": 255, "unit": 1}  # the largest pixel
MAX_ID = 1024  # characters
LENGTH = re.compile(r"^[0-9]{1,18}$")  # of the JSON, in a header

REQUEST_FIELDS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
INPUT_FIELDS = ("name", "shape", "datatype", "parameters", "data")
OUTPUT_FIELDS = ("name", "parameters")
# priority, timeout and content_type are what Triton's and MLServer's clients may send; nothing here heeds them
REQUEST_PARAMETERS = {"binary_data_output": bool, "scale": str, "priority": int, "timeout": int}
INPUT_PARAMETERS = {"binary_data_size": int, "content_type": str}
OUTPUT_PARAMETERS = {"binary_data": bool, "classification": int}
KINDS = {bool: "true or false", str: "text", int: "a whole number"}


@dataclass(frozen=True)
class Requested:
    """An output that is asked for; `classes` of the likeliest as text, if that is what is asked for."""

    name: str
    is_binary: bool
    classes: int | None = None


@dataclass(frozen=True)
class Inference:
    """What a request asks: float32 or uint8 (n, 784) from 0 to 255, and which outputs."""

    id: str | None
    pixels: NDArray[Any]
    outputs: tuple[Requested, ...]


@dataclass(frozen=True)
class Encoded:
    """The body of an answer; `header_length` of its bytes are JSON if binary data follows."""

    body: bytes
    header_length: int | None


def decode(body: bytes, header_length: str | None, *, max_images: int) -> Inference:
    """Read the body of a request; `header_length` is its Inference-Header-Content-Length. Raises BadRequest,
    and PayloadTooLarge for more images than are allowed."""
    text, binary = _parted(body, header_length)
    with bodies.alone(text):
        return _decoded(bodies.decode(text), binary, max_images)


def _decoded(document: object, binary: bytes | None, max_images: int) -> Inference:
    request = fields(document, "the request", REQUEST_FIELDS)
    given = parameters(request, "the request", REQUEST_PARAMETERS)
    scale = given.get("scale", "byte")
    if scale not in SCALES:
        raise BadRequest(f"parameter scale of the request must be one of {', '.join(SCALES)}")
    return Inference(
        id=_identifier(request),
        pixels=_pixels(_only_input(request), binary, scale, max_images),
        outputs=_requested(request, is_binary=given.get("binary_data_output", False)),
    )


def encode(inference: Inference, probabilities: NDArray[np.float32], *, name: str, version: str) -> Encoded:
    """The answer to a request, of probabilities (n, 10)."""
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    if inference.id is not None:
        answer["id"] = inference.id
    answer["outputs"] = outputs = []
    blocks: list[bytes] = []
    for requested in inference.outputs:
        described, block = _output(requested, probabilities)
        outputs.append(described)
        if block is not None:
            blocks.append(block)
    text = json.dumps(answer, separators=(",", ":")).encode()
    return Encoded(b"".join([text, *blocks]), len(text) if blocks else None)


# From bytes to fields


def _parted(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    """The JSON and the binary data; None where no length says that there is some."""
    if not body:
        raise BadRequest("the body is empty: send an inference request")
    if header_length is None:
        return body, None
    if LENGTH.fullmatch(header_length) is None:
        raise BadRequest("Inference-Header-Content-Length must be a whole number of bytes")
    length = int(header_length)
    if not 0 < length <= len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {length}: the body has {len(body)} bytes, of which JSON comes first"
        )
    return body[:length], body[length:]


def fields(value: object, where: str, known: Collection[str]) -> dict[str, Any]:
    """An object with no fields but these; one that is null counts as left out. Raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest(f"{where} must be a JSON object")
    unknown = sorted(value.keys() - set(known))
    if unknown:
        there = f"there are {', '.join(known)}" if known else "there is none"
        raise BadRequest(f"there is no {unknown[0][:80]!r} in {where}: {there}")
    return {name: inner for name, inner in value.items() if inner is not None}


def parameters(holder: dict[str, Any], where: str, known: Mapping[str, type]) -> dict[str, Any]:
    """The `parameters` of an object, none but the known ones, each of its type. Raises BadRequest."""
    found = fields(holder.get("parameters", {}), f"the parameters of {where}", known)
    for name, value in found.items():
        if type(value) is not known[name]:
            raise BadRequest(f"parameter {name} of {where} must be {KINDS[known[name]]}")
    return found


def _identifier(request: dict[str, Any]) -> str | None:
    identifier = request.get("id")
    if identifier is not None and (not isinstance(identifier, str) or len(identifier) > MAX_ID):
        raise BadRequest(f"id must be text of at most {MAX_ID} characters")
    return identifier


def _list(request: dict[str, Any], name: str) -> list[Any]:
    found = request.get(name, [])
    if not isinstance(found, list):
        raise BadRequest(f"{name} must be a list")
    return found


def _only_input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = _list(request, "inputs")
    if len(inputs) != 1:
        raise BadRequest(f"there are {len(inputs)} inputs: send one, with the name {INPUT!r}")
    tensor = fields(inputs[0], f"input {INPUT!r}", INPUT_FIELDS)
    if tensor.get("name") != INPUT:
        raise BadRequest(f"inputs[0] has another name than {INPUT!r}, which is the only input")
    return tensor


def _requested(request: dict[str, Any], *, is_binary: bool) -> tuple[Requested, ...]:
    """As listed; all outputs where none is."""
    listed = _list(request, "outputs")
    if not listed:
        return tuple(Requested(name, is_binary) for name in OUTPUTS)
    if len(listed) > len(OUTPUTS):
        raise BadRequest(f"there are {len(OUTPUTS)} outputs, each of which may be listed once")
    found = tuple(_one_requested(one, index, is_binary) for index, one in enumerate(listed))
    if len({one.name for one in found}) < len(found):
        raise BadRequest("an output is listed twice")
    return found


def _one_requested(value: object, index: int, is_binary: bool) -> Requested:
    where = f"outputs[{index}]"
    output = fields(value, where, OUTPUT_FIELDS)
    name = output.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        raise BadRequest(f"the name of {where} must be one of {', '.join(OUTPUTS)}")
    given = parameters(output, where, OUTPUT_PARAMETERS)
    classes = given.get("classification")
    if classes is not None and name != "probabilities":
        raise BadRequest("classification goes with the output 'probabilities' only")
    if classes is not None and not 1 <= classes <= CLASSES:
        raise BadRequest(f"parameter classification of {where} must be from 1 to {CLASSES}")
    return Requested(name, given.get("binary_data", is_binary), classes)


# From a tensor to pixels


def _pixels(tensor: dict[str, Any], binary: bytes | None, scale: str, max_images: int) -> NDArray[Any]:
    """Checked, (n, 784) and from 0 to 255."""
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(f"the datatype of input {INPUT!r} must be one of {', '.join(DATATYPES)}")
    if datatype == "UINT8" and scale == "unit":
        raise BadRequest("the scale unit goes with the datatype FP32: UINT8 is from 0 to 255")
    shape = _shape(tensor, max_images)
    values = _values(tensor, shape, datatype, binary)
    _check_range(values, SCALES[scale])
    pixels = values.astype(DATATYPES[datatype], copy=False).reshape(shape[0], PIXELS)
    return pixels * np.float32(255) if scale == "unit" else pixels


def _shape(tensor: dict[str, Any], max_images: int) -> tuple[int, ...]:
    shape: Any = tensor.get("shape")
    is_whole = isinstance(shape, list) and all(type(side) is int for side in shape)
    if not is_whole or tuple(shape[1:]) not in SHAPES or shape[0] < 1:
        expected = " or ".join(str(["n", *sides]).replace("'", "") for sides in SHAPES)
        raise BadRequest(f"the shape of input {INPUT!r} must be {expected}, n at least 1")
    if shape[0] > max_images:
        raise PayloadTooLarge(f"more than {max_images:,} images (NUMERAL_MAX_IMAGES): send them in parts")
    return tuple(shape)


def _values(
    tensor: dict[str, Any], shape: tuple[int, ...], datatype: str, binary: bytes | None
) -> NDArray[Any]:
    """As many numbers as the shape has, flat."""
    declared = parameters(tensor, f"input {INPUT!r}", INPUT_PARAMETERS).get("binary_data_size")
    if (declared is None) == ("data" not in tensor):
        raise BadRequest(f"input {INPUT!r} needs either data or the parameter binary_data_size")
    if declared is not None:
        return _from_binary(binary, declared, shape, datatype)
    if binary:
        raise BadRequest(f"{len(binary)} bytes follow the JSON, and no input says that they are its own")
    return _from_json(tensor["data"], shape, datatype)


def _from_binary(binary: bytes | None, declared: int, shape: tuple[int, ...], datatype: str) -> NDArray[Any]:
    if binary is None:
        raise BadRequest("binary data needs the header Inference-Header-Content-Length")
    if declared != len(binary):
        raise BadRequest(f"binary_data_size is {declared}, but {len(binary)} bytes follow the JSON")
    expected = math.prod(shape) * DATATYPES[datatype].itemsize
    if declared != expected:
        raise BadRequest(
            f"binary_data_size is {declared}: {datatype} of shape {list(shape)} has {expected} bytes"
        )
    return np.frombuffer(binary, DATATYPES[datatype])


def _from_json(data: object, shape: tuple[int, ...], datatype: str) -> NDArray[np.float64]:
    numbers = _flat(data, shape)
    allowed = {int, float} if datatype == "FP32" else {int}
    if not set(map(type, numbers)) <= allowed:
        kind = "numbers" if datatype == "FP32" else "whole numbers"
        raise BadRequest(f"the data of input {INPUT!r} must be {kind}, flat or nested as its shape")
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        raise BadRequest(f"the data of input {INPUT!r} has a number beyond all range") from None


def _flat(data: object, shape: tuple[int, ...]) -> Sequence[object]:
    """The numbers of a list that is flat or nested as the shape says, whatever they are."""
    if not isinstance(data, list):
        raise BadRequest(f"the data of input {INPUT!r} must be a list")
    if not data or not isinstance(data[0], list):
        _check_count(len(data), math.prod(shape), shape)
        return data
    level: list[object] = data
    for depth, side in enumerate(shape[1:], 1):
        _check_count(len(level), math.prod(shape[:depth]), shape)
        if not all(isinstance(row, list) and len(row) == side for row in level):
            raise BadRequest(f"the data of input {INPUT!r} is not nested as its shape {list(shape)} is")
        level = list(itertools.chain.from_iterable(level))  # type: ignore[arg-type]
    return level


def _check_count(found: int, expected: int, shape: tuple[int, ...]) -> None:
    if found != expected:
        raise BadRequest(
            f"the data of input {INPUT!r} has {found} elements where its shape {list(shape)} has {expected}"
        )


def _check_range(values: NDArray[Any], top: int) -> None:
    wrong = ~((values >= 0) & (values <= top))  # NaN fails both
    if not wrong.any():
        return
    at = int(wrong.argmax())
    hint = ", or set the parameter scale to byte" if top == 1 and 1 < values[at] <= 255 else ""
    raise BadRequest(f"element {at} of input {INPUT!r} is {values[at]:g}, expected 0 to {top}{hint}")


# From probabilities to bytes


def _output(requested: Requested, probabilities: NDArray[np.float32]) -> tuple[dict[str, Any], bytes | None]:
    """An output's description, with its data unless it is binary, and its binary data."""
    if requested.classes is not None:
        return _classified(requested, probabilities, requested.classes)
    array = _array(requested.name, probabilities)
    described = {"name": requested.name, "datatype": OUTPUTS[requested.name], "shape": list(array.shape)}
    if not requested.is_binary:
        return described | {"data": array.ravel().tolist()}, None
    return _with_block(described, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _array(name: str, probabilities: NDArray[np.float32]) -> NDArray[Any]:
    if name == "probabilities":
        return probabilities
    labels: NDArray[np.int64] = probabilities.argmax(axis=1)
    if name == "label":
        return labels
    confidence: NDArray[np.float32] = probabilities.max(axis=1)
    return confidence


def _classified(
    requested: Requested, probabilities: NDArray[np.float32], classes: int
) -> tuple[dict[str, Any], bytes | None]:
    """The likeliest classes as `score:index:label`, the lower index first among equals."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :classes]
    scores = np.take_along_axis(probabilities, order, axis=1)
    texts = [
        f"{score!s}:{index}:{index}"
        for score, index in zip(scores.ravel(), order.ravel().tolist(), strict=True)
    ]
    described = {"name": requested.name, "datatype": "BYTES", "shape": list(order.shape)}
    if not requested.is_binary:
        return described | {"data": texts}, None
    return _with_block(described, b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts))


def _with_block(described: dict[str, Any], block: bytes) -> tuple[dict[str, Any], bytes]:
    return described | {"parameters": {"binary_data_size": len(block)}}, block
