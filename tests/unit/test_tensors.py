"""Whatever is done to a request, it is read or refused."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np

from service.api.inference import tensors
from service.api.inference.tensors import Encoded, Inference
from service.errors import ServiceError

WRONG: list[Any] = [
    *(None, True, 0, -1, 3, 784, 2**70, 1.5, 1e308, "", "images", "FP32", "label", "\ud800", [], {}, [[]]),
    *([0] * 784, [[0] * 784], {"name": "label"}, {"classification": 3}, {"binary_data_size": 784}),
]


def mutated(value: Any, share: float, draw: random.Random) -> Any:
    """A request of which about this share of the values is something else."""
    if draw.random() < share:
        return draw.choice(WRONG)
    if isinstance(value, dict):
        return {name: mutated(inner, share, draw) for name, inner in value.items()}
    if isinstance(value, list):
        return [mutated(inner, share, draw) for inner in value[:8]] + value[8:]
    return value


def request(draw: random.Random) -> tuple[bytes, str | None]:
    """A body and the length of its header, right or nearly so."""
    count, datatype = draw.choice([1, 2]), draw.choice(["FP32", "UINT8"])
    tensor: dict[str, Any] = {"name": "images", "shape": [count, 784], "datatype": datatype}
    block = b""
    if draw.random() < 0.5:
        tensor["data"] = [0] * (count * 784)
    else:
        block = bytes(count * 784 * (4 if datatype == "FP32" else 1))
        tensor["parameters"] = {"binary_data_size": len(block)}
    whole = {
        "id": "a",
        "parameters": {"binary_data_output": True, "scale": "byte"},
        "inputs": [tensor],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "label"}],
    }
    text = json.dumps(mutated(whole, draw.choice([0, 0.01, 0.05, 0.2]), draw)).encode()
    if draw.random() < 0.1:
        text = text[: draw.randrange(len(text) + 1)]
    has_length = bool(block) or draw.random() < 0.5
    return text + block, str(len(text) + draw.choice([0] * 20 + [1, -1])) if has_length else None


def read(body: bytes, length: str | None) -> Inference | ServiceError:
    try:
        return tensors.decode(body, length, max_images=4)
    except ServiceError as error:
        return error


def blocks(answer: Encoded) -> int:
    """Bytes of binary data that an answer says to have."""
    outputs = json.loads(answer.body[: answer.header_length])["outputs"]
    return sum(one.get("parameters", {}).get("binary_data_size", 0) for one in outputs)


def test_any_request_is_read_or_refused() -> None:
    draw = random.Random(0)  # noqa: S311
    outcomes: Counter[int] = Counter()
    for _ in range(2_000):
        found = read(*request(draw))
        if isinstance(found, ServiceError):
            assert len(found.detail) < 300
            outcomes[found.status] += 1
            continue
        outcomes[200] += 1
        assert found.pixels.shape in ((1, 784), (2, 784))
        assert 0 <= found.pixels.min() <= found.pixels.max() <= 255
        probabilities = np.full((len(found.pixels), 10), 0.1, np.float32)
        answer = tensors.encode(found, probabilities, name="digits", version="1")
        assert len(answer.body) - (answer.header_length or len(answer.body)) == blocks(answer)
    assert outcomes.keys() <= {200, 400, 413}
    assert min(outcomes[200], outcomes[400]) > 500
