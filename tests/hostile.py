"""Bodies that somebody posts who means harm, the same ones for the same seed: pictures that are small as files and
large in memory, archives that unpack to gigabytes, JSON that is deep or long, and plain damage."""

import base64
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

PREDICT = "/v1/predict"


@dataclass(frozen=True)
class Attack:
    """A body, where it goes, and how it is announced."""

    name: str
    body: bytes = field(repr=False)
    path: str = PREDICT
    content_type: str = "application/octet-stream"


def corpus(seed: int = 0) -> Iterator[Attack]:
    """All of them, one after another, so that only one is in memory."""
    for name, body in _pictures():
        yield Attack(name, body, content_type="image/png")
        if name in READ_TOO:
            yield Attack(f"{name}, to be read", body, "/v1/read", "image/png")
    for name, body in _archives():
        yield Attack(name, body, content_type="application/zip")
    for name, path, body in _documents():
        yield Attack(name, body, path, "application/json")
    yield from _forms()
    yield from _damaged(random.Random(seed))  # noqa: S311 - to be the same each time


READ_TOO = ("png of 25 million colours", "webp of 6 million pixels")


def png(
    width: int, height: int, colour: int, depth: int = 8, *, lines: bytes | None = None, extra: bytes = b""
) -> bytes:
    """Of zeros, or of the compressed `lines`; `extra` chunks go before them."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    line = 1 + (width * samples * depth + 7) // 8
    data = _zeros(line * height) if lines is None else lines
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    whole = chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _pictures() -> Iterator[tuple[str, bytes]]:
    yield "png of 65,000 x 65,000", png(65_000, 65_000, 0, lines=_zeros(1000))
    yield "png of 2^31 - 1 pixels a line", png(2**31 - 1, 1, 0, lines=_zeros(1000))
    for name, colour, depth in (
        ("greys", 0, 8),
        ("greys of 16 bits", 0, 16),
        ("colours", 2, 8),
        ("colours of 16 bits", 2, 16),
        ("palette entries", 3, 8),
        ("colours with alpha", 6, 8),
    ):
        yield f"png of 40 million {name}", png(8000, 5000, colour, depth)
    for name, width, height, colour in (
        ("25 million colours", 5000, 4990, 2),
        ("12 million colours with alpha", 4000, 3120, 6),
        ("11 million palette entries", 4000, 2780, 3),
    ):  # which are just let through
        yield f"png of {name}", png(width, height, colour)
    text = _zeros(256 << 20)
    yield "png with a text of 256 MiB", png(28, 28, 0, extra=chunk(b"zTXt", b"Comment\0\0" + text))
    yield "png with a profile of 256 MiB", png(28, 28, 0, extra=chunk(b"iCCP", b"x\0\0" + text))
    yield "png with 2,000 frames", png(28, 28, 0, extra=chunk(b"acTL", struct.pack(">II", 2000, 0)))
    yield "png of one long line", png(40_000_000, 1, 0)
    yield "png of one long column", png(1, 40_000_000, 0, 1)
    grey = Image.new("L", (8000, 5000), 128)
    yield "jpeg of 40 million greys", _saved(grey, "JPEG")
    colours = Image.new("RGB", (8000, 5000), (200, 30, 30))
    yield "jpeg of 40 million colours", _saved(colours, "JPEG", subsampling=0)
    yield "progressive jpeg of 40 million", _saved(colours, "JPEG", progressive=True, subsampling=0)
    del colours
    small = Image.new("RGBA", (4000, 4000), (0, 0, 0, 128))
    yield "webp of 16 million pixels", _saved(small, "WEBP", lossless=True, method=0)
    small = Image.new("RGBA", (2500, 2500), (0, 0, 0, 128))
    yield "webp of 6 million pixels", _saved(small, "WEBP", lossless=True, method=0)
    frames = [Image.new("RGB", (500, 500), (number, 0, 0)) for number in range(50)]
    yield "webp with 50 frames", _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def _archives() -> Iterator[tuple[str, bytes]]:
    yield "zip of one file of 1 GiB", _zip([("zeros.png", 1 << 30)])
    yield "zip of 40 files of 30 MiB", _zip([(f"{number}.png", 30 << 20) for number in range(40)])
    yield "zip of 100,000 files", _zip([(str(number), 0) for number in range(100_000)])
    whole = png(5000, 4990, 2)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.png", whole)
    yield "zip of 8 pictures of 25 million colours", file.getvalue()
    for _ in range(5):
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.zip", file.getvalue())
        file = outer
    yield "zip in zip in zip", file.getvalue()


def _zip(files: list[tuple[str, int]]) -> bytes:
    block = bytes(1 << 20)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, size in files:
            with archive.open(name, "w", force_zip64=True) as entry:
                for _ in range(size >> 20):
                    entry.write(block)
    return file.getvalue()


def _documents() -> Iterator[tuple[str, str, bytes]]:
    yield "json of 1 million brackets", PREDICT, b"[" * 1_000_000
    yield "json of 8 million empty lists", PREDICT, b'{"images":[' + b"[]," * 8_000_000 + b"[]]}"
    yield "json of 8 million numbers", PREDICT, b'{"images":[[' + b"0," * 8_000_000 + b"0]]}"
    yield "json of 1.5 million names", PREDICT, _names(1_500_000)
    yield "json of a long text", PREDICT, b'{"image":"' + b"A" * (31 << 20) + b'"}'
    yield "json of one number of 5 million digits", PREDICT, b'{"images":[[' + b"9" * 5_000_000 + b"]]}"
    bomb = base64.b64encode(png(5000, 4990, 2)).decode()
    yield "json of 8 pictures of 25 million", PREDICT, json.dumps({"images": [bomb] * 8}).encode()
    yield (
        "tensors of a size that lies",
        "/v2/models/digits/infer",
        json.dumps(
            {"inputs": [{"name": "images", "shape": [2**40, 784], "datatype": "FP32", "data": [0]}]}
        ).encode(),
    )
    yield (
        "tensors of 8 million numbers",
        "/v2/models/digits/infer",
        (
            b'{"inputs":[{"name":"images","shape":[10000,784],"datatype":"FP32","data":['
            + b"0," * 7_839_999
            + b"0]}]}"
        ),
    )
    yield "a spec of many names", "/v1/jobs", _names(60_000)[: 1 << 20]
    wide = {"network": {"hidden_widths": [2**31 - 1] * 1000}}
    yield "a spec of wide layers", "/v1/jobs?dry_run=true", json.dumps(wide).encode()
    grid = {"grid": {name: list(range(1000)) for name in ("seed", "batch_size", "epochs")}}
    yield "a sweep of 10^9 members", "/v1/sweeps", json.dumps(grid).encode()


def _names(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % number for number in range(count)) + b"}"


def _forms() -> Iterator[Attack]:
    part = b'--b\r\nContent-Disposition: form-data; name="%d"; filename="%d"\r\n\r\n\r\n'
    many = b"".join(part % (number, number) for number in range(200_000)) + b"--b--\r\n"
    yield Attack("form of 200,000 files", many, content_type="multipart/form-data; boundary=b")
    head = b"--b\r\n" + b"X-Header: " + b"a" * (8 << 20) + b"\r\n\r\n--b--\r\n"
    yield Attack("form with a header of 8 MiB", head, content_type="multipart/form-data; boundary=b")
    field_ = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"a" * (30 << 20) + b"\r\n--b--\r\n"
    yield Attack("form with a field of 30 MiB", field_, content_type="multipart/form-data; boundary=b")
    yield Attack("40,000 images as bytes", bytes(784 * 40_000), content_type="application/octet-stream")
    lines = (b'{"image":"' + b"A" * 2_000_000 + b'"}\n') * 15
    yield Attack("lines of 2 MB", lines, "/v1/predict/stream", "application/x-ndjson")


def _damaged(source: random.Random) -> Iterator[Attack]:
    """Good files with some bytes changed, or cut short."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = _saved(noise, kind)
        for number in range(40):
            body = bytearray(whole)
            for _ in range(source.randint(1, 20)):
                body[source.randrange(len(body))] = source.randrange(256)
            cut = source.randrange(len(body)) if number % 4 == 0 else len(body)
            yield Attack(f"damaged {kind} {number}", bytes(body[:cut]), content_type="image/png")
