"""Hostile bodies at a real server: each is refused or answered, never with a failure, and others still come in."""

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from service.settings import Settings
from tests.hostile import _damaged
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_api_predictions import digit, encoded
from tests.integration.test_wire import answer, connected


def test_damaged_pictures_are_refused_or_read(live: Live) -> None:
    live.model(3)
    for attack in _damaged(random.Random(0)):  # noqa: S311
        found = live.http.post(
            attack.path, content=attack.body, headers={"Content-Type": attack.content_type}
        )
        assert found.status_code in (200, 413, 415, 422), (attack.name, found.text)
    assert live.http.post("/v1/predict", content=encoded(digit(1))).status_code == 200


def test_bodies_together_have_little_more_room_than_the_largest(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    size = 2_000_000
    with serving(settings_for(tmp_path, max_body_bytes=size)) as live, ExitStack() as sockets:
        live.model(3)
        head = f"POST /v1/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()

        def refused() -> bool:
            """Whether there is no room for a body that fits beside all of the slow one but its last bytes."""
            return live.http.post("/v1/read", content=bytes(size // 4 + 2)).status_code == 503

        def held() -> socket.socket | None:
            """A slow body that has the room. While it is read either of the two may be refused: then not this one."""
            sockets.close()
            slow = sockets.enter_context(connected(live))
            slow.sendall(head + bytes(size - 1))
            return slow if refused() and refused() else None

        slow = eventually(held)
        access = live.http.post("/v1/read", content=bytes(size))
        assert (access.status_code, access.json()["code"]) == (503, "busy_uploads")
        assert access.headers["Retry-After"] == "1"
        assert live.http.post("/v1/read", content=encoded(digit(1))).status_code == 200  # a small one always
        slow.sendall(b"\0")
        assert answer(slow)[0] == 415
        assert live.http.post("/v1/read", content=bytes(size)).status_code == 415
