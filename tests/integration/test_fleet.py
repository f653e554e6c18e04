"""Several API processes behind one port: all of them answer, none is missed, none is left behind."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.api.fleet import Fleet
from service.settings import Settings
from tests.integration.conftest import eventually


@contextmanager
def fleet(settings: Settings, size: int = 3) -> Iterator[tuple[psutil.Process, str]]:
    """`numeral serve`, and where it listens."""
    broker = settings.broker_url
    assert broker is not None
    environment = {
        "PATH": "",
        "NUMERAL_HOME": str(settings.home),
        "NUMERAL_PORT": "0",
        "NUMERAL_API_PROCESSES": str(size),
        "NUMERAL_BROKER_URL": broker.get_secret_value(),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            yield psutil.Process(process.pid), url
        finally:
            if process.poll() is None:
                process.kill()


def answered(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_processes_are_replaced_and_end_together(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with fleet(settings_for(tmp_path)) as (parent, url):
        eventually(lambda: answered(url), seconds=60)
        children = parent.children()
        assert len(children) == 3
        children[0].send_signal(signal.SIGKILL)
        eventually(lambda: len(parent.children()) == 3 and children[0] not in parent.children(), seconds=20)
        assert answered(url)
        now = parent.children()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0
        assert not any(child.is_running() for child in now)


def test_none_outlives_a_parent_that_is_killed(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    with fleet(settings_for(tmp_path)) as (parent, url):
        eventually(lambda: answered(url), seconds=60)
        children = parent.children()
        parent.kill()
        gone, alive = psutil.wait_procs(children, timeout=30)
        assert (len(gone), alive) == (3, [])


def test_one_that_cannot_start_ends_them_all(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    (tmp_path / "numeral.db").write_bytes(b"this is no database" * 100)
    with fleet(settings_for(tmp_path)) as (parent, _):
        assert parent.wait(60) == 3


@pytest.mark.parametrize("size", [1, 2])
def test_a_port_that_is_taken_is_said(
    settings_for: Callable[..., Settings], tmp_path: Path, size: int
) -> None:
    with fleet(settings_for(tmp_path / "one"), 1) as (_, url):
        environment = {
            "PATH": "", "NUMERAL_HOME": str(tmp_path / "other"), "NUMERAL_API_PROCESSES": str(size),
            "NUMERAL_PORT": url.rpartition(":")[2],
        }  # fmt: skip
        told = subprocess.run(
            [sys.executable, "-m", "service.cli", "serve"], env=environment, cwd=Path(__file__).parents[2],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert told.returncode in (1, 3)
        assert "ddress already in use" in told.stderr


def test_a_signal_that_comes_as_a_process_ends_stops_the_others() -> None:
    gone, there = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
    gone.wait()
    stopped = Fleet("127.0.0.1", 0, 2, lambda *_: None)
    stopped._began = {gone.pid: 0.0, there.pid: 0.0}
    stopped._stop()
    stopped.socket.close()
    assert there.wait(10) == -signal.SIGTERM
