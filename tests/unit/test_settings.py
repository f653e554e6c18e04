"""Settings are checked at start, and each mistake names its variable."""

from pathlib import Path

import pytest

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


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_BROKER_URL", "")
    assert settings.load().broker_url is None
