"""Whatever reads bytes that somebody sends, and what has to hold of it for any bytes at all: it reads them, and then
rightly, or refuses them with an error of ours. Hypothesis and atheris look for bytes of which it does not hold."""

import io
import json
import zipfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Never, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request

from service import checkpoints
from service import spec as specs
from service.api.express import quick
from service.api.express.quick import Reader
from service.api.inference import tensors
from service.api.predictions import archives, uploads
from service.api.predictions.uploads import Form
from service.checkpoints import CorruptCheckpoint, Snapshot
from service.data import digits, idx
from service.data.digits import PIXELS, PREPROCESSING_VERSION, SIDE
from service.errors import Invalid, ServiceError
from service.presets import PRESETS
from service.spec import TrainingSpec

MAX_IMAGES, MAX_PIXELS, MAX_FILES, MAX_BYTES = 5, 1_000_000, 10, 1 << 16
BOUNDARY = b"xyz"
FORM = b"multipart/form-data; boundary=" + BOUNDARY
IDX_SHAPE = (3, SIDE, SIDE)
MAX_PARAMETERS = 200_000_000

T = TypeVar("T")


@dataclass(frozen=True)
class Foreign:
    """One kind of bytes: what has to hold of any, examples of good ones, and what they are made of."""

    holds: Callable[[bytes], None]
    good: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()


# Pixels as JSON


def json_pixels(body: bytes) -> None:
    """The quick way agrees with a plain reader of the whole document on all that it takes."""
    found = Reader(MAX_IMAGES).read(b"{" + body, b"")
    if found is None:
        return
    expected = _plain(b"{" + body)
    np.testing.assert_array_equal(np.asarray(found.pixels, np.float32), expected)
    assert [bool(each) for each in found.warnings] == digits.is_blank(expected).tolist()


def _plain(body: bytes) -> NDArray[np.float32]:
    document = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    assert document.keys() <= {"images", "scale"}
    images, scale = document["images"], document.get("scale", "byte")
    assert scale in ("byte", "unit")
    assert 0 < len(images) <= MAX_IMAGES
    assert all(type(image) is list and len(image) == PIXELS for image in images)
    assert all(type(number) in (int, float) for image in images for number in image)
    numbers = np.array(images, np.float64)
    assert 0 <= numbers.min() <= numbers.max() <= (1 if scale == "unit" else 255)
    return (numbers * 255 if scale == "unit" else numbers).astype(np.float32)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key is there twice"
    return dict(pairs)


def _no_number(name: str) -> Never:
    raise AssertionError(f"{name} is no number")


# Forms


def form(body: bytes) -> None:
    """The quick way cuts a file out of a form only where the parser of the long way finds it, and nothing else."""
    cut = quick._only_file(body, FORM)
    try:
        parsed = _parsed(body)
    except ServiceError as error:
        _refused(error, 400, 413, at_once=cut)
        return
    if cut is not None:
        assert [content for _, content in parsed.files] == [cut]
        assert parsed.fields == {}


def _parsed(body: bytes) -> Form:
    request = Request({"type": "http", "headers": [(b"content-type", FORM)]})
    return _run(uploads._form(request, body, MAX_IMAGES))


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")


# Tensors, pictures, archives, checkpoints, datasets, specs


def tensor(data: bytes) -> None:
    """The first byte tells how long the header is said to be, in steps of 8; 0 says nothing."""
    length = None if data[:1] in (b"", b"\0") else str(8 * data[0])
    try:
        found = tensors.decode(data[1:], length, max_images=MAX_IMAGES)
    except ServiceError as error:
        _refused(error, 400, 413)
        return
    assert found.pixels.shape[1:] == (PIXELS,)
    assert 0 < len(found.pixels) <= MAX_IMAGES
    assert 0 <= found.pixels.min() <= found.pixels.max() <= 255
    tensors.encode(found, np.full((len(found.pixels), 10), 0.1, np.float32), name="digits", version="1")


def picture(image: bytes) -> None:
    """Pixels or a refusal; and what the quick way takes, it reads alike."""
    at_once = quick._png(image, PREPROCESSING_VERSION)
    try:
        found = digits.read(image, mode="auto", max_pixels=MAX_PIXELS)
    except ServiceError as error:
        _refused(error, 413, 415, 422, at_once=at_once)
        return
    assert found.pixels.shape == (PIXELS,)
    assert found.pixels.dtype == np.uint8
    if at_once is not None:
        np.testing.assert_array_equal(at_once.pixels[0], found.pixels)
        assert [list(each) for each in at_once.warnings] == [list(found.warnings)]


