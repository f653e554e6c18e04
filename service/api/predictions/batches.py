"""From the body of a prediction request to digits, whatever way the images came."""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.api import bodies
from service.api.predictions import archives
from service.api.predictions.uploads import Form, Upload, too_many
from service.data import digits
from service.data.digits import PIXELS, SIDE, Digit, Mode, Scale
from service.errors import FieldError, Invalid, ServiceError
from service.settings import Settings

ASKED = ("min_confidence", "coverage")  # what `abstention` reads
FIELDS = ("images", "image", "scale", "preprocess", *ASKED)
MODES: dict[str, Mode] = {"auto": "auto", "mnist": "mnist", "none": "none"}
SCALES: dict[str, Scale] = {"byte": "byte", "unit": "unit"}

OnError = Literal["batch", "item"]

C = TypeVar("C")


@dataclass(frozen=True)
class Batch:
    """Images as the network sees them: (n, 784) from 0 to 255, the warnings of each, and how those that were pictures
    became pixels. One that could not be read is a row of zeros, and has an error by its index. `asked` are the fields
    of the body that are about the answer, as they came."""

    pixels: NDArray[Any]
    warnings: Sequence[Sequence[str]]
    digits: Sequence[Digit | None]
    errors: Mapping[int, ServiceError] = field(default_factory=dict)
    names: Sequence[str] | None = None  # of an archive's files
    asked: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How images are read: in the preprocessing version that their model asks for; by the mode of the query, unless
    the body says another; and what a wrong one costs, the batch or itself alone."""

    settings: Settings
    version: str
    mode: Mode | None = None
    on_error: OnError | None = None

    def read(self, upload: Upload) -> Batch:
        """The images of a body. Raises ServiceError that points at the image which is wrong; with `on_error` item,
        which an archive has unless it is told otherwise, only for what is wrong with the whole."""
        if upload.form is not None:
            return _asking(self._form(upload.form), upload.form.fields)
        if upload.is_json:
            with bodies.alone(upload.raw):
                payload = bodies.decode(upload.raw)
                return _asking(self._json(payload), payload)
        if not upload.raw:
            raise Invalid("the body is empty: send an image, a form of images, or JSON", code="no_images")
        if upload.is_pixels:
            return self._pixels(upload.raw)
        if upload.raw.startswith(archives.MAGIC):
            limits = self.settings
            return self.archived(
                archives.files(upload.raw, max_files=limits.max_images, max_bytes=limits.max_body_bytes)
            )
        return _batch([self.digit(upload.raw)])

    def each(self, images: list[object], places: list[str], scale: Scale) -> Batch:
        """Images as JSON has them, numbers or base64, and where each stood; errors are in the batch."""
        return _Mixed(self, images, places, scale).each()

    def digit(self, data: bytes) -> Digit:
        """One image file."""
        pixels = self.settings.max_image_pixels
        return digits.read(data, mode=self.mode or "auto", max_pixels=pixels, version=self.version)

    def file(self, data: bytes | ServiceError, place: str) -> Batch:
        """One image file, or what is wrong with it, and where it stood."""
        if isinstance(data, ServiceError):
            raise data
        with _pointing_at(place):
            return _batch([self.digit(data)])

    def _form(self, form: Form) -> Batch:
        known = ("preprocess", *ASKED)
        unknown = sorted(form.fields.keys() - set(known))
        if unknown:
            remedy = f"send images as files (with a file name); {', '.join(known)} may go along"
            raise _unknown_field(unknown[0], remedy)
        if not form.files:
            raise Invalid("the form holds no file: send at least one image", code="no_images")
        way = self._told(form.fields)
        return _joined(
            [_outcome(partial(way.file, data, place), self.on_error or "batch") for place, data in form.files]
        )

    def archived(self, files: Iterable[tuple[str, bytes | ServiceError]], *, first: int = 0) -> Batch:
        """Files of an archive by name, or what is wrong with them, numbered from `first`."""
        names: list[str] = []
        outcomes: list[Batch | ServiceError] = []
        for number, (name, content) in enumerate(files, first):
            outcomes.append(_outcome(partial(self.file, content, f"#/{number}"), self.on_error or "item"))
            names.append(name)
        if not names:
            raise Invalid("the archive holds no file: put at least one image in", code="no_images")
        return replace(_joined(outcomes), names=names)

    def _json(self, payload: object) -> Batch:
        if not isinstance(payload, dict):
            raise Invalid('send a JSON object, such as {"images": [[784 numbers]]}', code="not_an_object")
        unknown = sorted(payload.keys() - set(FIELDS))
        if unknown:
            raise _unknown_field(unknown[0], f"there are {', '.join(FIELDS)}")
        way = self._told(payload)
        scale = _choice(SCALES, payload.get("scale", "byte"), "scale")
        images, places = _listed(payload)
        if len(images) > self.settings.max_images:
            raise too_many(self.settings.max_images)
        mixed = _Mixed(way, images, places, scale)
        return mixed.each() if self.on_error == "item" else mixed.batch()

    def _told(self, fields: Mapping[str, object]) -> "Way":
        """With the mode that the body asks for, if it does."""
        if "preprocess" not in fields:
            return self
        return replace(self, mode=_choice(MODES, fields["preprocess"], "preprocess"))

    def _pixels(self, raw: bytes) -> Batch:
        count, rest = divmod(len(raw), PIXELS)
        if rest:
            detail = (
                f"{len(raw):,} bytes are no whole number of images of {PIXELS} bytes: {rest} are left over"
            )
            raise Invalid(detail, code="bad_pixels", errors=[FieldError("#", detail)])
        if count > self.settings.max_images:
            raise too_many(self.settings.max_images)
        greys = np.frombuffer(raw, np.uint8).reshape(count, SIDE, SIDE)
        if self.mode in ("auto", "mnist"):
            return _batch([digits.prepare(grey, mode=self.mode, version=self.version) for grey in greys])
        pixels = greys.reshape(count, PIXELS)
        warnings = [("blank",) if blank else () for blank in digits.is_blank(pixels)]
        return Batch(pixels, warnings, [None] * count)


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

    way: Way
    images: list[object]
    places: list[str]
    scale: Scale

    def batch(self) -> Batch:
        encoded = [index for index, image in enumerate(self.images) if isinstance(image, str)]
        numbers = [index for index, image in enumerate(self.images) if not isinstance(image, str)]
        pixels = np.zeros((len(self.images), PIXELS), dtype=np.float32)
        if numbers:
            pixels[numbers] = self._numbers(numbers)
        warnings: list[Sequence[str]] = [("blank",) if blank else () for blank in digits.is_blank(pixels)]
        seen = self._pictures(encoded)
        if self.way.mode in ("auto", "mnist"):
            for index in numbers:
                grey = pixels[index].round().astype(np.uint8).reshape(SIDE, SIDE)
                seen[index] = digits.prepare(grey, mode=self.way.mode, version=self.way.version)
        for index, digit in seen.items():
            pixels[index], warnings[index] = digit.pixels, digit.warnings
        return Batch(pixels, warnings, [seen.get(index) for index in range(len(self.images))])

    def each(self) -> Batch:
        """As `batch`, with the errors of images that cannot be read."""
        if isinstance(whole := _outcome(self.batch, "item"), Batch):
            return whole
        ones = (
            replace(self, images=[image], places=[place])
            for image, place in zip(self.images, self.places, strict=True)
        )
        return _joined([_outcome(one.batch, "item") for one in ones])

    def _pictures(self, chosen: list[int]) -> dict[int, Digit]:
        found = {}
        for index in chosen:
            data = _from_base64(str(self.images[index]), self.places[index])
            with _pointing_at(self.places[index]):
                found[index] = self.way.digit(data)
        return found

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
        return _decoded(data)
    except ValueError as error:
        detail = f"is text but not base64 of an image file: {error}"
        raise Invalid(f"an image {detail}", code="bad_base64", errors=[FieldError(place, detail)]) from None


def _decoded(text: str) -> bytes:
    """Without a copy of the text, unless it has white space in it. Raises ValueError."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return base64.b64decode("".join(text.split()), validate=True)


