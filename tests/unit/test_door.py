"""All who wait at a listening socket are let in within one turn of the event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import uvloop

from service.api.door import Door

COUNT = 20


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=COUNT) as server:
        server.setblocking(False)
        yield server


class Greeting(asyncio.Protocol):
    def __init__(self, made: list[asyncio.BaseTransport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(transport)
        cast(asyncio.WriteTransport, transport).write(b"welcome")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_all_are_let_in_at_once_until_it_is_closed(
    listening: socket.socket, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    made: list[asyncio.BaseTransport] = []
    with contextlib.ExitStack() as stack:

        def come() -> socket.socket:
            return stack.enter_context(socket.create_connection(listening.getsockname(), timeout=5))

        async def hold() -> None:
            waiting = [come() for _ in range(COUNT)]
            door = Door(listening.fileno(), lambda: Greeting(made))
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert [client.recv(7) for client in waiting] == [b"welcome"] * COUNT
            door.close()
            late = come()
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(late.recv, 7)
            for transport in made:
                transport.close()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(hold())
    assert len(made) == COUNT
    assert listening.fileno() >= 0  # it stays open


def test_a_connection_that_fails_keeps_no_other_out(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[asyncio.BaseTransport] = []
    asked = 0

    def protocol() -> asyncio.BaseProtocol:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("nobody is at home")
        return Greeting(made)

    async def hold() -> None:
        with (
            socket.create_connection(listening.getsockname()),
            socket.create_connection(listening.getsockname()),
        ):
            door = Door(listening.fileno(), protocol)
            async with asyncio.timeout(5):
                while not made:
                    await asyncio.sleep(0.001)
            door.close()
            made[0].close()

    asyncio.run(hold())
    assert "nobody is at home" in caplog.text
