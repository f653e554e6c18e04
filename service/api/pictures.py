"""How a picture is answered: as SVG, PNG or CSV, with an ETag, and drawn again only when it may have changed."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Annotated, Any, Literal

from fastapi import Header, Path, Response

from service.api import problems
from service.api.schemas import matches
from service.errors import Unavailable
from service.plots import Picture

Kind = Literal["svg", "png", "csv"]
# opened on its own, a drawing still has its styles and its raster images, and nothing else
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
MEDIA_TYPES: dict[Kind, str] = {
    "svg": "image/svg+xml",
    "png": "image/png",
    "csv": "text/csv; charset=utf-8; header=present",
}
KEPT_BYTES = 16 * 1024**2
AT_ONCE = 6  # as many as one browser asks for

FileFormat = Annotated[
    Kind, Path(alias="format", description="svg and png are the picture, csv the numbers that it shows.")
]
IfNoneMatch = Annotated[str | None, Header(description="ETag of the picture that you have.")]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}
_PROBLEM = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
DRAWN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, or its numbers",
        "content": {"image/svg+xml": _TEXT, "image/png": _BINARY, "text/csv": _TEXT},
    },
    503: {
        "description": "Not just now, see Retry-After: enough pictures are being drawn (`busy_drawing`), the "
        "dataset is not on this machine (`dataset_unavailable`), or the database is busy or away",
        "content": _PROBLEM,
    },
}
NEEDS_TORCH: dict[int | str, dict[str, Any]] = {
    501: {
        "description": "PyTorch is not installed where this is served; only augmented images need it",
        "content": _PROBLEM,
    }
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The picture that you have is the same"}}


class BusyDrawing(Unavailable):
    code, title = "busy_drawing", "Enough pictures are being drawn"


class _Kept:
    """The newest drawings, up to so many bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._drawings: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key in self._drawings:
                self._drawings.move_to_end(key)
            return self._drawings.get(key)

    def add(self, key: Hashable, content: bytes) -> None:
        with self._lock:
            self._size += len(content) - len(self._drawings.pop(key, b""))
            self._drawings[key] = content
            while self._size > self._limit:
                _, dropped = self._drawings.popitem(last=False)
                self._size -= len(dropped)


class Studio:
    """Where pictures are drawn: few at a time, since one alone has the pen, and who waits for it holds a thread
    that a prediction may need. The newest are kept."""

    def __init__(self) -> None:
        self._places = threading.Semaphore(AT_ONCE)
        self._kept = _Kept(KEPT_BYTES)

    def drawn(self, draw: Callable[[], Picture], kind: Kind, *, key: Hashable | None = None) -> bytes:
        """The picture in that format. With a `key`, which must change with everything that the picture shows,
        it is only drawn when the key is new or long unused. Raises BusyDrawing, and what `draw` raises."""
        content = None if key is None else self._kept.find((key, kind))
        if content is None:
            content = self._draw(draw, kind)
            if key is not None:
                self._kept.add((key, kind), content)
        return content

    def _draw(self, draw: Callable[[], Picture], kind: Kind) -> bytes:
        if not self._places.acquire(blocking=False):
            raise BusyDrawing(f"{AT_ONCE} pictures are being drawn: ask again in a second", retry_after=1)
        try:
            picture = draw()
            content: bytes = {"svg": picture.svg, "png": picture.png, "csv": picture.csv}[kind]()
        finally:
            self._places.release()
        return content


def answer(
    studio: Studio,
    draw: Callable[[], Picture],
    kind: Kind,
    *,
    name: str,
    key: Hashable | None,
    if_none_match: str | None,
) -> Response:
    """The picture as a file called `name`, or a 304 if the client has it; `key` as `Studio.drawn` has it."""
    content = studio.drawn(draw, kind, key=key)
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="{name}.{kind}"'
    if kind == "svg":
        headers["Content-Security-Policy"] = SVG_POLICY
    return Response(content, headers=headers, media_type=MEDIA_TYPES[kind])