def archive(data: bytes) -> None:
    """Files within their bounds, or refusals."""
    unpacked = 0
    try:
        for name, content in archives.files(data, max_files=MAX_FILES, max_bytes=MAX_BYTES):
            assert len(name) <= archives.MAX_NAME
            if isinstance(content, ServiceError):
                _refused(content, 413, 415, 422)
            else:
                unpacked += len(content)
                assert len(content) <= MAX_BYTES
    except ServiceError as error:
        _refused(error, 413, 422)
    assert unpacked <= archives.TIMES_A_BODY * MAX_BYTES


def checkpoint(data: bytes) -> None:
    """Weights of just the shapes that their spec has, or a refusal."""
    try:
        found = checkpoints.decode_weights(data)
    except CorruptCheckpoint:
        return
    assert {name: array.shape for name, array in found.arrays.items()} == checkpoints.shapes(found.spec)


def dataset(data: bytes) -> None:
    """Images of the shape that is asked for, or a refusal."""
    try:
        found = idx._parse(data, IDX_SHAPE)
    except idx.Malformed:
        return
    assert found.shape == IDX_SHAPE
    assert len(data) == 16 + found.size


def document(data: bytes) -> None:
    """A spec, of any JSON."""
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return  # refused before anybody asks what it means
    spec(payload)


def spec(payload: object) -> TrainingSpec | None:
    """A spec that comes back from its own JSON as it is, or None: refused, with a pointer to each field."""
    try:
        found = specs.parse(payload, max_parameters=MAX_PARAMETERS)
    except Invalid as error:
        _refused(error, 422)
        mistakes = error.errors
        assert mistakes
        assert all(item.pointer.startswith("#") and item.detail for item in mistakes)
        return None
    again = specs.parse(json.loads(found.canonical_json()), max_parameters=MAX_PARAMETERS)
    assert again == found
    assert again.canonical_json() == found.canonical_json()
    return found


def _refused(error: ServiceError, *statuses: int, at_once: object = None) -> None:
    """With one of these, in a few words; and nothing was read of it at once."""
    assert error.status in statuses
    assert len(error.detail) < 500
    assert at_once is None, f"read what is refused: {error.detail}"


# Good ones


def _grey() -> NDArray[np.uint8]:
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[4:24, 4:24] = np.random.default_rng(0).integers(0, 256, (20, 20))
    return grey


def _file(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(_grey())).save(file, kind, **options)
    return file.getvalue()


def _json(images: object, **fields: object) -> bytes:
    return json.dumps({"images": images, **fields}).encode()


def _zip(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("a/7.png", _file("PNG"))
        made.writestr("zeros", bytes(3000))
    return file.getvalue()


def _part(content: bytes, head: bytes = b'name="file"; filename="7.png"') -> bytes:
    return (
        b"--xyz\r\nContent-Disposition: form-data; " + head + b"\r\nContent-Type: image/png\r\n\r\n" + content
    )


def _weights(**fields: Any) -> bytes:
    small = TrainingSpec.model_validate({"network": {"hidden_widths": [2]}, **fields})
    arrays = {name: np.zeros(shape, np.float32) for name, shape in checkpoints.shapes(small).items()}
    return checkpoints.encode_weights(
        Snapshot(1, 1.0, arrays, {}, {}), small, preprocessing=PREPROCESSING_VERSION
    )


_FLAT = _grey().reshape(-1).tolist()
_UNIT = [value / 255 for value in _FLAT]
_TENSOR = {"name": "images", "shape": [1, PIXELS], "datatype": "UINT8"}
_JSON = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b" ",
        b"\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\\u0000",
    ),
    *(
        b"-",
        b"-0",
        b"0.",
        b".5",
        b"1e2",
        b"1E+2",
        b"e400",
        b"1e-400",
        b"00",
        b"NaN",
        b"true",
        b"null",
        b"[]",
        b"{}",
    ),
    *(
        b"255",
        b"255.00000000000001",
        b"256",
        b"18446744073709551616",
        b'"images":',
        b'"scale":"unit"',
        b"/**/",
    ),
)

