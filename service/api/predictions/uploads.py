"""The body of a prediction request, whose kind is told by its content; `batches` makes digits of it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api import bodies
from service.api.bodies import RawBody
from service.api.context import Wired
from service.api.predictions import archives
from service.data import pictures
from service.data.digits import PIXELS
from service.errors import BadRequest, PayloadTooLarge


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
    if len(raw) % PIXELS == 0 and not pictures.is_read(raw) and not raw.startswith(archives.MAGIC):
        return True
    return pictures.kind_of(raw) == "unknown bytes"


class _InMemory(MultiPartParser):
    spool_max_size = 2**31  # the whole body is in memory and limited: no second copy on disk

    def close(self) -> None:
        """Let go of every file, one of a part without an end too, which no form has."""
        for file in self._files_to_close_on_error:
            file.close()


async def _form(request: Request, raw: bytes, max_images: int) -> Form:
    async def once() -> AsyncIterator[bytes]:
        yield raw

    parser = _InMemory(request.headers, once(), max_files=max_images, max_fields=8)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(max_images) from None
        raise BadRequest(error.message, code="malformed_multipart") from None
    except (FormParserError, ValueError) as error:
        raise BadRequest(f"the form cannot be read: {error}", code="malformed_multipart") from None
    else:
        return await _told(form)
    finally:
        parser.close()


async def _told(form: FormData) -> Form:
    files: list[tuple[str, bytes]] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((f"#/{name}/{len(files)}", await value.read()))
        else:
            fields[name] = value
    return Form(files, fields)


def too_many(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"more than {limit:,} images (NUMERAL_MAX_IMAGES): send them in parts", code="too_many_images"
    )
