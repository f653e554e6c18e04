"""Run the API as a process."""

import contextlib
import gc
import signal
import socket
import sys
from types import FrameType

import uvicorn
from threadpoolctl import threadpool_limits

from service.api.app import create_app
from service.api.express import Express
from service.settings import Settings

GRACE_SECONDS = 5


class Server(uvicorn.Server):
    """One that says where it listens, and ends event streams first when it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.application = create_app(settings)
        super().__init__(
            uvicorn.Config(
                Express(self.application, settings),
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
        print(f"Numeral listens on {self.address}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.application.state.context.feed.stop()
        await super().shutdown(sockets)

    @property
    def address(self) -> str:
        """Once started, also if the port was left to the system."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests at hand and return. Ends the process with
    status 3 if it cannot start."""
    # a request's products are small: threads that share them would wait for each other, and so would requests
    threadpool_limits(limits=1)
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises it again when all is closed
    with contextlib.suppress(KeyboardInterrupt):
        Server(settings).run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
