"""`numeral up`: the API, a worker, a batch worker and the embedded broker as children of one process.

One Ctrl-C stops all; a child that ends by itself is started again; nothing is left behind, also when the
supervisor itself is killed.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType

import httpx
from filelock import FileLock, Timeout

from service.errors import ServiceError
from service.running import admin_key, broker, lifeline
from service.settings import Settings
from service.store import schema, workers
from service.store.database import Database

READY_SECONDS = 120.0
STOP_SECONDS = 30.0  # longer than a checkpoint takes
RESTART_AT_LEAST_SECONDS = 1.0  # doubled at each quick end, up to
RESTART_AT_MOST_SECONDS = 30.0
YIELDING = 5  # of niceness

log = logging.getLogger(__name__)


class SupervisorError(ServiceError):
    status, code, title = 500, "cannot_start", "The service cannot start"


@dataclass
class Child:
    """One supervised process. `start` makes it anew."""

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes]"
    began: float
    backoff: float = RESTART_AT_LEAST_SECONDS
    restart_at: float | None = None


class Supervisor:
    """Holds the home folder's lock and the children. Use as a context; everything ends with it."""

    def __init__(self, settings: Settings) -> None:
        port = settings.port or _free_port(settings.host)
        self.settings = settings.model_copy(update={"port": port})
        self.url = f"http://{_reachable(settings.host)}:{port}"
        self._children: list[Child] = []
        self._environment = os.environ | {"NUMERAL_PORT": str(port), "NUMERAL_HOME": str(settings.home)}

    @contextmanager
    def running(self) -> Iterator["Supervisor"]:
        """Everything started; stopped at the end of the block. Raises SupervisorError when another
        supervisor has this home, or the port is taken."""
        settings = self.settings
        settings.home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(settings.home / "up.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SupervisorError(
                f"another `numeral up` runs on {settings.home}: stop it, or set NUMERAL_HOME to another folder"
            ) from None
        with _interruptible():
            try:
                _require_free(settings.host, settings.port)
                self._migrate()
                self._start_children()
                yield self
            finally:
                with _undisturbed():
                    self._stop_children()
                lock.release()

    def _migrate(self) -> None:
        database = Database(self.settings.database)
        try:
            schema.migrate(database)
            admin_key.ready(self.settings, database)
        finally:
            database.close()

    def _start_children(self) -> None:
        if self.settings.broker_url is None:
            self._add("broker", lambda: broker.start(self.settings))
        self._add("worker", lambda: self._spawn("worker", yields=True))
        self._add("batch worker", lambda: self._spawn("batch-worker", yields=True))
        self._add("api", lambda: self._spawn("serve"))

    def _add(self, name: str, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self._children.append(Child(name, start, start(), time.monotonic()))

    def _spawn(self, command: str, *, yields: bool = False) -> "subprocess.Popen[bytes]":
        """`yields` processors to others: whoever waits for a prediction is there, who trains is not."""
        process = lifeline.spawn(
            [sys.executable, "-m", "service.cli", command],
            environment=self._environment,
            signal_number=signal.SIGTERM,
            stdout=subprocess.DEVNULL,  # where the API says its address: ours is said by us
        )
        if yields:
            with contextlib.suppress(OSError):  # it has ended, or nobody may
                os.setpriority(os.PRIO_PROCESS, process.pid, os.nice(0) + YIELDING)
        return process

    def await_ready(self) -> None:
        """Returns when the API is able to serve and a worker to train. Raises SupervisorError after two
        minutes, or when a child ends instead."""
        deadline = time.monotonic() + READY_SECONDS
        answer = "nothing yet"
        while time.monotonic() < deadline:
            for child in self._children:
                if child.process.poll() is not None:
                    raise SupervisorError(f"the {child.name} ended with status {child.process.returncode}")
            try:
                answer = self._answer()
            except (httpx.HTTPError, ServiceError) as error:
                answer = str(error)
            if not answer:
                return
            time.sleep(0.05)
        raise SupervisorError(f"not ready after {READY_SECONDS:.0f} seconds: {answer}")

    def _answer(self) -> str:
        """What keeps the service from being ready; nothing when it is, and a process of ours trains."""
        response = httpx.get(f"{self.url}/readyz", timeout=2)
        if response.status_code != httpx.codes.OK:
            return response.text
        ours = {str(child.process.pid) for child in self._children if child.name == "worker"}
        database = Database(self.settings.database)  # the API would ask for a key
        try:
            names = [worker.name for worker in workers.alive(database)]
        finally:
            database.close()
        return "" if any(name.split(":")[-2] in ours for name in names) else "no worker is alive yet"

    def tend(self) -> None:
        """Start again what has ended. A child that keeps ending is given ever more time between."""
        for child in self._children:
            if child.restart_at is None:
                if child.process.poll() is None:
                    continue
                lasted = time.monotonic() - child.began
                long = lasted > RESTART_AT_MOST_SECONDS
                child.backoff = (
                    RESTART_AT_LEAST_SECONDS if long else min(child.backoff * 2, RESTART_AT_MOST_SECONDS)
                )
                log.error(
                    "%s ended with status %s; starting it again in %.0f s",
                    child.name,
                    child.process.returncode,
                    child.backoff,
                )
                child.restart_at = time.monotonic() + child.backoff
            if time.monotonic() >= child.restart_at:
                self._restart(child)

    def _restart(self, child: Child) -> None:
        child.began = time.monotonic()
        try:
            child.process = child.start()
        except (ServiceError, OSError) as error:
            child.backoff = min(child.backoff * 2, RESTART_AT_MOST_SECONDS)
            log.error("%s cannot be started: %s; trying again in %.0f s", child.name, error, child.backoff)  # noqa: TRY400
            child.restart_at = time.monotonic() + child.backoff
        else:
            child.restart_at = None

    def wait(self) -> None:
        """Tend the children until SIGTERM or SIGINT."""
        stop = _stop_requested()
        while not stop():
            self.tend()
            time.sleep(0.2)

    def _stop_children(self) -> None:
        """The API first, so that nothing new comes in; then the workers, which save and hand back; the
        broker last, so that they can still ring."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
            if child.name == "worker":
                self._await_end("worker", "batch worker", "api")
        self._await_end("broker")

    def _await_end(self, *names: str) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for child in (child for child in self._children if child.name in names):
            try:
                child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop in time: killing it", child.name)
                lifeline.kill(child.process)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interruptible() -> AbstractContextManager[None]:
    """SIGTERM as Ctrl-C: it too ends what has been started, however far that is. Ctrl-C also where a shell
    has started us in the background, with SIGINT ignored."""
    return _handled(signal.default_int_handler, signal.SIGTERM, signal.SIGINT)


def _undisturbed() -> AbstractContextManager[None]:
    """Another Ctrl-C while the children stop must not leave some of them behind."""
    return _handled(lambda _number, _frame: None, signal.SIGTERM, signal.SIGINT)


def _stop_requested() -> Callable[[], bool]:
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return lambda: bool(received)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SupervisorError(
                f"cannot listen on {host}:{port} ({error.strerror}): set NUMERAL_PORT to a free one, or 0"
            ) from error


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound
