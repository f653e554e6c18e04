"""What a hostile body may cost is known before it is paid: pictures by their header, documents by their text."""

import gc
import json
import threading
import tracemalloc
import weakref
import zipfile
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from service.api import bodies
from service.api.predictions import archives, batches
from service.data import pictures
from service.data.pictures import MAX_DECODED, _Room
from service.errors import Invalid, PayloadTooLarge, ServiceError
from tests.hostile import png

LIMIT = 40_000_000


def decode(image: bytes) -> pictures.Picture:
    return pictures.decode(image, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("width", "height", "colour", "depth"),
    [(8000, 4500, 2, 8), (5000, 4000, 6, 8), (5000, 4000, 3, 8), (5000, 4000, 0, 16), (1, 10_000_000, 0, 1)],
)
def test_what_would_take_too_much_memory_is_not_decoded(
    width: int, height: int, colour: int, depth: int
) -> None:
    with pytest.raises(PayloadTooLarge, match="MB of memory, the limit is 101: send it smaller") as refusal:
        decode(png(width, height, colour, depth, lines=b""))  # there is nothing that could be decoded
    assert refusal.value.code == "image_too_large"


def test_a_progressive_jpeg_keeps_its_coefficients() -> None:
    file = BytesIO()
    Image.new("RGB", (4500, 4500)).save(file, "JPEG", progressive=True, quality=10)
    with pytest.raises(PayloadTooLarge, match="not progressive"):
        decode(file.getvalue())
    file = BytesIO()
    Image.new("RGB", (4500, 4500)).save(file, "JPEG", quality=10)
    assert decode(file.getvalue()).width == 4500


def test_webp_is_judged_before_its_plugin_reserves_anything() -> None:
    head = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (2999).to_bytes(3, "little") * 2
    with pytest.raises(PayloadTooLarge, match="144 MB"):
        decode(head)


def test_pictures_wait_for_room_in_turn() -> None:
    room = _Room(MAX_DECODED)
    order: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with room.taken(MAX_DECODED):
            entered.set()
            leave.wait(20)
            order.append("first")

    def second() -> None:
        with room.taken(1):
            order.append("second")

    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    threads[1].join(0.1)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]
    assert room._left == MAX_DECODED


def test_room_is_given_back_by_a_picture_that_is_damaged() -> None:
    before = pictures._ROOM._left
    with pytest.raises(Invalid, match="cannot be decoded"):
        decode(png(100, 100, 2, lines=b"damaged"))
    assert pictures._ROOM._left == before


@pytest.mark.parametrize(
    "text",
    [
        "[" * 4_000_000,
        '{"images":[' + "[]," * 2_000_000 + "[]]}",
        '{"images":[[' + "0," * 3_400_000 + "0]]}",
        "{" + ",".join(f'"{number}":0' for number in range(400_000)) + "}",
    ],
)
def test_a_document_of_too_many_values_is_not_parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_args, **_options: pytest.fail("it was parsed"))
    with pytest.raises(PayloadTooLarge) as refusal:
        bodies.decode(text.encode())
    assert refusal.value.code == "too_many_values"


def test_documents_of_long_texts_and_of_many_images_are_parsed() -> None:
    assert len(bodies.decode(b'"' + b"A" * 3_000_000 + b'"')) == 3_000_000
    with pytest.raises(PayloadTooLarge):
        bodies.decode(b"{" + b'"a":{' * 20_000, most=bodies.MAX_VALUES_OF_REQUESTS)
    assert len(bodies.decode(json.dumps([[0] * 784] * 4096).encode())) == 4096


def test_large_documents_are_read_one_at_a_time() -> None:
    with bodies.alone(b" " * (bodies.LARGE + 1)):
        assert bodies._reading.locked()
        with bodies.alone(b"{}"):
            pass
    assert not bodies._reading.locked()


class Held:
    """Something that a frame holds."""


def test_an_error_that_is_told_later_keeps_nothing_alive() -> None:
    def fails() -> Any:
        held = Held()
        watched.append(weakref.ref(held))
        try:
            raise ValueError("first")
        except ValueError as error:
            raise Invalid("second") from error

    watched: list[weakref.ref[Held]] = []
    outcome = batches._outcome(fails, "item")
    gc.collect()
    assert isinstance(outcome, ServiceError)
    assert [found() for found in watched] == [None]
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(4 << 20))
    ((_, refused),) = archives.files(file.getvalue(), max_files=10, max_bytes=32 << 20)
    assert isinstance(refused, PayloadTooLarge)
    assert refused.__traceback__ is None


def test_an_archive_that_lies_about_sizes_is_not_unpacked_beyond_them() -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 << 20))
    lying = file.getvalue().replace((64 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    tracemalloc.start()
    try:
        ((_, refused),) = archives.files(lying, max_files=10, max_bytes=32 << 20)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(refused, ServiceError)
    assert refused.code == "corrupt_file"
    assert most < 4 << 20


def test_a_file_of_an_archive_may_have_no_name() -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("nameless", b"7")
    made = file.getvalue().replace(b"nameless", bytes(8))  # a name ends at its first NUL
    assert list(archives.files(made, max_files=10, max_bytes=1 << 20)) == [("", b"7")]


def test_what_is_wrong_with_an_archive_is_told_in_a_few_words() -> None:
    file = BytesIO()
    name = "n" * 60_000
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"7")
    damaged = file.getvalue().replace(
        name.encode(), b"m" * len(name), 1
    )  # in its header, not in the directory
    ((told, refused),) = archives.files(damaged, max_files=10, max_bytes=1 << 20)
    assert isinstance(refused, ServiceError)
    assert refused.code == "corrupt_file"
    assert len(told) == archives.MAX_NAME
    assert len(refused.detail) < 300


def test_base64_may_have_white_space_in_it() -> None:
    for text in ("aGVsbG8=", "aGVs\nbG8=\n", "data:image/png;base64,aGVsbG8="):
        assert batches._from_base64(text, "#") == b"hello"
    for wrong in ("aGVsbG8", "aGVsbG8=!", "aGVsbG8=é", "aG=VsbG8="):
        with pytest.raises(Invalid):
            batches._from_base64(wrong, "#")
