"""A ZIP that somebody sends -> a dataset: IDX files, NumPy's arrays, or pictures in folders by label.

What it is, is told by the names of its files. Nothing is unpickled; nothing is unpacked beyond its bounds; what is
wrong is refused with the file that is wrong."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.api.predictions import archives
from service.data import digits, idx
from service.data.digits import PIXELS, PREPROCESSING_VERSION, SIDE, Mode
from service.data.uploaded import CLASSES, Malformed, Uploaded
from service.errors import FieldError, Invalid, PayloadTooLarge, ServiceError, UnsupportedMedia
from service.settings import Settings
from service.store.datasets import Source

PARTS = {"train": "train", "test": "test", "t10k": "test"}  # the first word of an IDX file's name
IDX_NAME = re.compile(r"(?:.*/)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
NPZ_NAME = re.compile(r"([xy]|images|labels)(?:_(train|test))?\.npy")
KIND_OF = {"x": "images", "y": "labels", "images": "images", "labels": "labels"}
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # of NumPy's format
MAX_MISTAKES = 20

Arrays = dict[tuple[str, str], NDArray[Any]]  # by part and by images or labels


class BadDataset(Invalid):
    code = "bad_dataset"


@dataclass(frozen=True)
class Unpacked:
    """A dataset, and what it was: of pictures also the version of what made pixels of them."""

    content: Uploaded
    source: Source
    preprocessing: str | None = None


def unpacked(data: bytes, settings: Settings, mode: Mode) -> Unpacked:
    """The dataset of a ZIP; `mode` is how pictures are brought to what MNIST looks like. Raises ServiceError."""
    if not data.startswith(archives.MAGIC):
        raise UnsupportedMedia(
            "this is no ZIP: send one of IDX files, an NPZ, or a ZIP of pictures in folders named by their label",
            code="unsupported_dataset",
        )
    names = _names(data, settings)
    try:
        if all(name.endswith(".npy") for name in names):
            return Unpacked(_of(_npz(_contents(data, settings, len(names)))), "npz")
        if all(IDX_NAME.fullmatch(name) for name in names):
            return Unpacked(_of(_idx(_contents(data, settings, len(names)), settings)), "idx")
        if len(names) > settings.max_images:
            raise archives.too_many(settings.max_images)
        return Unpacked(
            _of(_pictures(_contents(data, settings, len(names)), settings, mode)),
            "pictures",
            PREPROCESSING_VERSION,
        )
    except Malformed as error:
        raise BadDataset(str(error), errors=[FieldError("#", str(error))]) from None


def _names(data: bytes, settings: Settings) -> list[str]:
    if data.count(archives.CENTRAL) > archives.MAX_ENTRIES_FOR_A_FILE * settings.max_images:
        raise archives.too_many(settings.max_images)
    with archives.Archive(BytesIO(data)) as archive:
        names = archive.names
    if not names:
        raise BadDataset("the archive holds no file: put images and labels in")
    return names


def _contents(data: bytes, settings: Settings, count: int) -> Iterable[tuple[str, bytes]]:
    """Each file of the archive. Raises what is wrong with the first that cannot be unpacked."""
    limit = left = archives.TIMES_A_BODY * settings.max_body_bytes
    for name, content in archives.files(data, max_files=count, max_bytes=limit):
        if isinstance(content, PayloadTooLarge):
            raise content
        if isinstance(content, ServiceError):
            _refuse(name, content.detail)
        left -= len(content)
        if left < 0:
            raise _too_large("the archive", limit)
        yield name, content


def _too_large(what: str, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{what} unpacks to over {limit:,} bytes, four times NUMERAL_MAX_BODY_BYTES: send it in parts",
        code="archive_too_large",
    )


def _of(arrays: Arrays) -> Uploaded:
    """Raises Malformed for a part that is not whole."""
    for part in ("train", "test"):
        there = [kind for kind in ("images", "labels") if (part, kind) in arrays]
        if len(there) == 1:
            raise Malformed(f"{part} has {there[0]} alone: both images and labels are needed")
    pairs = {
        part: (arrays[part, "images"], arrays[part, "labels"]) for part, kind in arrays if kind == "images"
    }
    if "train" not in pairs:
        raise Malformed(
            "there is nothing to train on: name files train-..., arrays x_train, or folders train/7"
        )
    return Uploaded.of(pairs["train"], pairs.get("test"))


def _idx(files: Iterable[tuple[str, bytes]], settings: Settings) -> Arrays:
    found: Arrays = {}
    for name, content in files:
        match = IDX_NAME.fullmatch(name)
        assert match is not None, "names have been looked at"
        limit = archives.TIMES_A_BODY * settings.max_body_bytes
        try:
            plain = idx.unpacked(content, limit)
            if len(plain) > limit:
                raise _too_large(name, limit)
            values = idx.images(plain) if match[2] == "images" else idx.labels(plain)
        except idx.Malformed as error:
            _refuse(name, str(error))
        _put(found, (PARTS[match[1]], match[2]), values, name)
    return found


def _npz(files: Iterable[tuple[str, bytes]]) -> Arrays:
    found: Arrays = {}
    for name, content in files:
        match = NPZ_NAME.fullmatch(name)
        if match is None:
            _refuse(
                name,
                "is no array that is known: there are x_train, y_train, x_test, y_test, or images and labels",
            )
        array = _array(name, content)
        values = _images(name, array) if KIND_OF[match[1]] == "images" else _labels(name, array)
        _put(found, (match[2] or "train", KIND_OF[match[1]]), values, name)
    return found


def _put(found: Arrays, key: tuple[str, str], values: NDArray[Any], name: str) -> None:
    if key in found:
        _refuse(name, f"are the {' '.join(key)} a second time: send them once")
    found[key] = values


def _array(name: str, content: bytes) -> NDArray[Any]:
    """An array of NumPy's own format, whose header is looked at before memory is taken for it."""
    file = BytesIO(content)
    try:
        shape, is_fortran, dtype = HEADERS[npy.read_magic(file)](file)
    except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        _refuse(name, f"is no array of NumPy: {error}")
    if dtype.hasobject or dtype.kind not in "ui":
        _refuse(name, f"holds {dtype}: images are uint8 from 0 to 255, labels whole numbers")
    start, size = file.tell(), dtype.itemsize * math.prod(shape)
    if len(content) - start != size or min(shape, default=0) < 1:
        _refuse(
            name, f"has {len(content) - start:,} bytes of numbers, and its shape {shape} asks for {size:,}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")


