"""Static files: read once, compressed once, under an address that changes with their content."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

FOLDER = Path(__file__).parent / "static"
COMPRESSED_ABOVE = 512  # bytes, under which gzip gains nothing
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}


@dataclass(frozen=True)
class Content:
    """Bytes to be sent, as they are and, where it is shorter, as gzip has them."""

    plain: bytes
    media_type: str
    packed: bytes | None

    @classmethod
    def of(cls, plain: bytes, media_type: str) -> Self:
        packed = gzip.compress(plain, 9, mtime=0) if len(plain) > COMPRESSED_ABOVE else None
        return cls(plain, media_type, packed if packed and len(packed) < len(plain) else None)

    @cached_property
    def etag(self) -> str:
        """Weak, since it stands for both forms."""
        return f'W/"{hashlib.sha256(self.plain).hexdigest()[:32]}"'


class Assets:
    """The files of a folder. One digest of them all is a part of every address, so that modules may import each other
    by relative paths and browsers keep them for good."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self._files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        digest = hashlib.sha256()
        for name, content in self._files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        self.digest = digest.hexdigest()[:12]
        self._contents: dict[str, Content] = {}

    def address(self, name: str) -> str:
        """Of a file. Raises KeyError if there is none of that name."""
        if name not in self._files:
            raise KeyError(name)
        return f"/static/{self.digest}/{name}"

    def find(self, digest: str, name: str) -> Content | None:
        """The file as it was when its address was given out; None if it was another."""
        if digest != self.digest or name not in self._files:
            return None
        if name not in self._contents:
            self._contents[name] = Content.of(self._files[name], _media_type(name))
        return self._contents[name]


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain; charset=utf-8"
