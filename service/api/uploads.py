"""From the bytes of a prediction request to digits, whatever way the images came."""

import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, Request
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api import bodies
from service.api.bodies import RawBody
from service.api.context import Wired
from service.data import digits
from service.data.digits import SIDE, Digit, Mode, Scale
from service.errors import BadRequest, FieldError, Invalid, PayloadTooLarge, ServiceError
from service.settings import Settings

FIELDS = ("images", "image", "scale", "preprocess")
MODES: dict[str, Mode] = {"auto": "auto", "mnist": "mnist", "none": "none"}
SCALES: dict[str, Scale] = {"byte": "byte", "unit": "unit"}

C = TypeVar("C")


@dataclass(frozen=True)
class Batch:
    """Images as the network sees them: (n, 784) from 0 to 255, the warnings of each, and how those that were
    pictures became pixels."""

    pixels: NDArray[Any]
    warnings: Sequence[Sequence[str]]
    digits: Sequence[Digit | None]


@dataclass(frozen=True)
class Form:
    """A multipart body: files with where each stood, and the fields beside them."""

    files: Sequence[tuple[str, bytes]]
    fields: dict[str, str]


@dataclass(frozen=True)
class Upload:
    """A body whose kind is known by its content: a form, JSON, or else an image."""

    raw: bytes
    is_json: bool
    form: Form | None = None


async def _upload(request: Request, raw: RawBody, context: Wired) -> Upload:
    media = bodies.media_type(request)
    if media == "multipart/form-data" and raw.lstrip()[:2] == b"--":
        return Upload(raw, is_json=False, form=await _form(request, raw, context.settings.max_images))
    starts_as_json = raw.lstrip()[:1] in (b"{", b"[")
    starts_as_text = raw[:1].isascii() and raw[:4] != b"RIFF"
    return Upload(raw, is_json=starts_as_json or (bodies.is_json(media) and starts_as_text))


Uploaded = Annotated[Upload, Depends(_upload)]


class _InMemory(MultiPartParser):
    spool_max_size = 2**31  # the whole body is in memory and limited: no second copy on disk


async def _form(request: Request, raw: bytes, max_images: int) -> Form:
    async def once() -> AsyncIterator[bytes]:
        yield raw

    parser = _InMemory(request.headers, once(), max_files=max_images, max_fields=8)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(max_images) from None
        raise BadRequest(error.message, code="malformed_multipart") from None
    except (FormParserError, ValueError) as error:
        raise BadRequest(f"the form cannot be read: {error}", code="malformed_multipart") from None
    files: list[tuple[str, bytes]] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((f"#/{name}/{len(files)}", await value.read()))
        else:
            fields[name] = value
    await form.close()
    return Form(files, fields)


def read(upload: Upload, mode: Mode | None, settings: Settings, version: str) -> Batch:
    """The images of a body, in the preprocessing version that their model asks for. `mode` is the query's; what the
    body says goes before it. Raises ServiceError that points at the image which is wrong."""
    if upload.form is not None:
        return _of_form(upload.form, mode, settings, version)
    if upload.is_json:
        return _of_json(bodies.decode(upload.raw), mode, settings, version)
    if not upload.raw:
        raise Invalid("the body is empty: send an image, a form of images, or JSON", code="no_images")
    digit = digits.read(
        upload.raw, mode=mode or "auto", max_pixels=settings.max_image_pixels, version=version
    )
    return _batch([digit])


def read_all(upload: Upload, settings: Settings) -> list[list[Digit]]:
    """Every digit of the one picture of a body, line by line. Raises ServiceError."""
    data, place = _single(upload)
    with _pointing_at(place):
        return digits.read_all(data, max_pixels=settings.max_image_pixels)


def _single(upload: Upload) -> tuple[bytes, str]:
    """The one image file of a body, and where it stands."""
    remedy = "send one picture: an image file, a form with one file, or JSON with image in base64"
    if upload.form is not None:
        if len(upload.form.files) != 1 or upload.form.fields:
            raise Invalid(f"the form holds {len(upload.form.files)} files: {remedy}", code="one_image")
        place, data = upload.form.files[0]
        return data, place
    if not upload.is_json:
        if not upload.raw:
            raise Invalid(f"the body is empty: {remedy}", code="no_images")
        return upload.raw, "#"
    payload = bodies.decode(upload.raw)
    if not isinstance(payload, dict) or "image" not in payload:
        raise Invalid(remedy, code="one_image", errors=[FieldError("#", remedy)])
    unknown = sorted(payload.keys() - {"image"})
    if unknown:
        raise _unknown_field(unknown[0], "there is image")
    if not isinstance(payload["image"], str):
        detail = "must be an image file in base64: numbers are read by predict"
        raise Invalid(f"image {detail}", code="bad_base64", errors=[FieldError("#/image", detail)])
    return _from_base64(payload["image"], "#/image"), "#/image"


def _of_form(form: Form, mode: Mode | None, settings: Settings, version: str) -> Batch:
    unknown = sorted(form.fields.keys() - {"preprocess"})
    if unknown:
        raise _unknown_field(unknown[0], "send images as files (with a file name); preprocess may go along")
    if not form.files:
        raise Invalid("the form holds no file: send at least one image", code="no_images")
    if "preprocess" in form.fields:
        mode = _choice(MODES, form.fields["preprocess"], "preprocess")
    return _batch(
        [
            _read_one(data, where, mode or "auto", settings.max_image_pixels, version)
            for where, data in form.files
        ]
    )


