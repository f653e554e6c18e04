"""The body of a batch as it comes: stored a row at a time, its kind told by how it begins, its images counted."""

import hashlib
import logging
import time
from io import BufferedReader
from typing import Protocol

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from service.api.context import Context
from service.api.predictions import archives
from service.api.predictions.archives import Archive
from service.api.predictions.streams import MEDIA_TYPE, Lines
from service.data import pictures
from service.data.digits import PIXELS
from service.errors import BadRequest, FieldError, Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia
from service.settings import Settings
from service.store.batches import Body, Kind
from service.store.blobs import CHUNK_BYTES, Draft, File
from service.store.garbage import GRACE_SECONDS

MAX_FILES = 100_000  # of an archive: its directory is in memory while it is read
MAX_SECONDS = GRACE_SECONDS - 600  # after which its first rows would be taken for garbage
LINES = (MEDIA_TYPE, "application/jsonl", "application/x-jsonlines")

log = logging.getLogger(__name__)


class Intake:
    """One body. Use it in one thread at a time."""

    def __init__(self, context: Context, media: str) -> None:
        self._context = context
        self._media = media
        self._draft = Draft(context.db)
        self._hash = hashlib.sha256()
        self._tally: Tally | None = None  # once its kind is known
        self._began = time.monotonic()

    async def receive(self, request: Request) -> Body:
        """The whole body. Raises ServiceError for what no batch can be made of, and then nothing is left of it;
        ClientDisconnect alike."""
        gathered = bytearray()
        try:
            async for data in request.stream():
                gathered += data
                if len(gathered) >= CHUNK_BYTES:
                    await run_in_threadpool(self.take, bytes(gathered))
                    gathered.clear()
            await run_in_threadpool(self.take, bytes(gathered))
            return await run_in_threadpool(self.end)
        except Exception:
            await run_in_threadpool(self.discard)
            raise

    def take(self, data: bytes) -> None:
        """The next bytes; the first of them tell the kind, so they should not be few."""
        if not data:
            return
        if self._tally is None:
            self._tally = TALLIES[_kind(data, self._media)](self._context.settings)
        if time.monotonic() - self._began > MAX_SECONDS:
            raise BadRequest(
                f"the body took over {MAX_SECONDS / 60:.0f} minutes to come: send it in parts",
                code="upload_too_slow",
            )
        self._tally.take(data)
        self._hash.update(data)
        self._draft.write(data)

    def end(self) -> Body:
        """All has come. Raises Invalid if there is no image in it."""
        self._draft.end()
        if self._tally is None:
            raise Invalid(
                "the body is empty: send lines of JSON, pixels, or a ZIP of images", code="no_images"
            )
        with self._context.decoding:
            total = self._tally.total(File(self._context.db, self._draft.id, self._draft.size))
        if total == 0:
            raise Invalid("the body holds no image: put at least one in", code="no_images")
        return Body(self._tally.kind, self._draft.id, self._draft.size, total)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Leave nothing of it."""
        try:
            self._draft.discard()
        except ServiceError as error:
            log.warning("a body that is not wanted is left to the collector: %s", error.detail)


def _kind(begin: bytes, media: str) -> Kind:
    if begin.startswith(archives.MAGIC):
        return "archive"
    if pictures.is_read(begin):
        raise UnsupportedMedia(
            "this is one picture: post it to /v1/predict, or several in a ZIP", code="unsupported_batch"
        )
    if media == "application/octet-stream":
        return "pixels"
    if media in LINES or begin.lstrip()[:1] in (b"{", b"[", b'"'):
        return "lines"
    raise UnsupportedMedia(
        f"found {media or 'no Content-Type'}: send lines of JSON ({MEDIA_TYPE}), pixels (application/octet-stream), "
        "or a ZIP, as the body itself",
        code="unsupported_batch",
    )


class Tally(Protocol):
    """Counts the images of a body of one kind."""

    kind: Kind

    def __init__(self, settings: Settings) -> None: ...
    def take(self, data: bytes) -> None: ...
    def total(self, stored: File) -> int:
        """Once all has come and is stored."""
        ...


class _LineTally:
    kind: Kind = "lines"

    def __init__(self, settings: Settings) -> None:
        self._lines = Lines(settings.max_json_bytes)
        self._count = 0

    def take(self, data: bytes) -> None:
        self._count += len(self._lines.feed(data))

    def total(self, _stored: File) -> int:
        return self._count + len(self._lines.end())


class _PixelTally:
    kind: Kind = "pixels"

    def __init__(self, _settings: Settings) -> None:
        self._size = 0

    def take(self, data: bytes) -> None:
        self._size += len(data)

    def total(self, _stored: File) -> int:
        count, rest = divmod(self._size, PIXELS)
        if rest:
            detail = (
                f"{self._size:,} bytes are no whole number of images of {PIXELS} bytes: {rest} are left over"
            )
            raise Invalid(detail, code="bad_pixels", errors=[FieldError("#", detail)])
        return count


class _ArchiveTally:
    """Counts the entries of its directory as they come, since to open it would have them all in memory."""

    kind: Kind = "archive"

    def __init__(self, _settings: Settings) -> None:
        self._entries = 0
        self._end = b""  # of what has come, where an entry may have begun

    def take(self, data: bytes) -> None:
        size = len(archives.CENTRAL) - 1
        self._entries += data.count(archives.CENTRAL) + (self._end + data[:size]).count(archives.CENTRAL)
        self._end = (self._end + data)[-size:]
        if self._entries > archives.MAX_ENTRIES_FOR_A_FILE * MAX_FILES:
            raise _too_many_files()

    def total(self, stored: File) -> int:
        with Archive(BufferedReader(stored)) as archive:
            if len(archive) > MAX_FILES:
                raise _too_many_files()
            return len(archive)


TALLIES: dict[Kind, type[Tally]] = {
    "lines": _LineTally,
    "pixels": _PixelTally,
    "archive": _ArchiveTally,
}


def _too_many_files() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"more than {MAX_FILES:,} files: send them in parts, or as lines of JSON", code="too_many_images"
    )
