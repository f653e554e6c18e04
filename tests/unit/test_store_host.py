"""One host a SQLite file: its processes share the claim, another host's are refused while one of them lives."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from service.errors import ServiceError
from service.store import host
from service.store.host import SecondHost

HOLD = """
import sys
from service.store import host
with host.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared' / 'numeral.db'}"


def another_process(url: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def another_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text(f"{uuid.uuid4()}\n")
    monkeypatch.setattr(host, "BOOT", boot)


def test_processes_of_one_host_share_it(url: str) -> None:
    other = another_process(url)
    with host.held(url), host.held(url):
        pass
    other.kill()
    other.communicate()


def test_another_host_is_refused_until_the_last_process_has_gone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = another_process(url), another_process(url)
    another_host(monkeypatch, tmp_path)
    for process in (first, second):
        with pytest.raises(SecondHost, match="set NUMERAL_DATABASE_URL to a PostgreSQL"), host.held(url):
            pass
        process.kill()  # which lets go of its claim as well
        process.communicate()
    with host.held(url):
        claimed = json.loads((tmp_path / "shared" / "numeral.db.host").read_text())
        assert claimed["boot"] == host.identity()


def test_a_forked_child_keeps_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with host.held(url):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    another_host(monkeypatch, tmp_path)
    with pytest.raises(SecondHost), host.held(url):
        pass
    os.close(write)
    os.waitpid(child, 0)
    with host.held(url):
        pass


def test_a_server_has_as_many_hosts_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with host.held("postgresql+psycopg://postgres@db.example/numeral"):
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ServiceError, match="set NUMERAL_HOME"),
        host.held(f"sqlite:///{tmp_path / 'file' / 'numeral.db'}"),
    ):
        pass
