"""Files of a ZIP archive, each read within bounds. Their names are told back and used for nothing else."""

import zipfile
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from typing import IO, Self
from zipfile import ZipFile, ZipInfo

from service.errors import Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia

MAGIC = (b"PK\3\4", b"PK\5\6")  # of an archive with files, and of an empty one
CENTRAL = b"PK\1\2"  # begins a file's entry in the directory
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others take memory before they give a byte
TIMES_A_BODY = 4  # all files together, of the largest body
MAX_RATIO, RATIO_FROM = 100, 1024**2  # of its compressed size, where a file is over so many bytes
MAX_NAME = 200  # characters that are told back
MAX_ENTRIES_FOR_A_FILE = 3  # a folder, and what macOS adds to a file
MAX_DIRECTORY_BYTES = 32 * 1024**2


class CorruptArchive(Invalid):
    code = "corrupt_archive"


def files(data: bytes, *, max_files: int, max_bytes: int) -> Iterator[tuple[str, bytes | ServiceError]]:
    """The name of each file of an archive, and its content or what is wrong with it. One file is held at a time.

    Raises Invalid (`corrupt_archive`) and PayloadTooLarge: `too_many_images` for over `max_files` files,
    `archive_too_large` if they unpack to over four times `max_bytes`.
    """
    if data.count(CENTRAL) > MAX_ENTRIES_FOR_A_FILE * max_files:
        raise too_many(max_files)
    with Archive(BytesIO(data)) as archive:
        if len(archive) > max_files:
            raise too_many(max_files)
        left = TIMES_A_BODY * max_bytes
        for number in range(len(archive)):
            name, content = archive.read(number, max_bytes=max_bytes)
            left -= len(content) if isinstance(content, bytes) else 0
            if left < 0:
                raise PayloadTooLarge(
                    f"the archive unpacks to over {TIMES_A_BODY} x {max_bytes:,} bytes (NUMERAL_MAX_BODY_BYTES)",
                    code="archive_too_large",
                )
            yield name, content


class Archive:
    """The files of an archive by number; folders and what macOS adds are left out. Its directory is in memory: count
    `CENTRAL` in it before, since one of a million entries is a million objects as soon as it is opened.
    Raises Invalid (`corrupt_archive`) and PayloadTooLarge (`archive_too_large`) for a directory of over 32 MiB."""

    def __init__(self, file: IO[bytes]) -> None:
        frugal = _Frugal(file)
        try:
            self._zip = ZipFile(frugal)
        except ServiceError:
            raise  # the file's own
        except Exception as error:  # fed with hostile bytes it may raise anything
            raise CorruptArchive(f"this ZIP cannot be read: {_said(error)}") from error
        frugal.is_open = True
        self._listed = [info for info in self._zip.infolist() if not _is_beside(info)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def names(self) -> list[str]:
        return [info.filename[:MAX_NAME] for info in self._listed]

    def read(self, number: int, *, max_bytes: int) -> tuple[str, bytes | ServiceError]:
        """A file's name, and its content or what is wrong with it."""
        info = self._listed[number]
        return info.filename[:MAX_NAME], _outcome(self._zip, info, max_bytes)


class _Frugal:
    """A file that is read in small parts until its archive is open. The directory is read at once and may be as large as
    the file; where it lies is left to `zipfile`, since another reader might find another one."""

    def __init__(self, file: IO[bytes]) -> None:
        self.is_open = False
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self._size = file.seek(0, SEEK_END)

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._file.tell()
        if not self.is_open and min(left, size if size >= 0 else left) > MAX_DIRECTORY_BYTES:
            raise PayloadTooLarge(
                f"the archive's directory is over {MAX_DIRECTORY_BYTES:,} bytes: send fewer files, with shorter names",
                code="archive_too_large",
            )
        return self._file.read(size)


def _is_beside(info: ZipInfo) -> bool:
    # not `is_dir()`, which fails for an entry without a name
    return info.filename.startswith("__MACOSX/") or info.filename.endswith(("/", ".DS_Store"))


def _outcome(archive: ZipFile, info: ZipInfo, max_bytes: int) -> bytes | ServiceError:
    try:
        return _content(archive, info, max_bytes)
    except ServiceError as error:
        if error.status >= 500:
            raise
        return error.kept()


def _content(archive: ZipFile, info: ZipInfo, max_bytes: int) -> bytes:
    if info.flag_bits & 1:
        raise UnsupportedMedia("this file is encrypted", code="encrypted_file")
    if info.compress_type not in METHODS:
        raise UnsupportedMedia("this file is neither stored nor deflated", code="unsupported_compression")
    limit = min(max_bytes, max(RATIO_FROM, MAX_RATIO * info.compress_size))
    if info.file_size > limit:
        raise PayloadTooLarge(
            f"this file unpacks to over {limit:,} bytes: its own limit, or {MAX_RATIO} times what it is packed",
            code="file_too_large",
        )
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)  # without a number it unpacks more than the directory says
    except ServiceError:
        raise
    except Exception as error:  # as above
        raise Invalid(f"this file cannot be unpacked: {_said(error)}", code="corrupt_file") from error


def _said(error: Exception) -> str:
    """In a few words: `zipfile` quotes names, which are up to 64 KiB."""
    return str(error)[:MAX_NAME]


def too_many(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"more than {limit:,} files (NUMERAL_MAX_IMAGES): send them in parts", code="too_many_images"
    )