@contextmanager
def _pointing_at(place: str) -> Iterator[None]:
    """What is refused in the block is refused with its place in the body."""
    try:
        yield
    except ServiceError as error:
        raise type(error)(error.detail, code=error.code, errors=[FieldError(place, error.detail)]) from None


def _outcome(read: Callable[[], Batch], on_error: OnError) -> Batch | ServiceError:
    try:
        return read()
    except ServiceError as error:
        if on_error == "batch" or error.status >= 500:
            raise
        return error.kept()


def _joined(outcomes: Sequence[Batch | ServiceError]) -> Batch:
    """One batch of batches of one image, and of the errors between them."""
    unread = Batch(np.zeros((1, PIXELS), np.uint8), [()], [None])
    errors = {index: one for index, one in enumerate(outcomes) if isinstance(one, ServiceError)}
    parts = [unread if isinstance(one, ServiceError) else one for one in outcomes]
    pixels = np.concatenate([part.pixels for part in parts])
    return Batch(pixels, [part.warnings[0] for part in parts], [part.digits[0] for part in parts], errors)


def _batch(found: Sequence[Digit]) -> Batch:
    return Batch(np.stack([digit.pixels for digit in found]), [digit.warnings for digit in found], found)


def _asking(batch: Batch, fields: Any) -> Batch:
    return replace(batch, asked={name: fields[name] for name in ASKED if name in fields})


def _choice(choices: Mapping[str, C], value: object, name: str) -> C:
    if isinstance(value, str) and value in choices:
        return choices[value]
    detail = f"must be one of {', '.join(choices)}"
    raise Invalid(f"{name} {detail}", errors=[FieldError(f"#/{name}", detail)])


def _unknown_field(name: str, remedy: str) -> Invalid:
    detail = f"there is no field {name!r}: {remedy}"
    return Invalid(detail, code="unknown_field", errors=[FieldError(f"#/{name}", detail)])
