"""One SQLite file is one host's: two hosts that share its folder would each believe their own locks and memory, and
corrupt it. So every process of the service holds a lock on a small file beside it for as long as it lives, and
another host that comes meanwhile is refused before it touches the database.
"""

import fcntl
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from sqlalchemy import make_url

from service.errors import ServiceError

BOOT = Path("/proc/sys/kernel/random/boot_id")  # one a running kernel, so that containers of a host agree


class SecondHost(ServiceError):
    status, code, title = 500, "sqlite_on_two_hosts", "SQLite serves the processes of one host"


@contextmanager
def held(url: str) -> Iterator[None]:
    """A claim of this host on the SQLite of that URL, shared by all its processes; forked children keep it. Nothing
    for a database server. Raises SecondHost while processes of another host hold theirs."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        yield
        return
    with _opened(Path(f"{parsed.database}.host")) as file:
        _claim(file)
        yield


def _opened(path: Path) -> TextIOWrapper:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise ServiceError(
            f"cannot write to the database's folder: {error}; set NUMERAL_HOME to one that can be written",
            code="storage_unusable",
        ) from error


def identity() -> str:
    """Tells this host, since it was started, from any other."""
    try:
        return BOOT.read_text().strip()
    except OSError:  # no Linux, and so no container either
        return socket.gethostname()


def _claim(file: TextIOWrapper) -> None:
    """The lock is exclusive while the name in the file is changed, else shared. Whoever finds it held reads whose it
    is: a host that has gone, or was started anew, holds none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_SH)
        _require_ours(file)
        return
    file.seek(0)
    file.truncate()
    json.dump({"host": socket.gethostname(), "boot": identity()}, file)
    file.flush()
    fcntl.flock(file, fcntl.LOCK_SH)
    _require_ours(file)  # to change an exclusive lock into a shared one is not atomic


def _require_ours(file: TextIOWrapper) -> None:
    file.seek(0)
    owner = json.load(file)
    if owner["boot"] != identity():
        raise SecondHost(
            f"{file.name.removesuffix('.host')} is in use by processes of another host ({owner['host']}), and SQLite "
            "cannot be shared between hosts: set NUMERAL_DATABASE_URL to a PostgreSQL for all of them"
        )