ALL: dict[str, Foreign] = {
    "json_pixels": Foreign(
        json_pixels,
        tuple(
            text[1:]
            for text in (
                _json([_FLAT]),
                _json([_UNIT], scale="unit"),
                _json([_FLAT, [3] * PIXELS, [0] * PIXELS], scale="byte"),
            )
        ),
        _JSON,
    ),
    "form": Foreign(
        form,
        (
            _part(_file("PNG")) + b"\r\n--xyz--\r\n",
            _part(b"1") + b"\r\n--xyz--",
            _part(b"1") + b"\r\n" + _part(b"none", b'name="preprocess"') + b"\r\n--xyz--\r\n",
        ),
        (
            *(
                b"\r\n",
                b"\r",
                b"\n",
                b"--",
                b"--xyz",
                b"\r\n--xyz",
                b"\r\n--xyz--",
                b"\r\n\r\n",
                b":",
                b";",
                b'"',
                b"\0",
            ),
            *(
                b"Content-Disposition: form-data",
                b'; name="a"',
                b'; filename="a"',
                b"; filename*=utf-8''a",
                b"\\",
            ),
            *(b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: base64", b"\xff"),
        ),
    ),
    "tensor": Foreign(
        tensor,
        (
            b"\0" + json.dumps({"inputs": [_TENSOR | {"data": _FLAT}]}).encode(),
            b"\x18"
            + json.dumps({"inputs": [_TENSOR | {"parameters": {"binary_data_size": PIXELS}}]})
            .encode()
            .ljust(192)
            + bytes(PIXELS),
            b"\0"
            + json.dumps(
                {
                    "id": "a",
                    "inputs": [
                        _TENSOR | {"datatype": "FP32", "shape": [1, SIDE, SIDE], "data": _grey().tolist()}
                    ],
                    "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
                }
            ).encode(),
        ),
        (*_JSON, b'"data":', b'"shape":', b'"parameters":', b'"binary_data_size":'),
    ),
    "picture": Foreign(
        picture,
        (
            _file("PNG"),
            _file("PNG", Image.fromarray(_grey()).convert("P")),
            _file("PNG", Image.fromarray(_grey()).convert("RGBA").resize((40, 30))),
            _file("JPEG"),
            _file("JPEG", Image.fromarray(_grey()).convert("RGB"), progressive=True),
            _file("WEBP"),
            _file("WEBP", lossless=True),
        ),
        (
            *(
                b"IHDR",
                b"IDAT",
                b"PLTE",
                b"tRNS",
                b"IEND",
                b"eXIf",
                b"iCCP",
                b"zTXt",
                b"acTL",
                b"\xff\xd8",
                b"\xff\xe1",
            ),
            *(b"Exif\0\0", b"VP8X", b"VP8L", b"ALPH", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"),
        ),
    ),
    "archive": Foreign(
        archive,
        (_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED), _zip(zipfile.ZIP_BZIP2)),
        (
            b"PK\1\2",
            b"PK\3\4",
            b"PK\5\6",
            b"PK\6\6",
            b"PK\6\7",
            b"\1\0",
            b"\xff\xff",
            b"\xff\xff\xff\xff",
            b"\0\0",
        ),
    ),
    "checkpoint": Foreign(
        checkpoint,
        (_weights(), _weights(committee={"members": 2}), _weights(dataset={"name": "simulated"})),
        (
            *_JSON,
            b'"dtype":"F32"',
            b'"BOOL"',
            b'"data_offsets":[0,8]',
            b'"shape":[1]',
            b"\0\0\0\0",
            b"\xff" * 8,
        ),
    ),
    "dataset": Foreign(
        dataset,
        (b"\0\0\x08\3\0\0\0\3\0\0\0\x1c\0\0\0\x1c" + bytes(3 * PIXELS),),
        (b"\0", b"\1", b"\xff\xff\xff\xff"),
    ),
    "spec": Foreign(
        document,
        (b"{}", *(one.spec.canonical_json().encode() for one in PRESETS.values())),
        (
            *_JSON,
            b'"network":',
            b'"optimizer":',
            b'"schedule":',
            b'"committee":',
            b'"seed":',
            b'"augmentation":',
        ),
    ),
}
