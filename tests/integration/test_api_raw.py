"""Requests that no decent client sends, written on a socket by hand."""

import socket
from contextlib import closing

from tests.integration.conftest import Live, eventually


def sent(live: Live, data: bytes, *, then_close: bool = False) -> bytes:
    """The head of the first answer."""
    host, port = live.server.servers[0].sockets[0].getsockname()[:2]
    with closing(socket.create_connection((host, port), timeout=10)) as connection:
        connection.sendall(data)
        received = b""
        while not then_close and b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        return received


def post(headers: str, body: bytes) -> bytes:
    return (
        f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\r\n".encode()
        + body
    )


def test_a_content_length_that_promises_more_than_comes(shared: Live) -> None:
    before = shared.trace()
    sent(shared, post("Content-Length: 5000\r\n", b"{}"), then_close=True)
    assert shared.http.get("/livez").status_code == 200
    assert shared.trace() == before


def test_a_content_length_over_the_limit_is_refused_before_the_body_comes(shared: Live) -> None:
    answer = sent(shared, post("Content-Length: 99999999999\r\n", b"{"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_content_length_that_promises_less_than_comes(shared: Live) -> None:
    before = shared.trace()
    answer = sent(shared, post("Content-Length: 1\r\n", b'{"preset": "slp-200"}'))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert shared.trace() == before


def test_a_content_length_that_is_no_number(shared: Live) -> None:
    for value in ("-1", "1e9", "0x10", "1, 2"):
        assert sent(shared, post(f"Content-Length: {value}\r\n", b"{}")).startswith(b"HTTP/1.1 400 ")


def test_a_chunked_body_is_counted_whatever_its_length_claims(shared: Live) -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    answer = sent(shared, post("Transfer-Encoding: chunked\r\n", chunk * 4 + b"0\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_in_the_middle_costs_nothing(shared: Live) -> None:
    before = shared.trace()
    for _ in range(20):
        sent(shared, post("Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n"), then_close=True)
    eventually(lambda: shared.http.get("/livez").status_code == 200)
    assert shared.trace() == before
