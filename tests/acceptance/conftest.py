"""The service as its users run it: real processes under `numeral up`, on the embedded broker and on Redis."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.client import Client, Event, Job
from tests.conftest import missing, mnist_folder

READY_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Service:
    """A running `numeral up`."""

    process: "subprocess.Popen[bytes]"
    url: str
    home: Path
    environment: Mapping[str, str]
    client: Client

    def child(self, *words: str) -> psutil.Process:
        """The supervised process that has this name or these words in its command line."""
        for process in psutil.Process(self.process.pid).children():
            if process.name() == words[0] or all(word in process.cmdline() for word in words):
                return process
        raise AssertionError(f"no child of numeral up is called {words}")

    def worker(self) -> psutil.Process:
        return self.child("-m", "worker")

    def start(self, spec: Mapping[str, Any], *, at_step: int) -> Job:
        """Submit, and come back when the job has done so many steps."""
        job = self.client.jobs.create(spec)
        until(lambda: self.step(job.id) >= at_step, f"step {at_step}")
        return job

    def step(self, job_id: str) -> int:
        return self.client.jobs.get(job_id).progress.step or 0

    def events(self, job_id: str) -> list[Event]:
        return list(self.client.jobs.events(job_id))


@contextmanager
def running(
    home: Path, *, within: Sequence[str] = (), log: Path | None = None, **variables: str
) -> Iterator[Service]:
    """`numeral up` until the end of the block; then it must stop by itself and leave nothing behind. `within`: a
    command that becomes it; `log`: a file for what it says."""
    port = variables.get("NUMERAL_PORT") or str(free_port())
    environment = os.environ | {
        "NUMERAL_HOME": str(home),
        "NUMERAL_PORT": port,
        "NUMERAL_DATA_DIR": str(mnist_folder()),
        "NUMERAL_THREADS": "1",  # tests run beside each other
        **variables,
    }
    command = [*within, sys.executable, "-m", "service.cli", "up"]
    with ExitStack() as opened:
        said = None if log is None else opened.enter_context(log.open("ab"))
        process = subprocess.Popen(command, env=environment, stderr=said)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _ready(url, process), "the service is ready", READY_SECONDS)
        with Client(url, patience=30) as client:
            yield Service(process, url, home, environment, client)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    until(lambda: not left_behind(home), f"nothing of {home} is left running", 10)


def _ready(url: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "numeral up ended before it was ready"
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def left_behind(home: Path) -> list[psutil.Process]:
    """Processes that belong to that home folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("NUMERAL_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of the test's own; its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port), "redis-server listens", 10)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["embedded", "redis"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests of a module, on the embedded broker and on Redis in turn."""
    home = tmp_path_factory.mktemp("home")
    if request.param == "embedded":
        with running(home, NUMERAL_WORKERS="1") as started:
            yield started
        return
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as url,
        running(home, NUMERAL_BROKER_URL=url) as started,
    ):
        yield started
