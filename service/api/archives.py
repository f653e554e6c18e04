"""Files of a ZIP archive, each read within bounds. Their names are told back and used for nothing else."""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from zipfile import ZipFile, ZipInfo

from service.errors import Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia

MAGIC = (b"PK\3\4", b"PK\5\6")  # of an archive with files, and of an empty one
CENTRAL = b"PK\1\2"  # begins a file's entry in the directory
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others take memory before they give a byte
TIMES_A_BODY = 4  # all files together, of the largest body
MAX_RATIO, RATIO_FROM = 100, 1024**2  # of its compressed size, where a file is over so many bytes
MAX_NAME = 200  # characters that are told back
MAX_ENTRIES_FOR_A_FILE = 3  # a folder, and what macOS adds to a file


class CorruptArchive(Invalid):
    code = "corrupt_archive"


def files(data: bytes, *, max_files: int, max_bytes: int) -> Iterator[tuple[str, bytes | ServiceError]]:
    """The name of each file of an archive, and its content or what is wrong with it; folders and what macOS
    adds are left out. One file is held at a time.

    Raises Invalid (`corrupt_archive`) and PayloadTooLarge: `too_many_images` for over `max_files` files,
    `archive_too_large` if they unpack to over four times `max_bytes`.
    """
    # a directory of a million entries is a million objects as soon as it is opened
    if data.count(CENTRAL) > MAX_ENTRIES_FOR_A_FILE * max_files:
        raise _too_many(max_files)
    with _opened(data) as archive:
        listed = [info for info in archive.infolist() if not _is_beside(info)]
        if len(listed) > max_files:
            raise _too_many(max_files)
        left = TIMES_A_BODY * max_bytes
        for info in listed:
            content = _outcome(archive, info, max_bytes)
            left -= len(content) if isinstance(content, bytes) else 0
            if left < 0:
                raise PayloadTooLarge(
                    f"the archive unpacks to over {TIMES_A_BODY} x {max_bytes:,} bytes (NUMERAL_MAX_BODY_BYTES)",
                    code="archive_too_large",
                )
            yield info.filename[:MAX_NAME], content


def _opened(data: bytes) -> ZipFile:
    try:
        return ZipFile(BytesIO(data))
    except Exception as error:  # fed with hostile bytes it may raise anything
        raise CorruptArchive(f"this ZIP cannot be read: {error}") from error


def _is_beside(info: ZipInfo) -> bool:
    return info.is_dir() or info.filename.startswith("__MACOSX/") or info.filename.endswith(".DS_Store")


def _outcome(archive: ZipFile, info: ZipInfo, max_bytes: int) -> bytes | ServiceError:
    try:
        return _content(archive, info, max_bytes)
    except ServiceError as error:
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
    except Exception as error:  # as above
        raise Invalid(f"this file cannot be unpacked: {error}", code="corrupt_file") from error


def _too_many(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"more than {limit:,} files (NUMERAL_MAX_IMAGES): send them in parts", code="too_many_images"
    )
