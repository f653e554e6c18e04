"""The text of keys, what is hidden in logs, buckets, and the names under which a server answers."""

import logging
from pathlib import Path

import pytest

from service.api.guards.origins import Names
from service.api.guards.rates import WINDOW, RateLimited, Rates, network_of
from service.keys import Secret
from service.observing import logs
from service.observing.redaction import redacted
from service.settings import Settings


def test_a_key_has_256_random_bits_and_shows_itself_to_nobody() -> None:
    made = [Secret.new() for _ in range(100)]
    assert len({one.text for one in made}) == 100
    for one in made:
        name, bits = one.text[:12], one.text[13:]
        assert one.id == name
        assert len(bits) == 43  # of 6 bits each
        assert Secret.parse(one.text) == one
        assert bits not in repr(one)
        assert len(one.digest) == 32


@pytest.mark.parametrize(
    "text", ["", "num_", "num_aaaaaaaa", "num_aaaaaaaa_" + "x" * 42, "num_AAAAAAAA_" + "x" * 43]
)
def test_what_is_no_key(text: str) -> None:
    assert Secret.parse(text) is None
    assert Secret.parse(Secret.new().text + "\n") is None


@pytest.mark.parametrize(
    ("told", "hidden"),
    [
        ("postgresql+psycopg://u:hunter2@db/numeral", "postgresql+psycopg://u:***@db/numeral"),
        ("connect to redis://:hunt/er@2@redis:6379/0 failed", "connect to redis://:***@redis:6379/0 failed"),
        (
            "postgresql://db/numeral?user=u&password=hunter2&x=1",
            "postgresql://db/numeral?user=u&password=***&x=1",
        ),
        ("Bearer num_k3xq7d2m_" + "a" * 43, "Bearer num_k3xq7d2m_***"),
        ("http://127.0.0.1:8000/v1/jobs", "http://127.0.0.1:8000/v1/jobs"),
        ("redis://redis:6379/0 and somebody@example.org", "redis://redis:6379/0 and somebody@example.org"),
    ],
)
def test_secrets_are_taken_out(told: str, hidden: str) -> None:
    assert redacted(told) == hidden


def test_logs_hide_what_libraries_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure(Settings(home=tmp_path), "test")
        secret = Secret.new()
        logging.getLogger("kombu").error("cannot connect to %s", "redis://:hunter2@redis:6379/0")
        try:
            raise ValueError(f"sent {secret.text}")
        except ValueError:
            logging.getLogger("other").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    said = capsys.readouterr().err
    assert "redis://:***@redis:6379/0" in said
    assert f"sent {secret.id}_***" in said
    assert secret.text not in said
    assert "hunter2" not in said


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_a_minute_and_fills_evenly() -> None:
    clock = Clock()
    rates = Rates(1, clock)
    shares = [rates.take("a", 6) for _ in range(6)]
    assert [share.left for share in shares] == [5, 4, 3, 2, 1, 0]
    assert [share.full_in for share in shares] == [10, 20, 30, 40, 50, 60]
    assert rates.is_empty("a", 6)
    with pytest.raises(RateLimited) as refusal:
        rates.take("a", 6)
    assert refusal.value.headers == {"Retry-After": "10"}
    assert dict(refusal.value.share.headers)[b"ratelimit"] == b'"minute";r=0;t=60'
    assert rates.take("b", 6).left == 5
    clock.now += 10
    assert not rates.is_empty("a", 6)
    assert rates.take("a", 6).left == 0
    clock.now += 2 * WINDOW
    assert rates.take("a", 6).left == 5


def test_processes_share_a_limit() -> None:
    assert Rates(4, Clock()).take("a", 100).headers == [
        (b"ratelimit-policy", b'"minute";q=25;w=60'),
        (b"ratelimit", b'"minute";r=24;t=3'),
    ]
    assert Rates(4, Clock()).take("a", 1).limit == 1


def test_what_counts_as_one_client() -> None:
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("") == ""


@pytest.mark.parametrize(
    ("host", "trusted", "asked", "has"),
    [
        ("127.0.0.1", None, "127.0.0.1:8000", True),
        ("127.0.0.1", None, "localhost", True),
        ("127.0.0.1", None, "app.localhost:80", True),
        ("127.0.0.1", None, "[::1]:8000", True),
        ("127.0.0.1", None, "", True),
        ("127.0.0.1", None, "evil.example:8000", False),
        ("127.0.0.1", None, "localhost.evil.example", False),
        ("127.0.0.1", ("lab.example",), "LAB.example:8000", True),
        ("0.0.0.0", None, "anything.example", True),  # noqa: S104
        ("0.0.0.0", ("*.example",), "lab.example", True),  # noqa: S104
        ("0.0.0.0", ("*.example",), "example", False),  # noqa: S104
        ("0.0.0.0", ("lab.example",), "other.example", False),  # noqa: S104
        ("0.0.0.0", ("lab.example",), "127.0.0.1:8000", True),  # noqa: S104
        ("0.0.0.0", ("[2001:db8::1]",), "[2001:db8::1]:443", True),  # noqa: S104
    ],
)
def test_names(tmp_path: Path, host: str, trusted: tuple[str, ...] | None, asked: str, has: bool) -> None:
    assert Names(Settings(home=tmp_path, host=host, trusted_hosts=trusted)).has(asked) is has
