"""Whatever the short way reads, the long way reads alike; whatever is odd, the short way leaves to it."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.api import bodies
from service.api.express.quick import Reader
from service.api.predictions.batches import Batch, Way
from service.api.predictions.uploads import Form, Upload
from service.data.digits import PREPROCESSING_VERSION
from service.errors import ServiceError
from service.settings import Settings

BYTES, FORM = b"application/octet-stream", b"multipart/form-data; boundary=xyz"
WAY = Way(Settings(max_images=5), PREPROCESSING_VERSION)


def digit(seed: int = 1) -> NDArray[np.uint8]:
    grey = np.zeros((28, 28), np.uint8)
    grey[4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (20, 20))
    return grey


def png(picture: NDArray[Any] | Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, "PNG", **options)
    return file.getvalue()


def form(file: bytes, *, head: bytes = b"", tail: bytes = b"\r\n--xyz--\r\n") -> bytes:
    head = head or b'Content-Disposition: form-data; name="file"; filename="7.png"\r\nContent-Type: image/png'
    return b"--xyz\r\n" + head + b"\r\n\r\n" + file + tail


def text(images: Any, **fields: Any) -> bytes:
    return json.dumps({"images": images, **fields}).encode()


def long_way(body: bytes, content_type: bytes) -> Batch:
    if content_type == BYTES:
        return WAY.read(Upload(body, is_pixels=True))
    if content_type == FORM:
        file = body.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n").removesuffix(b"\r\n--xyz--")
        return WAY.read(Upload(body, form=Form([("#/file/0", file)], {})))
    return WAY.read(Upload(body, is_json=body[:1] == b"{"))


READ: dict[str, tuple[bytes, bytes]] = {
    "json": (text([digit().reshape(-1).tolist()]), b"application/json"),
    "json without a type": (text([digit().reshape(-1).tolist()]), b""),
    "json, many": (text([digit(seed).reshape(-1).tolist() for seed in range(5)]), b"application/json"),
    "json, floats": (text([(digit().reshape(-1) / 7).tolist()]), b"application/json"),
    "json, unit": (text([(digit().reshape(-1) / 255).tolist()], scale="unit"), b"application/json"),
    "json, byte": (text([digit().reshape(-1).tolist()], scale="byte"), b"application/json"),
    "json, unit as bytes": (text([(digit().reshape(-1) / 255).tolist()]), b"application/json"),
    "json, one of them blank": (text([digit().reshape(-1).tolist(), [3] * 784]), b"application/json"),
    "json, white": (text([[255] * 784]), b"application/json"),
    "bytes": (digit().tobytes(), BYTES),
    "bytes, many": (b"".join(digit(seed).tobytes() for seed in range(5)), BYTES),
    "bytes that begin as JSON": (b"{" + digit().tobytes()[1:], BYTES),
    "bytes, blank": (bytes(784), BYTES),
    "png": (png(digit()), b"image/png"),
    "png without a type": (png(digit()), b""),
    "png, stored": (png(digit(), compress_level=0), b"image/png"),
    "png, bright": (png(255 - digit()), b""),
    "png, touching the edge": (png(np.pad(digit()[4:, :24], ((0, 4), (4, 0)))), b""),
    "png, off centre": (png(np.roll(digit(), 3, axis=1)), b""),
    "png, far off centre": (png(np.roll(digit(), (-4, 4), axis=(0, 1))), b""),
    "png, small": (png(digit() * (np.indices((28, 28)) < 12).all(axis=0)), b""),
    "png, low contrast": (png(digit() // 8), b""),
    "png, blank": (png(digit() * 0), b""),
    "form": (form(png(digit())), FORM),
    "form without a last line's end": (form(png(digit()), tail=b"\r\n--xyz--"), FORM),
}


@pytest.mark.parametrize("kind", READ)
def test_both_ways_read_the_same(kind: str) -> None:
    body, content_type = READ[kind]
    found = Reader(5).read(body, content_type)
    assert found is not None
    expected = long_way(body, content_type)
    np.testing.assert_array_equal(
        np.asarray(found.pixels, np.float32), np.asarray(expected.pixels, np.float32)
    )
    assert [list(each) for each in found.warnings] == [list(each) for each in expected.warnings]


NUMBERS = digit().reshape(-1).tolist()
GREY = Image.fromarray(digit())


def _described() -> PngInfo:
    notes = PngInfo()
    notes.add_text("Title", "7")
    return notes


def _damaged(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


LEFT: dict[str, tuple[bytes, bytes]] = {
    "a list": (b"[]", b""),
    "no JSON": (b'{"images": [', b""),
    "more behind it": (text([NUMBERS]) + b"x", b""),
    "no images": (text([]), b""),
    "too many": (text([NUMBERS] * 6), b""),
    "too few pixels": (text([NUMBERS[1:]]), b""),
    "one row longer, the other shorter": (text([[*NUMBERS, 0], NUMBERS[1:]]), b""),
    "two in one": (text([NUMBERS + NUMBERS]), b""),
    "a row in a row": (text([[NUMBERS[:2], *NUMBERS[2:]]]), b""),
    "a number among images": (text([NUMBERS, 3]), b""),
    "rows of 28": (text([digit().tolist()]), b""),
    "one image": (json.dumps({"image": NUMBERS}).encode(), b""),
    "negative": (text([[-1, *NUMBERS[1:]]]), b""),
    "too large": (text([[256, *NUMBERS[1:]]]), b""),
    "too large for unit": (text([NUMBERS], scale="unit"), b""),
    "huge": (text([[10**30, *NUMBERS[1:]]]), b""),
    "NaN": (text([[float("nan"), *NUMBERS[1:]]]), b""),
    "true": (text([[True, *NUMBERS[1:]]]), b""),
    "null": (text([[None, *NUMBERS[1:]]]), b""),
    "a text": (text([["0", *NUMBERS[1:]]]), b""),
    "another scale": (text([NUMBERS], scale="bits"), b""),
    "another field": (text([NUMBERS], colour="unit"), b""),
    "preprocess": (text([NUMBERS], preprocess="auto"), b""),
    "the same key twice": (b'{"images": [[0]], ' + text([NUMBERS])[1:], b""),
    "scale twice": (b'{"scale": "unit", "scale": "byte", ' + text([NUMBERS])[1:], b""),
    "an escaped key": (text([NUMBERS]).replace(b"images", b"im\\u0061ges\\u0000"), b""),
    "base64": (text(["iVBORw0KGgo="]), b""),
    "no bytes": (b"", BYTES),
    "a byte too many": (bytes(785), BYTES),
    "too many bytes": (bytes(784 * 6), BYTES),
    "a file of bytes": (png(digit()), BYTES),
    "bytes as long as an image that are a file": (png(digit()).ljust(784, b"\0"), BYTES),
    "another size": (png(digit()[:27]), b""),
    "colours": (png(GREY.convert("RGB")), b""),
    "a palette": (png(GREY.convert("P")), b""),
    "alpha": (png(GREY.convert("LA")), b""),
    "one bit": (png(GREY.convert("1")), b""),
    "16 bits": (png(digit().astype(np.uint16) * 257), b""),
    "a text in it": (png(digit(), pnginfo=_described()), b""),
    "transparency in it": (png(GREY, transparency=3), b""),
    "a gamma in it": (png(digit(), dpi=(72, 72)), b""),
    "a damaged header": (_damaged(png(digit()), 29), b""),
    "damaged data": (_damaged(png(digit()), 60), b""),
    "a wrong sum": (_damaged(png(digit()), -14), b""),
    "cut off": (png(digit())[:-13], b""),
    "something behind it": (png(digit()) + b"x", b""),
    "jpeg": (b"\xff\xd8\xff\xe0", b""),
    "a form of two": (form(png(digit()) + form(png(digit()), tail=b"").join((b"\r\n", b""))), FORM),
    "a form with a field": (form(b"7", head=b'Content-Disposition: form-data; name="preprocess"'), FORM),
    "a form in base64": (
        form(png(digit()), head=b'Content-Disposition: form-data; name="f"; filename="f"\r\nContent-Transfer-Encoding: x'),
        FORM,
    ),
    "a form whose name ends nowhere": (
        form(png(digit()), head=b'Content-Disposition: form-data; name="a; filename="7.png"'),
        FORM,
    ),
    "a form with an escape": (
        form(png(digit()), head=b'Content-Disposition: form-data; name="a"; filename="7\\".png"'),
        FORM,
    ),
    "a form without an end": (form(png(digit()), tail=b""), FORM),
    "a form with another boundary": (form(png(digit())), b"multipart/form-data; boundary=abc"),
    "a form without a boundary": (form(png(digit())), b"multipart/form-data"),
    "a form with something behind it": (form(png(digit()), tail=b"\r\n--xyz--\r\nmore"), FORM),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_whatever_is_odd_is_left_to_the_long_way(kind: str) -> None:
    assert Reader(5).read(*LEFT[kind]) is None


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(READ)), st.data())
def test_of_a_body_that_was_tampered_with_both_ways_say_the_same(kind: str, data: st.DataObject) -> None:
    body, content_type = READ[kind]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(body), 120)) | st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 3))
        put = data.draw(
            st.sampled_from([b"", b"0", b"[", b"]", b",", b'"', b"-", b"e9", b"\0", b"1.5", b"\xff"])
        )
        body = body[:at] + put + body[at + cut :]
    found = Reader(5).read(body, content_type)
    if found is None:
        return
    try:
        expected = long_way(body, content_type)
    except ServiceError as error:
        pytest.fail(f"read what is refused with: {error.detail} {error.errors[:1]}")
    np.testing.assert_array_equal(
        np.asarray(found.pixels, np.float32), np.asarray(expected.pixels, np.float32)
    )


def test_a_reader_reads_again_after_a_mistake() -> None:
    reader = Reader(5)
    for kind in ("true", "no JSON", "a row in a row"):
        assert reader.read(*LEFT[kind]) is None
        found = reader.read(*READ["json"])
        assert found is not None
        kept = np.array(found.pixels)
        assert reader.read(text([[7] * 784]), b"") is not None
        np.testing.assert_array_equal(found.pixels, kept)  # what was read stays


def test_the_json_of_the_long_way_is_as_strict() -> None:
    with pytest.raises(bodies.MalformedJson):
        bodies.decode(LEFT["the same key twice"][0])
