"""KServe's own client against a running Numeral: health, readiness, and the same answers as `/v1/predict` in JSON and in
binary tensors, both ways.

    pip install kserve                       # in an environment of its own: it pins what Numeral does not
    python bench/kserve_client.py http://127.0.0.1:8000

It needs kserve and numpy alone, and a model there. Exit status 1 if anything differs.
"""

import argparse
import asyncio
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL, IMAGES = "latest", 16
TOLERANCE = 1e-6


async def answers(client: InferenceRESTClient, url: str, images: Any, *, binary: bool) -> Any:
    """(n, 10) probabilities of (n, 784) pixels from 0 to 255."""
    pixels = InferInput("images", list(images.shape), "FP32")
    pixels.set_data_from_numpy(images, binary_data=binary)
    outputs = [RequestedOutput("probabilities", {"binary_data": binary})]
    asked = InferRequest(MODEL, [pixels], request_outputs=outputs)
    response = await client.infer(url, asked, model_name=MODEL)
    (found,) = [output for output in response.outputs if output.name == "probabilities"]
    return found.as_numpy().reshape(len(images), 10)


async def checked(url: str) -> bool:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 784)).astype(np.float32)
    told = httpx.post(f"{url}/v1/predict", json={"images": images.tolist()}, timeout=30).raise_for_status()
    expected = np.array([one["probabilities"] for one in told.json()["predictions"]])
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)) as client:
        found = {
            "server live": await client.is_server_live(url),
            "server ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, MODEL),
        }
        for name, binary in (("JSON", False), ("binary", True)):
            got = await answers(client, url, images, binary=binary)
            found[f"infer, {name} both ways"] = bool(np.abs(got - expected).max() <= TOLERANCE)
    for name, holds in found.items():
        print(f"{name:24} {'holds' if holds else 'FAILS'}")
    return all(found.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    sys.exit(0 if asyncio.run(checked(parser.parse_args().url.rstrip("/"))) else 1)