def _of_json(payload: object, mode: Mode | None, settings: Settings, version: str) -> Batch:
    if not isinstance(payload, dict):
        raise Invalid('send a JSON object, such as {"images": [[784 numbers]]}', code="not_an_object")
    unknown = sorted(payload.keys() - set(FIELDS))
    if unknown:
        raise _unknown_field(unknown[0], f"there are {', '.join(FIELDS)}")
    if "preprocess" in payload:
        mode = _choice(MODES, payload["preprocess"], "preprocess")
    scale = _choice(SCALES, payload.get("scale", "byte"), "scale")
    images, places = _listed(payload)
    if len(images) > settings.max_images:
        raise _too_many(settings.max_images)
    return _Mixed(images, places, mode, scale, settings.max_image_pixels, version).batch()


def _listed(payload: dict[str, Any]) -> tuple[list[object], list[str]]:
    """The images and where each stands."""
    if ("image" in payload) == ("images" in payload):
        detail = "give either image or images"
        raise Invalid(detail, code="no_images", errors=[FieldError("#", detail)])
    if "image" in payload:
        return [payload["image"]], ["#/image"]
    images = payload["images"]
    if not isinstance(images, list) or not images:
        detail = "must be a list of at least one image"
        raise Invalid(f"images {detail}", code="no_images", errors=[FieldError("#/images", detail)])
    return images, [f"#/images/{index}" for index in range(len(images))]


@dataclass(frozen=True)
class _Mixed:
    """Images of a JSON body: numbers, and files in base64."""

    images: list[object]
    places: list[str]
    mode: Mode | None
    scale: Scale
    max_pixels: int
    version: str

    def batch(self) -> Batch:
        encoded = [index for index, image in enumerate(self.images) if isinstance(image, str)]
        numbers = [index for index, image in enumerate(self.images) if not isinstance(image, str)]
        pixels = np.zeros((len(self.images), SIDE * SIDE), dtype=np.float32)
        if numbers:
            pixels[numbers] = self._numbers(numbers)
        warnings: list[Sequence[str]] = [("blank",) if blank else () for blank in digits.is_blank(pixels)]
        seen: list[Digit | None] = [None] * len(self.images)
        for index in numbers if self.mode in ("auto", "mnist") else []:
            grey = pixels[index].round().astype(np.uint8).reshape(SIDE, SIDE)
            digit = digits.prepare(grey, mode=self.mode or "none", version=self.version)
            pixels[index], warnings[index], seen[index] = digit.pixels, digit.warnings, digit
        for index in encoded:
            data = _from_base64(str(self.images[index]), self.places[index])
            digit = _read_one(data, self.places[index], self.mode or "auto", self.max_pixels, self.version)
            pixels[index], warnings[index], seen[index] = digit.pixels, digit.warnings, digit
        return Batch(pixels, warnings, seen)

    def _numbers(self, chosen: list[int]) -> NDArray[np.float32]:
        try:
            return digits.from_pixels([self.images[index] for index in chosen], scale=self.scale)
        except Invalid as error:
            places = [self.places[chosen[int(item.pointer.rpartition("/")[2])]] for item in error.errors]
            errors = [
                FieldError(place, item.detail) for place, item in zip(places, error.errors, strict=True)
            ]
            raise Invalid(error.detail, code=error.code, errors=errors) from None


def _from_base64(text: str, place: str) -> bytes:
    data = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        detail = f"is text but not base64 of an image file: {error}"
        raise Invalid(f"an image {detail}", code="bad_base64", errors=[FieldError(place, detail)]) from None


def _read_one(data: bytes, place: str, mode: Mode, max_pixels: int, version: str) -> Digit:
    with _pointing_at(place):
        return digits.read(data, mode=mode, max_pixels=max_pixels, version=version)


@contextmanager
def _pointing_at(place: str) -> Iterator[None]:
    """What is refused in the block is refused with its place in the body."""
    try:
        yield
    except ServiceError as error:
        raise type(error)(error.detail, code=error.code, errors=[FieldError(place, error.detail)]) from None


def _batch(read_digits: Sequence[Digit]) -> Batch:
    return Batch(
        np.stack([digit.pixels for digit in read_digits]),
        [digit.warnings for digit in read_digits],
        read_digits,
    )


def _choice(choices: Mapping[str, C], value: object, name: str) -> C:
    if isinstance(value, str) and value in choices:
        return choices[value]
    detail = f"must be one of {', '.join(choices)}"
    raise Invalid(f"{name} {detail}", errors=[FieldError(f"#/{name}", detail)])


def _unknown_field(name: str, remedy: str) -> Invalid:
    detail = f"there is no field {name!r}: {remedy}"
    return Invalid(detail, code="unknown_field", errors=[FieldError(f"#/{name}", detail)])


def _too_many(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"more than {limit:,} images (NUMERAL_MAX_IMAGES): send them in parts", code="too_many_images"
    )
