"""Blobs: written as their bytes come, read in pieces or as a file."""

import io
import os
import zipfile
from io import BufferedReader

import pytest
from sqlalchemy import Connection, delete, func, select

from service.errors import ServiceError
from service.store import blobs
from service.store.blobs import Draft, File
from service.store.database import Database, StorageFull
from service.store.tables import chunk


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 10)


def chunks(db: Database) -> list[int]:
    """The size of each that there is."""
    with db.read() as connection:
        return list(connection.execute(select(func.length(chunk.c.data)).order_by(chunk.c.ordinal)).scalars())


def test_a_draft_takes_pieces_of_any_size(db: Database) -> None:
    draft = Draft(db)
    pieces = [os.urandom(size) for size in (0, 3, 7, 1, 35, 9)]
    for piece in pieces:
        draft.write(piece)
        assert len(draft._rest) < 10
    draft.end()
    assert draft.size == 55
    assert chunks(db) == [10] * 5 + [5]
    assert b"".join(blobs.read(db, draft.id, start=0, stop=55)) == b"".join(pieces)


def test_a_draft_that_is_not_wanted_leaves_nothing(db: Database) -> None:
    other = blobs.write(db, bytes(12))
    draft = Draft(db)
    draft.write(bytes(215))
    draft.discard()
    assert chunks(db) == [10, 2]
    assert b"".join(blobs.read(db, other, start=0, stop=12)) == bytes(12)


def test_what_a_full_disk_has_taken_is_let_go_of(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    append = blobs.append

    def full(connection: Connection, blob_id: str, ordinal: int, data: bytes) -> None:
        append(connection, blob_id, ordinal, data)
        if ordinal == 3:
            raise StorageFull("there is no room")

    monkeypatch.setattr(blobs, "append", full)
    with pytest.raises(StorageFull):
        blobs.write(db, bytes(100))
    assert chunks(db) == []


def test_a_blob_is_a_file(db: Database) -> None:
    data = os.urandom(95)
    raw, like = File(db, blobs.write(db, data), len(data)), io.BytesIO(data)
    with BufferedReader(raw, 16) as file:
        for offset, whence, size in ((0, 0, 5), (3, 1, 20), (-30, 2, 100), (200, 0, 4), (9, 0, 2), (0, 2, 1)):
            assert file.seek(offset, whence) == like.seek(offset, whence)
            assert file.read(size) == like.read(size)
    with pytest.raises(OSError, match="before"):
        raw.seek(-1)


def test_a_zip_is_read_out_of_a_blob(db: Database) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}", bytes([number]) * 1000)
    data = packed.getvalue()
    blob = blobs.write(db, data)
    with zipfile.ZipFile(BufferedReader(File(db, blob, len(data)))) as archive:
        assert [archive.read(f"{number}")[:1] for number in range(5)] == [bytes([n]) for n in range(5)]
    with db.write() as connection:
        connection.execute(delete(chunk).where(chunk.c.blob_id == blob, chunk.c.ordinal == 1))
    with pytest.raises(ServiceError, match="missing"):
        File(db, blob, len(data)).read()
