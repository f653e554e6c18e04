"""Settings are checked at start, and each mistake names its variable."""

import traceback
from pathlib import Path

import pytest
from sqlalchemy import make_url

from service import settings
from service.settings import SettingsError


def test_the_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMERAL_DATA_DIR", raising=False)
    loaded = settings.load()
    assert loaded.home == Path("~/.numeral").expanduser()
    assert loaded.database == f"sqlite:///{loaded.home / 'numeral.db'}"
    assert loaded.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUMERAL_PROT", "1"),
        ("NUMERAL_PORT", "70000"),
        ("NUMERAL_PORT", "http"),
        ("NUMERAL_WORKERS", "0"),
        ("NUMERAL_DEVICE", "tpu"),
        ("NUMERAL_LEASE_SECONDS", "nan"),
        ("NUMERAL_LOG_LEVEL", "loud"),
        ("NUMERAL_AUTH", "maybe"),
        ("NUMERAL_REQUESTS_PER_MINUTE", "0"),
        ("NUMERAL_TRUSTED_HOSTS", "https://lab.example"),
        ("NUMERAL_TRUSTED_HOSTS", "lab.example:8000"),
        ("NUMERAL_CORS_ORIGINS", "lab.example"),
        ("NUMERAL_CORS_ORIGINS", "https://lab.example/page"),
    ],
)
def test_a_mistake_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        settings.load()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_DATABASE_URL", "postgresql+psycopg://u:hunter2@h/d")
    loaded = settings.load()
    assert "hunter2" in loaded.database
    assert "hunter2" not in repr(loaded)
    monkeypatch.setenv("NUMERAL_PORT", "x")
    with pytest.raises(SettingsError) as refusal:
        settings.load()
    assert "hunter2" not in str(refusal.value)
    monkeypatch.setenv("NUMERAL_DATABASE_URL", "mysql://u:hunter2@h/d")
    with pytest.raises(SettingsError) as refusal:
        settings.load()
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


def test_lists_have_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_TRUSTED_HOSTS", "lab.Example, *.lab.example,")
    monkeypatch.setenv("NUMERAL_CORS_ORIGINS", "https://lab.example:8443,http://[::1]:3000")
    loaded = settings.load()
    assert loaded.trusted_hosts == ("lab.example", "*.lab.example")
    assert loaded.cors_origins == ("https://lab.example:8443", "http://[::1]:3000")


@pytest.mark.parametrize(
    ("host", "auth", "requires"),
    [
        ("127.0.0.1", "auto", False),
        ("127.8.8.8", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("0.0.0.0", "auto", True),  # noqa: S104
        ("::", "auto", True),
        ("", "auto", False),
        ("192.0.2.1", "auto", True),
        ("lab.example", "auto", True),
        ("192.0.2.1", "off", False),
        ("127.0.0.1", "on", True),
    ],
)
def test_where_a_key_is_needed(monkeypatch: pytest.MonkeyPatch, host: str, auth: str, requires: bool) -> None:
    monkeypatch.setenv("NUMERAL_HOST", host)
    monkeypatch.setenv("NUMERAL_AUTH", auth)
    assert settings.load().requires_key is requires


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_BROKER_URL", "")
    assert settings.load().broker_url is None


def test_a_password_comes_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    monkeypatch.setenv("NUMERAL_DATABASE_URL", "postgresql+psycopg://numeral@db.example:5433/numeral")
    monkeypatch.setenv("NUMERAL_DATABASE_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("NUMERAL_BROKER_URL", "rediss://broker.example/1")
    monkeypatch.setenv("NUMERAL_BROKER_PASSWORD_FILE", str(secret))
    loaded = settings.load()
    assert loaded.database == "postgresql+psycopg://numeral:p%40ss%2Fword@db.example:5433/numeral"
    assert make_url(loaded.database).password == "p@ss/word"  # noqa: S105
    assert loaded.broker_url is not None
    assert loaded.broker_url.get_secret_value() == "rediss://:p%40ss%2Fword@broker.example/1"
    assert "p@ss" not in repr(loaded)


@pytest.mark.parametrize(
    ("url", "held", "told"),
    [
        ("postgresql+psycopg://numeral@h/d", None, "cannot be read"),
        ("postgresql+psycopg://numeral@h/d", " \n", "is empty"),
        ("postgresql+psycopg://numeral:hunter2@h/d", "other", "remove one"),
        ("", "other", "NUMERAL_DATABASE_URL is not"),
    ],
)
def test_a_password_file_that_cannot_be_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, held: str | None, told: str
) -> None:
    if held is not None:
        (tmp_path / "password").write_text(held)
    monkeypatch.setenv("NUMERAL_DATABASE_URL", url)
    monkeypatch.setenv("NUMERAL_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(SettingsError, match=told) as refusal:
        settings.load()
    assert "hunter2" not in str(refusal.value)
