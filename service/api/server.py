"""Run the API as a process."""

import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn
from threadpoolctl import threadpool_limits

from service.api.app import create_app, new_meter
from service.api.door import Door
from service.api.express.express import Express
from service.api.express.wire import Wire
from service.api.fleet import STARTUP_FAILURE, Fleet
from service.observing.meter import Meter
from service.settings import Settings

GRACE_SECONDS = 5
M_MMAP_THRESHOLD = -3  # of mallopt(3)
LARGE_BLOCK = 4 * 1024**2
# a thread that has run a network waits no longer for the event loop to let it go on; Python's own is ten times as much
SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """One that says where it listens, and ends event streams first when it is told to stop."""

    def __init__(self, settings: Settings, meter: Meter | None = None, *, is_alone: bool = True) -> None:
        """`is_alone` where no sibling takes connections of the same socket: it says where it listens, and leaves none for
        others."""
        self._is_alone = is_alone
        self._door: Door | None = None
        meter = meter or new_meter()
        self.application = create_app(settings, meter)
        super().__init__(
            uvicorn.Config(
                Express(self.application, settings, meter),
                http=Wire,
                host=settings.host,
                port=settings.port,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # what is there by now stays: a collection during a request need not walk it
        if self._is_alone:
            listening = self.servers[0].sockets[0]
            self._door = Door(listening.fileno(), self._protocol)
            announce(listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._door is not None:
            self._door.close()
        self.application.state.context.feed.stop()
        await super().shutdown(sockets)

    def _protocol(self) -> Wire:
        return Wire(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @property
    def address(self) -> str:
        """Once started, also if the port was left to the system."""
        return address_of(self.servers[0].sockets[0])


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(listening: socket.socket) -> None:
    print(f"Numeral listens on {address_of(listening)}", flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, in as many processes as the settings say; then finish the requests at hand and
    return. Ends the process with status 3 if it cannot start."""
    _let_memory_go()
    # a request's products are small: threads that share them would wait for each other, and so would requests
    threadpool_limits(limits=1)
    sys.setswitchinterval(SWITCH_SECONDS)
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises it again when all is closed
    if settings.api_processes == 1:
        with contextlib.suppress(KeyboardInterrupt):
            Server(settings).run()
        return

    meter = new_meter(settings.api_processes)

    def work(listening: socket.socket, number: int) -> None:
        signal.signal(signal.SIGTERM, _leave)
        meter.take(number)
        Server(settings, meter, is_alone=False).run(sockets=[listening])

    try:
        fleet = Fleet(settings.host, settings.port, settings.api_processes, work)
    except OSError as error:
        log.error("cannot listen on %s:%s: %s", settings.host, settings.port, error.strerror)  # noqa: TRY400
        sys.exit(STARTUP_FAILURE)
    announce(fleet.socket)
    sys.exit(fleet.run())


def _let_memory_go() -> None:
    """Let blocks of megabytes go back to the system as soon as they are free. glibc keeps them once it has seen the first
    one freed, in an arena of each thread, and what a picture took would be taken for good."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
