"""Bytes too large for one row: chunks of 1 MiB, each written by a short transaction of its own, that a header row
elsewhere names and so makes visible. What no header names is garbage and collected (see `service.store.garbage`)."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from errno import EINVAL
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from service.errors import ServiceError, Unavailable
from service.store.database import Database, StorageFull
from service.store.identifiers import new_id
from service.store.tables import chunk

CHUNK_BYTES = 1024**2
ROWS_A_STEP = 8  # that are deleted at once: 8 MiB


class Damaged(Exception):
    """Stored bytes do not match their hash, or are missing."""


class Draft:
    """A blob as its bytes come, in pieces of any size. Never more than a chunk of it is in memory."""

    def __init__(self, db: Database) -> None:
        self.id = new_id("blob")
        self.size = 0
        self._db = db
        self._rows = 0
        self._rest = bytearray()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        for start in range(0, len(data), CHUNK_BYTES):
            self._rest += data[start : start + CHUNK_BYTES]
            if len(self._rest) >= CHUNK_BYTES:
                self._store(CHUNK_BYTES)

    def end(self) -> None:
        """Store what is left."""
        if self._rest:
            self._store(len(self._rest))

    def discard(self) -> None:
        """Delete what has been stored, in small steps; no header will name it."""
        for start in range(0, self._rows, ROWS_A_STEP):
            with self._db.write(durable=False) as connection:
                mine = (chunk.c.blob_id == self.id, chunk.c.ordinal < start + ROWS_A_STEP)
                connection.execute(delete(chunk).where(*mine))

    def _store(self, size: int) -> None:
        with self._db.write(durable=False) as connection:
            append(connection, self.id, self._rows, bytes(self._rest[:size]))
        self._rows += 1
        del self._rest[:size]


def write(db: Database, data: bytes) -> str:
    """Write bytes that a row is to name later. Returns the name of the chunks. Raises StorageFull; what has been
    written is let go of at once then, so that there is room to say so."""
    draft = Draft(db)
    try:
        draft.write(data)
        draft.end()
    except StorageFull:
        with suppress(ServiceError):
            draft.discard()
        raise
    return draft.id


def append(connection: Connection, blob_id: str, ordinal: int, data: bytes) -> None:
    """Write one chunk within a transaction."""
    connection.execute(insert(chunk).values(blob_id=blob_id, ordinal=ordinal, data=data))


def require(connection: Connection, sizes: Mapping[str, int]) -> None:
    """Raises Unavailable if chunks of these blobs are missing: a save that took longer than the collector's grace, a
    sleeping laptop's perhaps, may have lost some."""
    expected = sum(-(-size // CHUNK_BYTES) for size in sizes.values())
    counted = select(func.count()).where(chunk.c.blob_id.in_(sizes))
    if connection.execute(counted).scalar_one() != expected:
        raise Unavailable("pieces of it were collected while it was saved; try again")


def read(db: Database, blob_id: str, *, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` up to `stop`, a chunk at a time, each read in a transaction of its own.
    Raises Damaged if a chunk is missing."""
    for ordinal in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
        first = ordinal * CHUNK_BYTES
        yield _chunk(db, blob_id, ordinal)[max(start - first, 0) : stop - first]


def read_rows(db: Database, blob_id: str, rows: int) -> Iterator[bytes]:
    """The chunks of a blob whose chunks are of any size, as `append` wrote them. Raises Damaged."""
    for ordinal in range(rows):
        yield _chunk(db, blob_id, ordinal)


def _chunk(db: Database, blob_id: str, ordinal: int) -> bytes:
    with db.read() as connection:
        data = connection.execute(
            select(chunk.c.data).where(chunk.c.blob_id == blob_id, chunk.c.ordinal == ordinal)
        ).scalar_one_or_none()
    if data is None:
        raise Damaged(f"piece {ordinal} of {blob_id} is missing")
    return bytes(data)


class File(io.RawIOBase):
    """A blob as a file to read and to seek in; one chunk of it is in memory. Reading raises ServiceError
    (`body_damaged`) if a chunk is missing."""

    def __init__(self, db: Database, blob_id: str, size: int) -> None:
        self._db = db
        self._blob_id = blob_id
        self._size = size
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")  # a chunk by its ordinal

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError(
                EINVAL, "this lies before the begin"
            )  # as of a file on a disk, which `zipfile` counts on
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        ordinal, first = divmod(self._position, CHUNK_BYTES)
        if self._position >= self._size:
            return 0
        if self._held[0] != ordinal:
            self._held = (ordinal, self._chunk(ordinal))
        piece = self._held[1][first : first + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _chunk(self, ordinal: int) -> bytes:
        try:
            return _chunk(self._db, self._blob_id, ordinal)
        except Damaged as damage:
            raise ServiceError(str(damage), code="body_damaged") from damage
