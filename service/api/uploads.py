"""From the bytes of a prediction request to digits, whatever way the images came."""

import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import Depends, Request
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api import archives, bodies
from service.api.bodies import RawBody
from service.api.context import Wired
from service.data import digits
from service.data.digits import SIDE, Digit, Mode, Scale
from service.errors import BadRequest, FieldError, Invalid, PayloadTooLarge, ServiceError
from service.settings import Settings

ASKED = ("min_confidence", "coverage")  # what `abstention` reads
FIELDS = ("images", "image", "scale", "preprocess", *ASKED)
PIXELS = SIDE * SIDE
MODES: dict[str, Mode] = {"auto": "auto", "mnist": "mnist", "none": "none"}
SCALES: dict[str, Scale] = {"byte": "byte", "unit": "unit"}

OnError = Literal["batch", "item"]

C = TypeVar("C")


@dataclass(frozen=True)
class Batch:
    """Images as the network sees them: (n, 784) from 0 to 255, and the warnings of each. One that could not be
    read is a row of zeros, and has an error by its index. `asked` are the fields of the body that are about the
    answer, as they came."""

    pixels: NDArray[Any]
    warnings: Sequence[Sequence[str]]
    errors: Mapping[int, ServiceError] = field(default_factory=dict)
    names: Sequence[str] | None = None  # of an archive's files
    asked: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A multipart body: files with where each stood, and the fields beside them."""

    files: Sequence[tuple[str, bytes]]
    fields: dict[str, str]


@dataclass(frozen=True)
class Upload:
    """A body whose kind is known by its content: a form, JSON, or else an image."""

    raw: bytes
    is_json: bool = False
    form: Form | None = None
    is_pixels: bool = False


async def _upload(request: Request, raw: RawBody, context: Wired) -> Upload:
    media = bodies.media_type(request)
    if media == "multipart/form-data" and raw.lstrip()[:2] == b"--":
        return Upload(raw, form=await _form(request, raw, context.settings.max_images))
    if media == "application/octet-stream" and is_pixels_body(raw):
        return Upload(raw, is_pixels=True)
    starts_as_json = raw.lstrip()[:1] in (b"{", b"[")
    starts_as_text = raw[:1].isascii() and raw[:4] != b"RIFF"
    return Upload(raw, is_json=starts_as_json or (bodies.is_json(media) and starts_as_text))


Uploaded = Annotated[Upload, Depends(_upload)]


def is_pixels_body(raw: bytes) -> bool:
    """Of bytes of which nothing is said: they are pixels by their number, or because they are nothing else."""
    if len(raw) % PIXELS == 0 and not digits.is_read(raw) and not raw.startswith(archives.MAGIC):
        return True
    return digits.kind_of(raw) == "unknown bytes"


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


def read(upload: Upload, mode: Mode | None, settings: Settings, *, on_error: OnError | None = None) -> Batch:
    """The images of a body. `mode` is the query's; what the body says goes before it. Raises ServiceError
    that points at the image which is wrong; with `on_error` item, which an archive has unless it is told
    otherwise, only for what is wrong with the whole."""
    if upload.form is not None:
        return _asking(_of_form(upload.form, mode, settings, on_error), upload.form.fields)
    if upload.is_json:
        payload = bodies.decode(upload.raw)
        return _asking(_of_json(payload, mode, settings, on_error), payload)
    if upload.raw.startswith(archives.MAGIC):
        return _of_archive(upload.raw, mode or "auto", settings, on_error)
    if not upload.raw:
        raise Invalid("the body is empty: send an image, a form of images, or JSON", code="no_images")
    if upload.is_pixels:
        return _of_pixels(upload.raw, mode, settings.max_images)
    digit = digits.read(upload.raw, mode=mode or "auto", max_pixels=settings.max_image_pixels)
    return _batch([digit])


def _asking(batch: Batch, fields: Any) -> Batch:
    return replace(batch, asked={name: fields[name] for name in ASKED if name in fields})


def _of_form(form: Form, mode: Mode | None, settings: Settings, on_error: OnError | None) -> Batch:
    known = ("preprocess", *ASKED)
    unknown = sorted(form.fields.keys() - set(known))
    if unknown:
        remedy = f"send images as files (with a file name); {', '.join(known)} may go along"
        raise _unknown_field(unknown[0], remedy)
    if not form.files:
        raise Invalid("the form holds no file: send at least one image", code="no_images")
    if "preprocess" in form.fields:
        mode = _choice(MODES, form.fields["preprocess"], "preprocess")
    readers = [
        partial(_read_file, data, where, mode or "auto", settings.max_image_pixels)
        for where, data in form.files
    ]
    return _joined([_outcome(read, on_error or "batch") for read in readers])


def _of_archive(data: bytes, mode: Mode, settings: Settings, on_error: OnError | None) -> Batch:
    names: list[str] = []
    outcomes: list[Batch | ServiceError] = []
    files = archives.files(data, max_files=settings.max_images, max_bytes=settings.max_body_bytes)
    for index, (name, content) in enumerate(files):
        read = partial(_read_file, content, f"#/{index}", mode, settings.max_image_pixels)
        outcomes.append(_outcome(read, on_error or "item"))
        names.append(name)
    if not names:
        raise Invalid("the archive holds no file: put at least one image in", code="no_images")
    return replace(_joined(outcomes), names=names)


def _of_json(payload: object, mode: Mode | None, settings: Settings, on_error: OnError | None) -> Batch:
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
    mixed = _Mixed(images, places, mode, scale, settings.max_image_pixels)
    return mixed.each() if on_error == "item" else mixed.batch()


def read_each(
    images: list[object], places: list[str], mode: Mode | None, scale: Scale, settings: Settings
) -> Batch:
    """Images as JSON has them, numbers or base64, and where each stood; errors are in the batch."""
    return _Mixed(images, places, mode, scale, settings.max_image_pixels).each()


def _of_pixels(raw: bytes, mode: Mode | None, max_images: int) -> Batch:
    count, rest = divmod(len(raw), PIXELS)
    if rest:
        detail = f"{len(raw):,} bytes are no whole number of images of {PIXELS} bytes: {rest} are left over"
        raise Invalid(detail, code="bad_pixels", errors=[FieldError("#", detail)])
    if count > max_images:
        raise _too_many(max_images)
    greys = np.frombuffer(raw, np.uint8).reshape(count, SIDE, SIDE)
    if mode in ("auto", "mnist"):
        return _batch([digits.prepare(grey, mode=mode) for grey in greys])
    pixels = greys.reshape(count, PIXELS)
    return Batch(pixels, [("blank",) if blank else () for blank in digits.is_blank(pixels)])


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

    def batch(self) -> Batch:
        encoded = [index for index, image in enumerate(self.images) if isinstance(image, str)]
        numbers = [index for index, image in enumerate(self.images) if not isinstance(image, str)]
        pixels = np.zeros((len(self.images), PIXELS), dtype=np.float32)
        if numbers:
            pixels[numbers] = self._numbers(numbers)
        warnings: list[Sequence[str]] = [("blank",) if blank else () for blank in digits.is_blank(pixels)]
        for index in numbers if self.mode in ("auto", "mnist") else []:
            grey = pixels[index].round().astype(np.uint8).reshape(SIDE, SIDE)
            digit = digits.prepare(grey, mode=self.mode or "none")
            pixels[index], warnings[index] = digit.pixels, digit.warnings
        for index in encoded:
            data = _from_base64(str(self.images[index]), self.places[index])
            digit = _read_one(data, self.places[index], self.mode or "auto", self.max_pixels)
            pixels[index], warnings[index] = digit.pixels, digit.warnings
        return Batch(pixels, warnings)

    def each(self) -> Batch:
        """As `batch`, with the errors of images that cannot be read."""
        if isinstance(whole := _outcome(self.batch, "item"), Batch):
            return whole
        ones = (
            replace(self, images=[image], places=[place])
            for image, place in zip(self.images, self.places, strict=True)
        )
        return _joined([_outcome(one.batch, "item") for one in ones])

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


def _read_one(data: bytes, place: str, mode: Mode, max_pixels: int) -> Digit:
    try:
        return digits.read(data, mode=mode, max_pixels=max_pixels)
    except ServiceError as error:
        raise type(error)(error.detail, code=error.code, errors=[FieldError(place, error.detail)]) from None


def _read_file(data: bytes | ServiceError, place: str, mode: Mode, max_pixels: int) -> Batch:
    if isinstance(data, ServiceError):
        raise data
    return _batch([_read_one(data, place, mode, max_pixels)])


def _outcome(read: Callable[[], Batch], on_error: OnError) -> Batch | ServiceError:
    try:
        return read()
    except ServiceError as error:
        if on_error == "batch" or error.status >= 500:
            raise
        return error


def _joined(outcomes: Sequence[Batch | ServiceError]) -> Batch:
    """One batch of batches of one image, and of the errors between them."""
    unread = Batch(np.zeros((1, SIDE * SIDE), np.uint8), [()])
    errors = {index: one for index, one in enumerate(outcomes) if isinstance(one, ServiceError)}
    parts = [unread if isinstance(one, ServiceError) else one for one in outcomes]
    pixels = np.concatenate([part.pixels for part in parts])
    return Batch(pixels, [part.warnings[0] for part in parts], errors)


def _batch(read_digits: Sequence[Digit]) -> Batch:
    return Batch(np.stack([digit.pixels for digit in read_digits]), [digit.warnings for digit in read_digits])


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
