"""Predictions that are answered where the request is parsed, byte by byte on a socket: HTTP stays HTTP."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.integration.conftest import Live, eventually, register, serving, weights_for
from tests.integration.test_api_express import JSON


@pytest.fixture(scope="module")
def reading(shared: Live) -> Live:
    model = register(shared, weights_for(7))
    classifier = shared.server.application.state.context.classifier
    eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
    return shared


def request(body: bytes = JSON, *headers: str, path: str = "/v1/predict", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def connected(live: Live) -> Iterator[socket.socket]:
    host, port = live.server.servers[0].sockets[0].getsockname()[:2]
    with closing(socket.create_connection((host, port), timeout=20)) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the next response."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += received(connection)
    rest[connection] = body[int(headers["content-length"]) :]
    return int(status.split()[1]), headers, json.loads(body[: int(headers["content-length"])])


rest: dict[socket.socket, bytes] = {}  # what came with an answer of the next one


def received(connection: socket.socket) -> bytes:
    waiting = rest.pop(connection, b"")
    if waiting:
        return waiting
    data = connection.recv(65536)
    assert data, "the connection was closed"
    return data


def label(found: tuple[int, dict[str, str], Any]) -> int:
    status, _, body = found
    assert status == 200, body
    return int(body["predictions"][0]["label"])


def test_one_after_another_on_a_connection(reading: Live, answers: list[bool]) -> None:
    with connected(reading) as connection:
        for _ in range(5):
            connection.sendall(request())
            assert label(answer(connection)) == 7
    assert answers == [True] * 5


def test_headers_are_those_of_the_application(reading: Live, answers: list[bool]) -> None:
    with connected(reading) as connection:
        connection.sendall(request(JSON, "X-Request-ID: mine"))
        _, short, told = answer(connection)
        connection.sendall(request(JSON, "X-Request-ID: mine", path="/v1/predict?preprocess=none"))
        _, long, also = answer(connection)
    assert answers == [True]
    assert told == also
    assert {**short, "date": ""} == {**long, "date": ""}


def test_requests_that_come_in_one_piece(reading: Live, answers: list[bool]) -> None:
    """Whatever their ways, they are answered in their order."""
    wrong = request(b'{"images": [[1]]}')
    with connected(reading) as connection:
        connection.sendall(request() + wrong + request() + request(path="/v1/nothing") + request())
        assert [answer(connection)[0] for _ in range(5)] == [200, 422, 200, 404, 200]
    assert answers[0] is True


def test_a_request_that_comes_byte_by_byte(reading: Live, answers: list[bool]) -> None:
    whole = request(JSON)
    with connected(reading) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), 7):
            connection.sendall(whole[at : at + 7])
        assert label(answer(connection)) == 7
    assert answers == [True]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_connection_that_is_to_end(reading: Live, version: str) -> None:
    with connected(reading) as connection:
        connection.sendall(request(JSON, "Connection: close", version=version))
        found = answer(connection)
        assert label(found) == 7
        assert found[1].get("connection") == "close"
        assert connection.recv(10) == b""


def test_a_client_that_waits_to_be_asked(reading: Live, answers: list[bool]) -> None:
    head, _, body = request(JSON, "Expect: 100-continue").partition(b"\r\n\r\n")
    with connected(reading) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert label(answer(connection)) == 7
    assert answers == []


def test_chunks_and_large_bodies_go_the_long_way(reading: Live, answers: list[bool]) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (JSON[:99], JSON[99:])) + b"0\r\n\r\n"
    with connected(reading) as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        )
        assert label(answer(connection)) == 7
        connection.sendall(request(b" " * 300_000 + JSON))
        assert label(answer(connection)) == 7
    assert answers == []


@pytest.mark.parametrize(
    "path", ["/v1/models/no%2fbody/predict", "/v1/models//predict", "/v1/models/a/b/predict"]
)
def test_paths_that_are_not_plain(reading: Live, answers: list[bool], path: str) -> None:
    with connected(reading) as connection:
        connection.sendall(request(path=path))
        assert answer(connection)[0] == 404
    assert answers == []


def test_lengths_that_lie_are_refused(reading: Live) -> None:
    for header in ("Content-Length: 5", "Content-Length: x", "Transfer-Encoding: chunked"):
        with connected(reading) as connection:
            connection.sendall(request(JSON, header))
            data = connection.recv(65536)
            assert data.startswith(b"HTTP/1.1 400 ")


def test_a_request_at_hand_is_finished_before_the_server_stops(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(settings_for(tmp_path)) as live:
        model = register(live, weights_for(5))
        classifier = live.server.application.state.context.classifier
        eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
        with connected(live) as connection:
            whole = request()
            connection.sendall(whole[:1000])
            eventually(lambda: any(each._parts for each in live.server.server_state.connections))  # type: ignore[union-attr]
            live.server.should_exit = True
            eventually(lambda: all(each._parts is None for each in live.server.server_state.connections))  # type: ignore[union-attr]
            connection.sendall(whole[1000:])
            assert label(answer(connection)) == 5


def test_many_at_once(reading: Live) -> None:
    found: list[int] = []

    def ask() -> None:
        with connected(reading) as connection:
            for _ in range(50):
                connection.sendall(request())
                found.append(label(answer(connection)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [7] * 400
