"""The operating guide's commands, run as they are written; and the site, whose every link leads somewhere."""

import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from service.store import schema
from service.store.database import Database
from tests.deploy.files import ROOT, written

GUIDE = ROOT / "docs" / "deployment.md"
BIN = Path(sys.executable).parent
BLOCKS = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def words_of(line: str) -> list[str]:
    """Without the variables before it."""
    words = shlex.split(line)
    while "=" in words[0]:
        words.pop(0)
    return words


ENGINES = [words for line in COMMANDS if (words := words_of(line))[0] in ("docker", "kubectl")]
OURS = [block for block in BLOCKS if words_of(block.splitlines()[0])[0] not in ("docker", "kubectl")]
VALUED = ("--profile", "--scale", "--file")


@pytest.fixture
def databases(postgres_url: str) -> Iterator[tuple[str, str]]:
    """A PostgreSQL database in use, and an empty one beside it."""
    db = Database(postgres_url)
    schema.migrate(db)
    db.close()
    url = make_url(postgres_url).set(drivername="postgresql")
    there = url.set(database=f"numeral_test_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{there.database}"')
        try:
            yield url.render_as_string(hide_password=False), there.render_as_string(hide_password=False)
        finally:
            server.execute(f'DROP DATABASE "{there.database}" WITH (FORCE)')


def test_the_guide_runs_as_it_is_written(databases: tuple[str, str], tmp_path: Path) -> None:
    assert len(OURS) >= 6
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DATABASE": databases[0],
        "RESTORED": databases[1],
    }
    for block in OURS:
        ran = subprocess.run(
            ["sh", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"
    assert (tmp_path / "restored" / "numeral.db").is_file()
    restored = Database(databases[1].replace("postgresql:", "postgresql+psycopg:"))
    assert schema.version(restored) == schema.head()
    restored.close()


@pytest.mark.parametrize("words", ENGINES, ids=" ".join)
def test_what_engines_are_told_is_there(words: list[str]) -> None:
    if words[0] == "kubectl":
        for folder in [word for word in words if word.startswith("deploy/")]:
            assert (ROOT / folder / "kustomization.yaml").is_file()
        return
    options = dict(pairwise(words))
    file = written(options.get("--file", "docker-compose.yml"))
    services = file["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert words[1] == "compose"
    if "--profile" in options:
        assert options["--profile"] in profiles
    if "--scale" in options:
        assert options["--scale"].partition("=")[0] in services
    verb = next(index for index, word in enumerate(words) if word in ("up", "ps", "exec", "build", "run"))
    named = [
        word for before, word in pairwise(words[verb:]) if not word.startswith("-") and before not in VALUED
    ]
    if words[verb] == "exec":
        named = named[:1]
    assert set(named) <= set(services)


def test_the_site_has_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            BIN / "mkdocs",
            "build",
            "--quiet",
            "--strict",
            "--config-file",
            ".mkdocs.yml",
            "--site-dir",
            tmp_path / "site",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "POST /v1/jobs" in reference
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', reference)
    assert fetched == [], "nothing is fetched from elsewhere when it is read"
