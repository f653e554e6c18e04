"""Servers of a test's own, made to be stopped, frozen and killed: a PostgreSQL cluster and a Redis."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.acceptance.conftest import free_port, until
from tests.conftest import missing

SERVER_SECONDS = 60.0


@dataclass
class Cluster:
    """A PostgreSQL in a folder of its own. It refuses to run as root, so that a root's test lends it a user."""

    folder: Path
    binaries: Path
    user: str | None
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def plain_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def url(self) -> str:
        return self.plain_url.replace("postgresql:", "postgresql+psycopg:")

    def make(self) -> None:
        words = ("-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync")
        subprocess.run(
            [self.binaries / "initdb", *words], check=True, user=self.user, cwd="/", stdout=subprocess.DEVNULL
        )

    def start(self, *options: str) -> None:
        words = ("-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder))
        extra = [word for option in ("listen_addresses=127.0.0.1", *options) for word in ("-c", option)]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", *words, *extra],
            user=self.user,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "PostgreSQL answers", SERVER_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once, in order. SIGQUIT: as if the power had gone."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=SERVER_SECONDS)

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self.plain_url, autocommit=True, connect_timeout=5)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres(*options: str) -> Iterator[Cluster]:
    """A cluster that runs until the end of the block and is then gone."""
    found = shutil.which("postgres")
    paths = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not paths:
        missing("the server of PostgreSQL")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="numeral-pg-"))  # not below a folder that only root can enter
    if user is not None:
        shutil.chown(folder, user)
    cluster = Cluster(folder, paths[-1].parent, user)
    try:
        cluster.make()
        cluster.start(*options)
        yield cluster
    finally:
        if cluster.process is not None and cluster.process.poll() is None:
            cluster.stop(signal.SIGQUIT)
        shutil.rmtree(folder)


@dataclass
class Redis:
    """A Redis without persistence."""

    binary: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        words = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder))
        self.process = subprocess.Popen([self.binary, *words], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server")
    server = Redis(binary, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
