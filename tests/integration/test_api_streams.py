"""Any number of images as lines, and several images of which some cannot be read."""

import asyncio
import base64
import io
import json
import socket
import zipfile
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.api.predictions.streams import Line, Lines
from service.checkpoints import Snapshot, encode_weights, shapes
from service.data.digits import PREPROCESSING_VERSION
from tests.integration.conftest import LINEAR, Live, eventually, register

STREAM = "/v1/predict/stream"
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def reading(shared: Live) -> Live:
    """An API with a model of random weights; a line may have 65,536 bytes."""
    arrays = {name: RANDOM.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes(LINEAR).items()}
    arrays["input.std"][:] = 1
    register(
        shared, encode_weights(Snapshot(1, 1.0, arrays, {}, {}), LINEAR, preprocessing=PREPROCESSING_VERSION)
    )
    return shared


def digit(seed: int) -> NDArray[np.uint8]:
    grey = np.zeros((28, 28), np.uint8)
    grey[4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (20, 20))
    return grey


def png(grey: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def text(grey: NDArray[np.uint8]) -> str:
    return base64.b64encode(png(grey)).decode()


def predicted(live: Live, **request: Any) -> list[dict[str, Any]]:
    answer = live.http.post("/v1/predict", **request)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def streamed(live: Live, *lines: object, path: str = STREAM) -> list[dict[str, Any]]:
    """The answers to lines: bytes as they are, all else as JSON."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    answer = live.http.post(path, content=b"\n".join(encoded))
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5))


# Lines


def test_each_line_is_answered_by_one_in_order(reading: Live) -> None:
    greys = [digit(seed) for seed in range(6)]
    expected = predicted(reading, json={"images": [grey.tolist() for grey in greys]})
    answers = streamed(
        reading,
        greys[0].ravel().tolist(),
        greys[1].tolist(),
        b"",
        {"pixels": greys[2].tolist(), "id": "c"},
        {"image": text(greys[3]), "id": 4},
        b"  \r",
        {"image": greys[4].ravel().tolist()},
        text(greys[5]),
    )
    assert [answer["line"] for answer in answers] == [1, 2, 4, 5, 7, 8]
    assert [answer.get("id") for answer in answers] == [None, None, "c", 4, None, None]
    for answer, one in zip(answers, expected, strict=True):
        assert answer.keys() - {"line", "id"} == one.keys()
        assert answer["label"] == one["label"]
        assert close(answer, one)


def test_the_query_holds_for_all_lines_and_the_model_for_the_whole_stream(reading: Live) -> None:
    grey = 255 - digit(2)
    (plain,) = predicted(reading, json={"image": grey.tolist()})
    (prepared,) = predicted(reading, json={"image": grey.tolist(), "preprocess": "auto"})
    unit = (grey / 255).ravel().tolist()
    assert close(streamed(reading, unit, path=f"{STREAM}?scale=unit")[0], plain)
    assert close(streamed(reading, grey.tolist(), path=f"{STREAM}?preprocess=auto")[0], prepared)
    model = reading.http.get("/v1/models/latest").json()
    answer = reading.http.post(f"/v1/models/{model['id']}/predict/stream", content=b"")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["X-Model"] == model["id"]
    assert answer.headers["X-Model-Version"] == str(model["version"])
    gone = reading.http.post("/v1/models/nothing/predict/stream", content=b"[]")
    assert (gone.status_code, gone.json()["code"]) == (404, "model_not_found")


def test_a_stream_needs_a_model(live: Live) -> None:
    assert live.http.post(STREAM, content=b"[]").json()["code"] == "no_model"


def test_a_wrong_line_costs_its_own_answer(reading: Live) -> None:
    good = digit(1).ravel().tolist()
    wrong: list[tuple[object, str, str | None]] = [
        (b"{", "malformed_json", None),
        (b"\xff", "malformed_json", None),
        (b"[NaN]", "malformed_json", None),
        (b"[" * 60_000, "malformed_json", None),
        (b"[" + b"1," * 60_000, "line_too_large", None),
        (b"x" * 300_000, "line_too_large", None),
        ([1, 2], "bad_pixels", "#"),
        ([[0] * 27] * 28, "bad_pixels", "#"),
        ([256] * 784, "bad_pixels", "#"),
        (7, "bad_pixels", "#"),
        ({"pixels": [1]}, "bad_pixels", "#/pixels"),
        ({"image": "no base64!"}, "bad_base64", "#/image"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "unsupported_image", "#/image"),
        ({"image": text(digit(1))[:60]}, "corrupt_image", "#/image"),
        ({}, "no_images", None),
        ({"image": good, "pixels": good}, "no_images", None),
        ({"image": good, "x": 1}, "unknown_field", None),
        ({"image": good, "id": [1]}, "bad_request", "#/id"),
    ]
    lines = [line for pair in wrong for line in (good, pair[0])]
    answers = streamed(reading, *lines, good)
    assert [answer["line"] for answer in answers] == list(range(1, len(lines) + 2))
    assert all("label" in answer for answer in answers[::2])
    for answer, (_, code, pointer) in zip(answers[1::2], wrong, strict=True):
        problem = answer["error"]
        assert problem["code"] == code, problem
        assert problem["instance"] == STREAM
        assert pointer is None or problem["errors"][0]["pointer"] == pointer, problem
    odd = {"id": "\ud800", "pixels": good}, {"id": 10**30, "pixels": good}, {"\ud800": 1}
    assert [answer.get("id") for answer in streamed(reading, *odd)] == ["\ud800", 10**30, None]
    (named,) = streamed(reading, {"id": "a", "image": "?"})
    assert (named["id"], named["error"]["code"]) == ("a", "bad_base64")


def test_lines_are_cut_wherever_the_body_is() -> None:
    body = b"one\n\n  \nfour\r\n" + b"x" * 50 + b"\nsix\n" + b"y" * 50 + b"\nlast"
    expected = [
        Line(1, b"one"),
        Line(4, b"four\r"),
        Line(5, b"x" * 11),
        Line(6, b"six"),
        Line(7, b"y" * 11),
        Line(8, b"last"),
    ]
    for size in (1, 2, 3, 7, 20, 1000):
        lines = Lines(10)
        found = [line for at in range(0, len(body), size) for line in lines.feed(body[at : at + size])]
        assert found + lines.end() == expected
        assert lines.end() == []


def connected(live: Live) -> socket.socket:
    """A connection with an open stream."""
    host, port = live.server.servers[0].sockets[0].getsockname()[:2]
    connection = socket.create_connection((host, port), timeout=20)
    connection.sendall(
        f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    return connection


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_line_is_answered_before_the_next_one_comes(reading: Live) -> None:
    line = json.dumps(digit(1).tolist()).encode() + b"\n"
    with closing(connected(reading)) as connection:
        received = b""
        for number in range(1, 4):
            connection.sendall(chunk(line))
            while b'"line":%d,' % number not in received:
                received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"0\r\n\r\n")
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)


def test_a_client_that_waits_to_be_told_to_go_on_is_told(reading: Live) -> None:
    host, port = reading.server.servers[0].sockets[0].getsockname()[:2]
    line = json.dumps(digit(1).tolist()).encode()
    head = f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {len(line)}\r\n\r\n"
    with closing(socket.create_connection((host, port), timeout=20)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(line)
        received = b""
        while b'"line":1,' not in received:
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_ends_the_stream(reading: Live) -> None:
    for _ in range(10):
        with closing(connected(reading)) as connection:
            connection.sendall(chunk(json.dumps(digit(1).tolist()).encode() + b"\n[1,"))
    eventually(lambda: len(reading.server.server_state.connections) <= 1)
    assert reading.http.get("/livez").status_code == 200


def test_a_client_that_does_not_read_is_waited_for(reading: Live) -> None:
    """What it sends is left with it as soon as the answers are not taken."""
    line = json.dumps([0] * 784).encode() + b"\n"
    with closing(connected(reading)) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.sendall(chunk(line * 40) * 1_000)


def test_a_long_stream_takes_no_more_memory_than_a_short_one(reading: Live) -> None:
    lines = 8_000
    block = b"".join(json.dumps(digit(seed).ravel().tolist()).encode() + b"\n" for seed in range(100))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(lines // 100):
            yield block

    async def stream() -> tuple[int, int]:
        """How many lines are answered, and how much memory is added on the way."""
        process = psutil.Process()
        host, port = reading.server.servers[0].sockets[0].getsockname()[:2]
        reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        writer.write(
            f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

        async def send() -> None:
            async for data in body():
                writer.write(chunk(data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        answered, before, most = 0, process.memory_info().rss, 0
        while answered < lines:
            received = await asyncio.wait_for(reader.readline(), timeout=20)
            assert b'"error"' not in received
            answered += received.startswith(b'{"line":')
            if answered == 1_000:
                before = process.memory_info().rss
            if answered % 500 == 0:
                most = max(most, process.memory_info().rss)
        await sending
        writer.close()
        return answered, most - before

    answered, added = asyncio.run(stream())
    assert answered == lines
    assert added < 12 * 2**20  # the lines have 18 MB


# One bad image of several


def test_a_bad_image_costs_its_own_place_if_so_asked(reading: Live) -> None:
    images: list[Any] = [digit(0).tolist(), [1, 2], text(digit(1)), "no base64!"]
    assert reading.http.post("/v1/predict", json={"images": images}).status_code == 422
    assert reading.http.post("/v1/predict?on_error=batch", json={"images": images}).status_code == 422
    assert reading.http.post("/v1/predict?on_error=never", json={"images": images}).status_code == 422
    found = predicted(reading, params={"on_error": "item"}, json={"images": images})
    whole = predicted(reading, json={"images": [images[0], images[2]]})
    assert [one["label"] for one in found[::2]] == [one["label"] for one in whole]
    assert all(close(one, other) for one, other in zip(found[::2], whole, strict=True))
    first, second = found[1]["error"], found[3]["error"]
    assert (first["code"], first["errors"][0]["pointer"]) == ("bad_pixels", "#/images/1")
    assert (second["code"], second["errors"][0]["pointer"]) == ("bad_base64", "#/images/3")
    assert first["request_id"] == second["request_id"]

    files = [("f", ("a", png(digit(0)))), ("f", ("b", b"GIF89a")), ("f", ("c", png(digit(1))))]
    assert reading.http.post("/v1/predict", files=files).status_code == 415
    form = predicted(reading, params={"on_error": "item"}, files=files)
    assert form[1]["error"]["errors"][0]["pointer"] == "#/f/1"
    assert all(close(one, other) for one, other in zip(form[::2], whole, strict=True))
    broken = reading.http.post("/v1/predict?on_error=item", content=b'{"images": [')
    assert broken.json()["code"] == "malformed_json"  # of the whole, which has no items yet


# Archives


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
        opened.comment = comment
    return file.getvalue()


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_an_archive_of_images(reading: Live) -> None:
    whole = predicted(reading, json={"images": [digit(0).tolist(), digit(1).tolist()]})
    files = {
        "folder/": b"",
        "folder/0.png": png(digit(0)),
        "__MACOSX/folder/._0.png": b"x",
        ".DS_Store": b"x",
        "../../etc/passwd": b"root",
        "inner.zip": archive({"0.png": png(digit(0))}),
        "n\u00fcl.png": png(digit(1)),
        "empty": b"",
    }
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = predicted(reading, content=archive(files, method))
        names = ["folder/0.png", "../../etc/passwd", "inner.zip", "n\u00fcl.png", "empty"]
        assert [one["name"] for one in found] == names
        assert close(found[0], whole[0])
        assert close(found[3], whole[1])
        assert [found[at]["error"]["code"] for at in (1, 2, 4)] == ["unsupported_image"] * 3
        assert "ZIP" in found[2]["error"]["detail"]
    headers = {"Content-Type": "application/octet-stream"}  # of which 784 bytes an image are pixels
    room = -len(archive(files)) % 784
    padded = archive(files, comment=b" " * room)
    assert len(padded) % 784 == 0
    assert close(predicted(reading, content=padded, headers=headers)[0], whole[0])
    strict = reading.http.post("/v1/predict?on_error=batch", content=archive(files))
    assert problem(strict) == (415, "unsupported_image")


def test_files_that_are_not_unpacked(reading: Live) -> None:
    good = png(digit(0))
    for method, code in (
        (zipfile.ZIP_BZIP2, "unsupported_compression"),
        (zipfile.ZIP_LZMA, "unsupported_compression"),
    ):
        (found,) = predicted(reading, content=archive({"a": good}, method))
        assert found["error"]["code"] == code
    encrypted = bytearray(archive({"a": good, "b": good}))
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(magic) + at] |= 1
    first, second = predicted(reading, content=bytes(encrypted))
    assert (first["error"]["code"], "label" in second) == ("encrypted_file", True)
    damaged = bytearray(archive({"a": good, "b": good}, zipfile.ZIP_STORED))
    damaged[damaged.index(b"IDAT") + 6] ^= 0xFF
    first, second = predicted(reading, content=bytes(damaged))
    assert (first["error"]["code"], "label" in second) == ("corrupt_file", True)
    (bomb,) = predicted(reading, content=archive({"zeros": bytes(20 * 2**20)}))
    assert bomb["error"]["code"] == "file_too_large"
    (long,) = predicted(reading, content=archive({"x" * 5000: good}))
    assert long["name"] == "x" * 200


def test_an_archive_that_is_refused_as_a_whole(reading: Live) -> None:
    limit = reading.settings.max_images
    many = archive({str(number): b"" for number in range(limit + 1)}, zipfile.ZIP_STORED)
    cases = {
        b"PK\3\4": (422, "corrupt_archive"),
        archive({"a": b"x" * 100})[:-30]: (422, "corrupt_archive"),
        archive({}): (422, "no_images"),
        archive({"folder/": b""}): (422, "no_images"),
        many: (413, "too_many_images"),
        b"PK\3\4" + b"PK\1\2" * (4 * limit): (413, "too_many_images"),
    }
    for body, expected in cases.items():
        assert problem(reading.http.post("/v1/predict", content=body)) == expected
    noise = np.random.default_rng(0).bytes(300_000)
    large = archive({str(number): noise + bytes(20_000_000) for number in range(8)})
    assert problem(reading.http.post("/v1/predict", content=large)) == (413, "archive_too_large")
