"""Predictions a second, ours beside the floor: a bare Starlette application on uvicorn that reads the same body and
answers with bytes that are ready. Both run at once, and are loaded in turns by wrk (which has to be installed), with
16 different bodies in turn.

    python -m bench.serving [--model small] [--processes 1] [--seconds 3] [--rounds 3] [--workload json] [--concurrency 16]

Bounds, of the small network, at concurrency 16 and 64: JSON of one image at 0.75 of the floor, and with two processes at
all of it; a PNG in a form at 0.5; 64 images as raw bytes at 6 times those of our own JSON batch.
"""

import argparse
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from service.checkpoints import Arrays, Snapshot, encode_weights, shapes
from service.data.digits import PIXELS, PREPROCESSING_VERSION
from service.figures.report import QUANTIZED_FROM
from service.serving.confidence import Calibration
from service.serving.quantized import tried
from service.spec import TrainingSpec
from service.store import attempts, checkpoints, jobs, models, schema
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.reports import Draft

WIDTHS = {"small": [32], "deep": [2500, 2000, 1500, 1000, 500]}
BODIES, MANY, CONCURRENCIES = 16, 64, (1, 16, 64)
JSON_BOUND, FLEET_BOUND, PNG_BOUND, RAW_BOUND = 0.75, 1.0, 0.5, 6.0
SCRIPT = """
local requests, i = {}, 0
function init(args)
  for j = 3, #args do
    local file = io.open(args[j], "rb")
    requests[#requests + 1] = wrk.format("POST", args[1], {["Content-Type"] = args[2]}, file:read("*a"))
    file:close()
  end
end
function request() i = i % #requests + 1; return requests[i] end
function done(summary, latency, r)
  local e = summary.errors
  io.write(string.format("RESULT %.1f %.3f %.3f %d\\n", summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.status + e.connect + e.read + e.timeout))
end
"""


@dataclass(frozen=True)
class Workload:
    """Bodies of one kind."""

    content_type: str
    bodies: list[bytes]
    floor: str  # its path there
    images: int = 1