def _images(name: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        _refuse(name, f"is {array.dtype}: images are uint8 from 0 to 255, white ink on black")
    if array.shape[1:] not in ((PIXELS,), (SIDE, SIDE), (SIDE, SIDE, 1)):
        _refuse(name, f"has the shape {array.shape}: images are (n, {SIDE}, {SIDE}) or (n, {PIXELS})")
    return np.ascontiguousarray(array).reshape(len(array), PIXELS)


def _labels(name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "ui" or array.shape[1:] not in ((), (1,)) or array.ndim == 0:
        _refuse(name, f"is {array.dtype} of the shape {array.shape}: labels are whole numbers, (n,)")
    wrong = (array < 0) | (array >= CLASSES)
    if wrong.any():
        _refuse(name, f"holds the label {array[wrong].flat[0]}: they are 0 to {CLASSES - 1}")
    return array.reshape(-1).astype(np.int64)


def _pictures(files: Iterable[tuple[str, bytes]], settings: Settings, mode: Mode) -> Arrays:
    images: dict[str, list[NDArray[np.uint8]]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    mistakes: list[FieldError] = []
    for name, content in files:
        try:
            part, label = _place(name)
            images[part].append(digits.read(content, mode=mode, max_pixels=settings.max_image_pixels).pixels)
            labels[part].append(label)
        except ServiceError as error:
            mistakes.append(FieldError(_pointer(name), error.detail))
            if len(mistakes) == MAX_MISTAKES:
                break
    if mistakes:
        raise BadDataset("some of these are no pictures with a label; the first are listed", errors=mistakes)
    found: Arrays = {}
    for part in ("train", "test"):
        if labels[part]:
            found[part, "images"], found[part, "labels"] = (
                np.stack(images[part]),
                np.array(labels[part], np.int64),
            )
    return found


def _place(name: str) -> tuple[str, int]:
    """The part and the label that a picture's folders say. Raises BadDataset."""
    *folders, _ = name.split("/")
    if not folders or re.fullmatch("[0-9]", folders[-1]) is None:
        raise BadDataset(
            "lies in no folder named by its label: put it into 0/ to 9/, or train/0/ and test/0/"
        )
    return "test" if folders[-2:-1] == ["test"] else "train", int(folders[-1])


def _refuse(name: str, detail: str) -> NoReturn:
    raise BadDataset(f"{name} {detail}", errors=[FieldError(_pointer(name), detail)])


def _pointer(name: str) -> str:
    return "#/" + name.replace("~", "~0").replace("/", "~1")
