"""uvicorn's HTTP/1.1, where it parses a request: a plain prediction is answered in the turn that its last byte came in,
without a task, a scope and messages for it, which cost as much as all else that such a request asks for.

Whatever is not plain, or not to be answered at once, is handed to uvicorn as it would have had it."""

import time
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.express import express
from service.api.express.express import Express
from service.api.guards.access import Visitor
from service.api.guards.limits import POLICY, SECURITY

_SECURITY = b"".join(b"%s: %s\r\n" % pair for pair in (*SECURITY, POLICY))
LARGEST = 512 * 1024  # bytes of a body that is kept here until it is whole: 64 pictures in JSON take 350,000


class Wire(HttpToolsProtocol):
    """One connection. The application has to be an `Express`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert isinstance(self.config.app, Express)
        self._express: Express = self.config.app
        self._parts: list[bytes] | None = None  # of a body whose request may be answered at once
        self._reference, self._content_type = "", b""
        self._visitor = Visitor()
        self._asks = self._is_kept = False
        self._number = 0  # of the question that is asked
        self._began = 0.0

    def on_message_begin(self) -> None:
        self._settle()  # what was asked first is answered first
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._is_plain():
            self._parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._parts is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parts is not None and self._is_asked(b"".join(self._parts)):
            return
        self._hand_over()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP."""
        text = msg.encode("ascii")
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(
            text
        )
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%s%s\r\n\r\n%s" % (_SECURITY, head, text))
        self.transport.close()

    def shutdown(self) -> None:
        self._settle()
        self._hand_over()  # so that the request is finished
        super().shutdown()

    def _is_plain(self) -> bool:
        """Whether the request that begins is the only one at hand, and one of those that `Express` answers."""
        before: RequestResponseCycle | None = self.cycle
        if before is not None and not before.response_complete:
            return False
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return False
        if self.parser.should_upgrade() or self.limit_concurrency is not None or self.root_path:
            return False
        reference = express.reference_of(self.url)
        length, content_type = b"", b""
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name == b"content-type":
                content_type = value
            elif name in express.LONG_WAY:
                return False
        if reference is None or not 0 < len(length) <= 6 or int(length) > LARGEST:
            return False
        visitor = self._express.visitor(self.headers, self.client)
        if visitor is None:
            return False
        self._reference, self._content_type, self._visitor = reference, content_type, visitor
        self._began = time.perf_counter()
        return True

    def _is_asked(self, body: bytes) -> bool:
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self._is_kept, self._asks = self.parser.should_keep_alive(), True
        self._number += 1
        answer = partial(self._answered, self._number)
        is_alone = len(self.connections) == 1
        if self._express.asked(self._reference, self._content_type, body, answer, is_alone=is_alone):
            return True
        self._asks = False
        return False

    def _settle(self) -> None:
        """Have what is asked answered now, or by uvicorn: it keeps the order, and a connection that is to end."""
        if self._asks:
            self._express.turn.end()
        if self._asks:
            self._answered(self._number, None)

    def _answered(self, number: int, answer: bytes | None) -> None:
        if number != self._number or not self._asks:
            return  # it was settled
        self._asks = False
        if self.transport.is_closing():
            self._parts = None
        elif answer is None:
            self._hand_over()
            super().on_message_complete()
        else:
            self._parts = None
            self._reply(answer)

    def _reply(self, answer: bytes) -> None:
        share = self._express.charged(self._visitor)
        head = [*self.server_state.default_headers, *express.headers_of(answer, self.headers), *share]
        if not self._is_kept:
            head.append((b"connection", b"close"))
        lines = b"".join([b"%s: %s\r\n" % pair for pair in head])
        self.transport.write(b"HTTP/1.1 200 OK\r\n%s%s\r\n%s" % (lines, _SECURITY, answer))
        self._express.answered(self.url, time.perf_counter() - self._began)
        if not self._is_kept:
            self.transport.close()
        self.on_response_complete()

    def _hand_over(self) -> None:
        """To uvicorn, from the head on."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)
