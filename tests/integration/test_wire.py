"""Predictions that are answered where the request is parsed, byte by byte on a socket: HTTP stays HTTP."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.api.express import turn
from service.api.express.quick import Pictures
from service.api.express.turn import Question
from service.serving import batcher
from service.serving.inference import Floats
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


@pytest.mark.parametrize("others", [0, 2])
def test_requests_that_come_in_one_piece(reading: Live, answers: list[bool], others: int) -> None:
    """Whatever their ways, they are answered in their order, whether or not there are others to be answered with."""
    wrong = request(b'{"images": [[1]]}')
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(connected(reading))
        connection = stack.enter_context(connected(reading))
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
        connection.sendall(request(b" " * 600_000 + JSON))
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


@contextmanager
def held(live: Live) -> Iterator[None]:
    """What is sent in the block comes in one turn of the server's loop, after it."""
    eventually(lambda: live.server.server_state.connections)
    is_held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        gate.wait(20)

    next(iter(live.server.server_state.connections)).loop.call_soon_threadsafe(hold)
    assert is_held.wait(20)
    try:
        yield
    finally:
        gate.set()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions were answered together, each time."""
    noted: list[int] = []
    answers = turn._answers

    def watched(together: Sequence[Question], pictures: Pictures, logits: Floats) -> list[bytes]:
        noted.append(len(together))
        return answers(together, pictures, logits)

    monkeypatch.setattr(turn, "_answers", watched)
    return noted


def many_of(stack: ExitStack, live: Live, count: int) -> list[socket.socket]:
    found = [stack.enter_context(connected(live)) for _ in range(count)]
    eventually(lambda: len(live.server.server_state.connections) >= count)
    return found


def test_what_comes_in_one_turn_is_answered_together(reading: Live, batches: list[int]) -> None:
    with ExitStack() as stack:
        connections = many_of(stack, reading, 9)
        bodies = [
            json.dumps({"images": [[index % 200] * 784] * (1 + index % 3)}).encode() for index in range(9)
        ]
        with held(reading):
            for connection, body in zip(connections, bodies, strict=True):
                connection.sendall(request(body))
        found = [answer(connection) for connection in connections]
    assert batches == [9]
    assert [len(body["predictions"]) for _, _, body in found] == [1, 2, 3] * 3
    assert [bool(body["predictions"][0]["warnings"]) for _, _, body in found] == [
        True
    ] * 9  # as one grey is blank
    assert {label(each) for each in found} == {7}


def test_who_leaves_takes_no_answer_from_others(reading: Live, batches: list[int]) -> None:
    with ExitStack() as stack:
        stays, leaves, resets = many_of(stack, reading, 3)
        with held(reading):
            for connection in (leaves, resets, stays):
                connection.sendall(request())
            resets.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            resets.close()
            leaves.close()
        assert label(answer(stays)) == 7
    with connected(reading) as connection:
        connection.sendall(request())
        assert label(answer(connection)) == 7


def test_what_fails_together_is_answered_the_long_way(reading: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(turn, "written", fails)
    with ExitStack() as stack:
        connections = many_of(stack, reading, 4)
        with held(reading):
            for connection in connections:
                connection.sendall(request() + request(path="/v1/nothing"))
        for connection in connections:
            assert label(answer(connection)) == 7
            assert answer(connection)[0] == 404


def test_what_waits_is_answered_before_the_server_stops(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(settings_for(tmp_path)) as live:
        model = register(live, weights_for(5))
        classifier = live.server.application.state.context.classifier
        eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
        with ExitStack() as stack:
            connections = many_of(stack, live, 5)
            with held(live):
                for connection in connections:
                    connection.sendall(request())
                live.server.should_exit = True
            assert [label(answer(connection)) for connection in connections] == [5] * 5


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No network is light, and its thread waits for the event."""
    goes_on = threading.Event()
    run = batcher._run

    def waits(batch: Any) -> None:
        goes_on.wait(20)
        run(batch)

    monkeypatch.setattr(batcher, "LIGHT", 0)
    monkeypatch.setattr(batcher, "_run", waits)
    yield goes_on
    goes_on.set()


def asking(live: Live) -> int:
    """How many connections wait for an answer of the thread's."""
    return sum(each._asks for each in live.server.server_state.connections)  # type: ignore[union-attr]


def test_what_a_thread_runs_is_answered_in_order(
    reading: Live, slow: threading.Event, batches: list[int]
) -> None:
    with ExitStack() as stack:
        connections = many_of(stack, reading, 6)
        with held(reading):
            for connection in connections:
                connection.sendall(request())
        eventually(lambda: asking(reading) == 6)
        connections[0].sendall(request(path="/v1/nothing"))  # while the thread runs what came before it
        connections[1].sendall(request() + request(path="/v1/nothing"))
        connections[2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connections[2].close()
        eventually(lambda: len(reading.server.server_state.connections) == 5)
        slow.set()
        assert label(answer(connections[0])) == 7
        assert answer(connections[0])[0] == 404
        assert [label(answer(connections[1])) for _ in range(2)] == [7, 7]
        assert answer(connections[1])[0] == 404
        assert [label(answer(connection)) for connection in connections[3:]] == [7] * 3
    assert 6 in batches  # who has left and who asked again are not given theirs


def test_what_a_thread_runs_is_answered_before_the_server_stops(
    settings_for: Callable[..., Settings], tmp_path: Path, slow: threading.Event
) -> None:
    with serving(settings_for(tmp_path)) as live:
        model = register(live, weights_for(5))
        classifier = live.server.application.state.context.classifier
        eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
        with ExitStack() as stack:
            connections = many_of(stack, live, 3)
            with held(live):
                for connection in connections:
                    connection.sendall(request())
            eventually(lambda: asking(live) == 3)
            live.server.should_exit = True
            eventually(lambda: asking(live) == 0)
            slow.set()
            assert [label(answer(connection)) for connection in connections] == [5] * 3


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
