"""What stands before several API containers in a rolling restart: a reverse proxy, as small as it can be. A connection
of its own for each request, and another backend where one refuses it, which is what nginx does unless told otherwise."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "date", "server")
PATIENCE_SECONDS = 120  # of a quiet stream, and of a busy machine


class Front(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.backends: tuple[int, ...] = ()  # ports, the first is asked first; changed as a whole

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def do_GET(self) -> None:
        self._forward()

    do_POST = do_GET  # noqa: N815 - the base class calls it so

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self._asked(body)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:  # an event stream, as it comes, and until it ends
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while piece := answer.read1(65_536):
            self.wfile.write(piece)
            self.wfile.flush()

    def _asked(self, body: bytes) -> http.client.HTTPResponse:
        kept = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
        for port in self.server.backends:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
            try:
                connection.connect()
            except ConnectionRefusedError:
                continue
            connection.request(self.command, self.path, body, kept | {"Connection": "close"})
            return connection.getresponse()
        raise ConnectionRefusedError("no backend takes the request")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Quiet: what fails is seen by whoever asked."""


@contextmanager
def front() -> Iterator[Front]:
    with Front() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
