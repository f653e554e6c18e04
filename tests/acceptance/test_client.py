"""The client and the command against a running service: each example of their docs, and a server that is started anew in
the middle."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.client import AsyncClient, Client, TimedOut
from tests.acceptance.conftest import Service, free_port, running, until
from tests.acceptance.test_main_job import SMALL
from tests.unit.halves import HALVES, connected

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "#!{python}\nfrom service.cli import main\n\nmain()\n"  # as an installer writes it


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
def shell(service: Service, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has `numeral` on the path and the docs' pictures in the folder."""
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    programs = tmp_path / "bin"
    programs.mkdir()
    numeral = programs / "numeral"
    numeral.write_text(PROGRAM.format(python=sys.executable))
    numeral.chmod(0o755)
    return {
        **service.environment,
        "NUMERAL_URL": service.url,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }


def blocks(page: str, language: str) -> str:
    """The examples of a page of the docs, one after the other."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL))


def test_every_example_of_the_client_runs_as_written(shell: dict[str, str], tmp_path: Path) -> None:
    """In order, in one program."""
    program = tmp_path / "program.py"
    program.write_text(blocks("client.md", "python"))
    assert blocks("../README.md", "python") in program.read_text()
    assert program.read_text().count("client.") > 20
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    said = ran.stdout.splitlines()
    assert said[1] == "7"
    for line in (
        "[7, 2]",
        "2000",
        "succeeded {'total': 2000",
        "True",
        "['succeeded', 'succeeded']",
        "2002 7",
    ):
        assert any(line in one for one in said), line
    assert said[-1] == "#/spec/network/hidden_widths/1"
    assert (tmp_path / "champion.safetensors").stat().st_size > 100_000
    assert not list(tmp_path.glob("*.part"))


def test_every_example_of_the_command_runs_as_written(shell: dict[str, str], tmp_path: Path) -> None:
    """In order, in one shell."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks("command.md", "sh")],
        cwd=tmp_path, env=shell | {"COLUMNS": "100"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    assert f"{shell['NUMERAL_URL']}/jobs\n" in ran.stdout
    assert json.loads((tmp_path / "answer.json").read_text())["predictions"][0]["label"] == 7
    points = json.loads((tmp_path / "points.json").read_text())
    assert {point["name"] for point in points} >= {"train_loss", "test_loss"}
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    assert "⠀" in ran.stdout  # of a curve
    assert re.search("[░▒▓]{2}.*  3 .*%", ran.stdout)  # half a digit, and how likely a three is
    assert "\x1b[" not in ran.stdout + ran.stderr
    assert "complete" in (tmp_path / "numeral.bash").read_text()


def test_the_shell_completes_names(shell: dict[str, str], service: Service, tmp_path: Path) -> None:
    job = service.client.jobs.create({**SMALL, "epochs": 1})

    def completed(*words: str, **variables: str) -> list[str]:
        asked = {
            "_NUMERAL_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        ran = subprocess.run(
            ["numeral"],
            env=shell | asked | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.stderr == ""
        return ran.stdout.split()

    assert completed("numeral", "train", "slp-2") == ["slp-200"]
    assert job.id in completed("numeral", "jobs", "watch", "job_")
    assert completed("numeral", "predict", "--model", "lat") == ["latest"]
    assert completed("numeral", "jobs", "watch", "job_", NUMERAL_URL="http://127.0.0.1:9") == []
    service.client.jobs.wait(job.id)  # it is a short one, and leaves the worker to the next test


@pytest.mark.parametrize("half", HALVES)
def test_waiting_ends_in_time(half: str, service: Service) -> None:
    job = service.client.jobs.create({**SMALL, "epochs": 100_000})
    try:
        with connected(half, service.url) as client:
            began = time.monotonic()
            with pytest.raises(TimedOut, match=job.id):
                client.jobs.wait(job.id, timeout=1.5)
            assert 1.5 <= time.monotonic() - began < 4
            assert not client.jobs.get(job.id).ended
    finally:
        service.client.jobs.cancel(job.id)


def test_a_server_that_is_started_anew_in_the_middle_is_outlasted(tmp_path: Path) -> None:
    """By whoever waits and by whoever follows, blocking and awaiting, all of one job."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    steps: list[int | None] = []

    def waited(job_id: str) -> Any:
        with Client(url) as client:
            return client.jobs.wait(job_id, on_progress=lambda progress: steps.append(progress.step))

    def followed(job_id: str) -> list[int]:
        with Client(url) as client:
            return [event.seq for event in client.jobs.events(job_id)]

    async def awaited(job_id: str) -> tuple[Any, list[int]]:
        async def follow() -> list[int]:
            return [event.seq async for event in client.jobs.events(job_id)]

        async with AsyncClient(url) as client:
            return await asyncio.gather(client.jobs.wait(job_id), follow())

    with ThreadPoolExecutor(3) as threads:
        with running(tmp_path, NUMERAL_PORT=port) as service:
            job = service.start(SMALL, at_step=300)
            ends = [threads.submit(waited, job.id), threads.submit(followed, job.id)]
            both = threads.submit(asyncio.run, awaited(job.id))
            until(lambda: steps, "somebody follows")
        before = len(steps)
        with running(tmp_path, NUMERAL_PORT=port) as service:
            blocking, seen = ends[0].result(120), ends[1].result(120)
            awaiting, seen_too = both.result(120)
            page = service.client.call("GET", f"/v1/jobs/{job.id}/events", params={"limit": 1000})["data"]
    assert blocking.state == awaiting.state == "succeeded"
    assert blocking.as_told() == awaiting.as_told()
    assert len(steps) > before
    assert seen == seen_too == [event["seq"] for event in page] == list(range(1, len(page) + 1))
