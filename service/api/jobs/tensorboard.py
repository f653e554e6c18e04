"""A job's series as an event file that TensorBoard reads: a TFRecord of one `Event` a value, written here since the
libraries that write them bring PyTorch or TensorFlow along."""

import ctypes
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from service.api.context import Wired
from service.api.jobs.jobs import JobId
from service.api.problems import documented
from service.store import jobs, metrics
from service.store.database import Database
from service.store.jobs import Job
from service.store.metrics import Value

OCTETS = "application/octet-stream"
FORMAT = b"brain.Event:2"  # what the first event of a file must say
VALUES_A_PIECE = 5_000

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The event file",
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/metrics.tfevents",
    response_class=Response,
    summary="A job's series for TensorBoard",
    responses={**_FILE, **documented(404)},
)
def event_file(context: Wired, job_id: JobId) -> Response:
    """All values so far as scalars, each with the step and the time that it was measured at; the tags are the names of
    the series. Saved under the name that comes with it into a folder of its own, it is a run below TensorBoard's
    `--logdir`."""
    job = jobs.get(context.db, job_id)
    headers = {
        "Content-Disposition": f'attachment; filename="events.out.tfevents.{job.id}"',
        "Cache-Control": "private, no-cache",
    }
    return StreamingResponse(_pieces(context.db, job), headers=headers, media_type=OCTETS)


def _pieces(db: Database, job: Job) -> Iterator[bytes]:
    """The file, a page of values at a time, each read in a transaction of its own."""
    yield _record(_number(1, job.created_at) + _sized(3, FORMAT))
    after, has_more = None, True
    while has_more:
        values, has_more = metrics.page(db, job.id, after=after, limit=VALUES_A_PIECE)
        yield b"".join(_record(_scalar(value)) for value in values)
        if values:
            after = (values[-1].name, values[-1].step)


def _record(data: bytes) -> bytes:
    """As tensorflow/core/lib/io/record_writer.h frames it: the length, the data, and a checksum of either."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack(
        "<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    )  # rotated and offset: "masked"


def _scalar(value: Value) -> bytes:
    """`Event(wall_time, step, summary=Summary(value=[Value(tag, simple_value)]))` of tensorflow/core/util/event.proto
    and tensorflow/core/framework/summary.proto."""
    single = ctypes.c_float(value.value).value  # infinite where float32 does not reach, which pack refuses
    scalar = _sized(1, value.name.encode()) + b"\x15" + struct.pack("<f", single)  # 2, a float
    step = b"\x10" + _varint(value.step)  # 2, an int64
    return _number(1, value.time) + step + _sized(5, _sized(1, scalar))


def _number(field: int, number: float) -> bytes:
    """A protobuf field of a double."""
    return bytes([field << 3 | 1]) + struct.pack("<d", number)


def _sized(field: int, data: bytes) -> bytes:
    """A protobuf field of a string or of a message."""
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
