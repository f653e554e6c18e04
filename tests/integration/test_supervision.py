"""Children that cannot start or whose parent is interrupted: nothing hangs and nothing stays behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from service.running import broker, doctor, queue
from service.running.supervisor import Child, Supervisor
from service.settings import Settings
from service.store import schema
from service.store.database import Database


def deaf(folder: Path) -> Path:
    """A server that never answers, and leaves its process id."""
    path = folder / "deaf"
    path.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\nexec sleep 600\n")
    path.chmod(0o700)
    return path


def test_a_broker_that_does_not_answer_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "_binary", lambda: deaf(tmp_path))
    monkeypatch.setattr(broker, "START_SECONDS", 0.5)
    with pytest.raises(broker.BrokerError, match="did not answer"):
        broker.start(Settings(home=tmp_path))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_child_that_cannot_be_started_again_is_tried_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    tries: list[float] = []

    def start() -> "subprocess.Popen[bytes]":
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise broker.BrokerError("no answer")
        return ended

    supervisor = Supervisor(Settings(home=tmp_path, port=0))
    child = Child("broker", start, ended, 0.0, restart_at=0.0)
    supervisor._children.append(child)
    with caplog.at_level(logging.ERROR):
        supervisor.tend()
    assert "no answer" in caplog.text
    assert child.restart_at is not None
    child.restart_at = 0.0
    supervisor.tend()
    assert len(tries) == 2
    assert [one.restart_at for one in supervisor._children] == [None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_while_starting_stops_what_has_started(tmp_path: Path, number: signal.Signals) -> None:
    """The supervisor ends only when its children have; a second interrupt does not hurry it past them."""
    code = (
        "import signal, subprocess, sys, time\n"
        "from service import settings\n"
        "from service.running import lifeline\n"
        "from service.running.supervisor import Supervisor\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what is to run in the background\n"
        "stubborn = 'import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), exit())); "
        'print("up", flush=True); time.sleep(600)\'\n'
        "class Patient(Supervisor):\n"
        "    def _start_children(self):\n"
        "        self._add('worker', lambda: lifeline.spawn([sys.executable, '-c', stubborn], environment={},\n"
        "            signal_number=signal.SIGTERM, stdout=None))\n"
        "        time.sleep(600)\n"
        "with Patient(settings.load()).running():\n"
        "    pass\n"
    )
    environment = os.environ | {"NUMERAL_HOME": str(tmp_path), "NUMERAL_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)
    process.wait(timeout=20)
    process.stdout.close()
    assert not child.is_running()


def test_a_child_has_time_to_warm_up(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert queue.celery(settings).conf.worker_proc_alive_timeout >= 60


def test_a_worker_whose_processes_cannot_start_ends(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    """It would go on to take messages that nobody can serve."""
    settings = settings_for(tmp_path)
    db = Database(settings.database)
    schema.migrate(db)
    db.close()
    code = (
        "from service import settings\n"
        "from worker import app, device\n"
        "def broken(_): raise RuntimeError('no CUDA today')\n"
        "device.warm_up = broken\n"
        "app.run(settings.load())\n"
    )
    assert settings.broker_url is not None
    environment = os.environ | {
        "NUMERAL_HOME": str(tmp_path),
        "NUMERAL_BROKER_URL": settings.broker_url.get_secret_value(),
    }
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert "no CUDA today" in ended.stderr


def test_a_training_process_killed_while_it_looks_hangs_no_other() -> None:
    code = (
        "import os, signal, time\n"
        "from worker.leaving import Leaving\n"
        "leaving = Leaving()\n"
        "for _ in range(20):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        while True: leaving.is_set()\n"
        "    time.sleep(0.01)\n"
        "    os.kill(child, signal.SIGKILL)\n"
        "    os.waitpid(child, 0)\n"
        "waiting = os.fork()\n"
        "if waiting == 0:\n"
        "    while not leaving.is_set(): time.sleep(0.01)\n"
        "    os._exit(7)\n"
        "leaving.set()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(waiting, 0)[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert ended.stdout == "7\n"


def test_a_home_that_cannot_be_used_hides_nothing_from_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMERAL_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(doctor, "_data", lambda _: iter(()))
    findings = doctor.examine()
    assert {"home", "database"} <= {one.what for one in findings if one.level == "wrong"}
    assert "port" in {one.what for one in findings}
