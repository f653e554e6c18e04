"""The first key: from a file, or made by the command; without one a server that asks for keys does not start."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.keys import Secret
from service.running import admin_key
from service.settings import Settings, SettingsError
from service.store import keys
from service.store.database import Database
from tests.integration.conftest import serving
from tests.integration.test_api_access import bearer, database


def test_a_file_is_made_for_its_owner_and_read_from_then_on(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    settings = Settings(home=tmp_path, auth="on", admin_key_file=file)
    admin_key.ready(settings, db)
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    admin_key.ready(settings, db)
    assert file.read_text() == text
    secret = Secret.parse(text.strip())
    assert secret is not None
    assert keys.verified(db, secret).scopes == ("admin",)
    assert len(keys.page(db, limit=10)[0]) == 1


def test_another_key_in_the_file_takes_the_place_of_the_first(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    settings = Settings(home=tmp_path, auth="on", admin_key_file=file)
    made = Secret.new()
    keys.create(db, made, name="by hand", scopes=["admin"])
    first, second = Secret.new(), Secret.new()
    for secret in (first, second):
        file.write_text(secret.text)
        admin_key.ready(settings, db)
    states = {key.id: key.state for key in keys.page(db, limit=10)[0]}
    assert states == {first.id: "revoked", second.id: "good", made.id: "good"}
    file.write_text(first.text)
    with pytest.raises(SettingsError, match="is revoked or expired; remove the file"):
        admin_key.ready(settings, db)
    assert keys.get(db, second.id).state == "good"


@pytest.mark.parametrize("content", [b"", b"hunter2", b"\xff\xfe", b"num_aaaaaaaa_" + b"a" * 5000])
def test_a_file_with_something_else_is_refused_and_not_told(
    db: Database, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "admin.key"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="NUMERAL_ADMIN_KEY_FILE") as refusal:
        admin_key.ready(Settings(home=tmp_path, auth="on", admin_key_file=file), db)
    assert "hunter2" not in str(refusal.value)


def test_a_folder_that_is_not_there(db: Database, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, auth="on", admin_key_file=tmp_path / "none" / "admin.key")
    with pytest.raises(SettingsError, match="cannot be read or made"):
        admin_key.ready(settings, db)


def test_without_any_key_the_remedies_are_named(db: Database, tmp_path: Path) -> None:
    admin_key.ready(Settings(home=tmp_path), db)  # on loopback none is needed
    elsewhere = Settings(home=tmp_path, host="192.0.2.1")
    with pytest.raises(SettingsError) as refusal:
        admin_key.ready(elsewhere, db)
    for word in (
        "NUMERAL_HOST is 192.0.2.1",
        "numeral keys create",
        "NUMERAL_ADMIN_KEY_FILE",
        "NUMERAL_AUTH=off",
    ):
        assert word in str(refusal.value)
    keys.create(db, Secret.new(), name="reader", scopes=["read"])
    keys.create(db, gone := Secret.new(), name="gone", scopes=["admin"])
    keys.revoke(db, gone.id)
    with pytest.raises(SettingsError):
        admin_key.ready(elsewhere, db)
    keys.create(db, Secret.new(), name="admin", scopes=["read", "admin"])
    admin_key.ready(elsewhere, db)


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_server_elsewhere_does_not_start_without_a_key(tmp_path: Path, command: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "NUMERAL_HOME": str(tmp_path),
        "NUMERAL_HOST": "0.0.0.0",  # noqa: S104 - refused before it listens
        "NUMERAL_PORT": "0",
    }
    told = subprocess.run(
        [sys.executable, "-m", "service.cli", command],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert told.returncode == 1
    assert "bad_settings: NUMERAL_HOST is 0.0.0.0" in told.stderr
    assert "NUMERAL_AUTH=off" in told.stderr
    assert "Traceback" not in told.stderr


def numeral(home: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["keys", *words], env={"NUMERAL_HOME": str(home)})


def test_the_command_makes_lists_and_revokes(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    ran = numeral(tmp_path, "create", "me", "--scope", "read", "--scope", "admin", "--days", "1", "--json")
    assert ran.exit_code == 0, ran.output
    made = json.loads(ran.stdout)
    assert made["scopes"] == ["admin", "read"]
    plain = numeral(tmp_path, "create", "scanner", "--scope", "predict")
    assert Secret.parse(plain.stdout.strip()) is not None  # to be piped into a file
    assert "not shown again" in plain.stderr
    listed = numeral(tmp_path, "list", "--json")
    assert {key["name"] for key in json.loads(listed.stdout)} == {"me", "scanner"}
    assert made["key"] not in listed.output
    assert made["id"] in numeral(tmp_path, "list").stdout
    with serving(settings_for(tmp_path, auth="on")) as live:
        assert live.http.get("/v1/keys", headers=bearer(made["key"])).status_code == 200
        assert numeral(tmp_path, "revoke", made["key"]).stdout == f"{made['id']} (me) is revoked\n"
        with database(live.settings) as db:
            assert keys.get(db, made["id"]).state == "revoked"
    assert numeral(tmp_path, "create", "x", "--scope", "root").exit_code == 1
    assert numeral(tmp_path, "revoke", "num_aaaaaaaa").exit_code == 1
