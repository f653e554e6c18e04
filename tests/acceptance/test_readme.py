"""The README is true: its curls run as written, its generated parts are those of the code, and it names
every command."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import app
from tests.acceptance.conftest import Service, running

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "home") as started:
        yield started


def test_every_curl_runs_as_written(service: Service, tmp_path: Path) -> None:
    """In order, in one shell, in a folder with the README's pictures, and those of docs/feedback.md after them; only the
    port is the test's own."""
    text = README + (ROOT / "docs" / "feedback.md").read_text()
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "curl" in block]
    script = "\n".join(blocks).replace("http://127.0.0.1:8000", service.url)
    assert script.count("curl -s") >= 12
    script = script.replace("curl -s", "curl --fail-with-body -s")
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    answers = re.findall(r'"label":(\d)', ran.stdout)
    assert answers == ["7", "7", "2", "7", "2", "2", "7", "2", "2", "2", "2"]
    assert "event: end" in ran.stdout
    assert '"passed":true' in ran.stdout
    assert (tmp_path / "model.safetensors").stat().st_size > 100_000


def test_the_generated_parts_are_up_to_date() -> None:
    checked = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=False)
    assert checked.returncode == 0, "run python docs/generate.py"


def test_every_command_is_in_the_readme() -> None:
    commands = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if command.callback
    }
    commands |= {str(group.name) for group in app.registered_groups}
    commands -= {"demo"}  # which is `make demo`
    assert {"up", "train", "jobs", "doctor"} <= commands
    for command in commands:
        assert f"`{command}`" in README or f"numeral {command}" in README, command