def pictures(count: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """(count, 28, 28) as sparse as digits are, with a dark border."""
    random = np.random.default_rng(0)
    found = np.zeros((count, 28, 28), np.uint8)
    ink = random.integers(0, 256, (count, 20, 20)) * (random.random((count, 20, 20)) < 0.25)
    found[:, 4:24, 4:24] = ink
    return found


def png(grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def workloads() -> dict[str, Workload]:
    few, many = pictures(BODIES), pictures(BODIES * MANY).reshape(BODIES, MANY, 784)

    def unit(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
        rows = (images.reshape(-1, 784) / 255).tolist()  # with as many digits as clients send
        return json.dumps({"images": rows, "scale": "unit"}, separators=(",", ":")).encode()

    def form(file: bytes) -> bytes:
        head = b'Content-Disposition: form-data; name="file"; filename="digit.png"\r\nContent-Type: image/png'
        return b"--numeral\r\n" + head + b"\r\n\r\n" + file + b"\r\n--numeral--\r\n"

    files = [png(image) for image in few]
    multipart = "multipart/form-data; boundary=numeral"
    return {
        "json": Workload("application/json", [unit(image) for image in few], "/one"),
        "png": Workload(multipart, [form(file) for file in files], "/one"),
        "png body": Workload("image/png", files, "/one"),
        "bytes": Workload("application/octet-stream", [image.tobytes() for image in few], "/one"),
        "json batch": Workload("application/json", [unit(images) for images in many], "/many", MANY),
        "bytes batch": Workload(
            "application/octet-stream", [images.tobytes() for images in many], "/many", MANY
        ),
    }


def register(home: Path, widths: list[int]) -> None:
    """A model with weights that are drawn: what they are changes no speed."""
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": widths}})
    random = np.random.default_rng(0)
    arrays = {
        name: random.normal(0, 1 / max(1, shape[-1]) ** 0.5, shape).astype(np.float32)
        for name, shape in shapes(spec).items()
    }
    arrays["input.mean"][:], arrays["input.std"][:] = 0, 1
    data = encode_weights(Snapshot(1, 1.0, arrays, {}, {}), spec, preprocessing=PREPROCESSING_VERSION)
    db = Database(f"sqlite:///{home / 'numeral.db'}")
    try:
        schema.migrate(db)
        answer, _ = jobs.submit(db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
        job = attempts.claim(db, answer["id"], worker="bench", device="CPU", lease_seconds=600)
        assert job is not None
        attempt = Attempt(job.id, job.attempt)
        header = checkpoints.save(
            db, attempt, step=1, epoch=1.0, reason="final", metrics={},
            spec=spec.model_dump(mode="json"), weights=data, state=None,
        )  # fmt: skip
        models.finish(
            db, attempt, header, preprocessing=PREPROCESSING_VERSION,
            dataset_sha256="0" * 64, provenance={}, runtime=1,
            report=Draft({}, None, calibration(), quantized=bytes_of(spec, arrays)),
        )  # fmt: skip
    finally:
        db.close()


def bytes_of(spec: TrainingSpec, arrays: Arrays) -> dict[str, Any] | None:
    """A large network is served in bytes, as if it had been trained: of weights that are drawn they would not agree."""
    if spec.parameter_count < QUANTIZED_FROM:
        return None
    images = pictures(200).reshape(-1, PIXELS)
    trial = tried(spec, arrays, images, images, np.zeros(len(images)))
    return asdict(replace(trial, agreement=1.0, accuracy=1.0, exact_accuracy=1.0))


def calibration() -> dict[str, Any]:
    """Of logits that are drawn: with it a prediction has all its parts."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(2000, 10)).astype(np.float32), random.integers(0, 10, 2000)
    margins = random.normal(size=2000).astype(np.float32)
    return Calibration.fit(logits, labels, margins, source="validation").to_json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, path: str, **environment: str) -> Iterator[str]:
    """A server for the length of the block."""
    process = subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(url + path).status_code in (200, 405):
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} did not start")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@dataclass(frozen=True)
class Load:
    """What wrk measured."""

    a_second: float
    median_ms: float
    p99_ms: float
    errors: int


def load(url: str, path: str, workload: Workload, files: list[Path], concurrency: int, seconds: int) -> Load:
    script = files[0].with_name("post.lua")
    script.write_text(SCRIPT)
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
    arguments = ["--", path, workload.content_type, *map(str, files)]
    told = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
    match = re.search(r"RESULT ([\d.]+) ([\d.]+) ([\d.]+) (\d+)", told)
    if match is None:
        raise SystemExit(f"wrk said: {told}")
    return Load(float(match[1]), float(match[2]), float(match[3]), int(match[4]))


def compared(
    urls: dict[str, str], workload: Workload, folder: Path, concurrency: int, seconds: int, rounds: int
) -> dict[str, Load]:
    """Medians over the rounds, in which both take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, body in enumerate(workload.bodies):
        files.append(folder / str(number))
        files[-1].write_bytes(body)
    paths = {"floor": workload.floor, "ours": "/v1/predict"}
    for name, url in urls.items():  # what is sent is read
        answer = httpx.post(
            url + paths[name], content=workload.bodies[0], headers={"Content-Type": workload.content_type}
        )
        if answer.status_code != 200 or (
            name == "ours" and len(answer.json()["predictions"]) != workload.images
        ):
            raise SystemExit(f"{name} answered {answer.status_code}: {answer.text[:500]}")
        load(url, paths[name], workload, files, concurrency, 1)
    taken: dict[str, list[Load]] = {name: [] for name in urls}
    for _ in range(rounds):
        for name, url in urls.items():
            taken[name].append(load(url, paths[name], workload, files, concurrency, seconds))
    return {
        name: Load(
            statistics.median(each.a_second for each in loads),
            statistics.median(each.median_ms for each in loads),
            statistics.median(each.p99_ms for each in loads),
            sum(each.errors for each in loads),
        )
        for name, loads in taken.items()
    }


def measure(arguments: argparse.Namespace, home: Path) -> int:
    register(home, WIDTHS[arguments.model])
    floor_port, port = free_port(), free_port()
    floor = [
        "uvicorn",
        "bench.floor:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(floor_port),
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    settings = {
        "NUMERAL_HOME": str(home), "NUMERAL_PORT": str(port), "NUMERAL_LOG_LEVEL": "error",
        "NUMERAL_API_PROCESSES": str(arguments.processes),
    }  # fmt: skip
    found: dict[tuple[str, int], dict[str, Load]] = {}
    with (
        running(floor, f"http://127.0.0.1:{floor_port}", "/one") as floor_url,
        running(["service.cli", "serve"], f"http://127.0.0.1:{port}", "/livez", **settings) as url,
    ):
        print(
            f"{'':12} {'at':>3} {'ours/s':>8} {'floor/s':>8} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} {'floor p99':>9}  errors"
        )
        for name, workload in workloads().items():
            if arguments.workload and name not in arguments.workload:
                continue
            for concurrency in arguments.concurrency or CONCURRENCIES:
                loads = compared(
                    {"floor": floor_url, "ours": url}, workload, home / "bodies" / name, concurrency,
                    arguments.seconds, arguments.rounds,
                )  # fmt: skip
                found[name, concurrency] = loads
                ours, least = loads["ours"], loads["floor"]
                print(
                    f"{name:12} {concurrency:3} {ours.a_second:8.0f} {least.a_second:8.0f} "
                    f"{ours.a_second / least.a_second:6.2f} {ours.median_ms:7.2f} {ours.p99_ms:7.2f} "
                    f"{least.p99_ms:9.2f}  {ours.errors}",
                    flush=True,
                )
    json_bound = JSON_BOUND if arguments.processes == 1 else FLEET_BOUND
    return 0 if arguments.model != "small" or within(found, json_bound) else 1


def within(found: dict[tuple[str, int], dict[str, Load]], json_bound: float) -> bool:
    """Whether the bounds hold of what was measured."""
    good = all(loads["ours"].errors == 0 for loads in found.values())
    for name, bound in (("json", json_bound), ("png", PNG_BOUND)):
        for concurrency in (16, 64):
            if (name, concurrency) in found:
                loads = found[name, concurrency]
                good &= loads["ours"].a_second >= bound * loads["floor"].a_second
    if ("bytes batch", 16) in found and ("json batch", 16) in found:
        ratio = found["bytes batch", 16]["ours"].a_second / found["json batch", 16]["ours"].a_second
        print(f"64 images as bytes: {ratio:.1f} times those as JSON, bound {RAW_BOUND:.0f}")
        good &= ratio >= RAW_BOUND
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=WIDTHS, default="small")
    parser.add_argument("--processes", type=int, default=1, help="of ours; the floor has one")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", action="append", choices=list(workloads()))
    parser.add_argument("--concurrency", action="append", type=int)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: install it (Debian's package is called wrk)")
    with tempfile.TemporaryDirectory() as home:
        return measure(arguments, Path(home))


if __name__ == "__main__":
    sys.exit(main())
