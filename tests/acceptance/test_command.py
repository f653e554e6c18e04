"""The command, against a running service: what it prints, and its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Service, running, until

ROOT = Path(__file__).parent.parent.parent
TINY = {"dataset": {"name": "mnist", "examples": 500}, "epochs": 1}
LONG = {"dataset": {"name": "mnist", "examples": 500}, "epochs": 1_000_000}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
def numeral(service: Service) -> Any:
    """Run the command; returns the finished process."""

    def run(*words: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**service.environment, "NUMERAL_URL": service.url, "COLUMNS": "200", **variables}
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_train_a_preset_with_a_change_and_wait(numeral: Any) -> None:
    ran = numeral("train", "simulated-wide", "--set", "seed=3", "--set", "steps=50", "--wait", "--json")
    job = json.loads(ran.stdout)
    assert (ran.returncode, job["state"]) == (0, "succeeded")
    assert (job["preset"], job["spec"]["seed"], job["spec"]["steps"]) == ("simulated-wide", 3, 50)
    assert "running" in ran.stderr


def test_train_a_file_and_standard_input(numeral: Any, tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "spec.json", tmp_path / "spec.toml"
    as_json.write_text(json.dumps(TINY))
    as_toml.write_text('epochs = 1\n[dataset]\nname = "mnist"\nexamples = 500\n')
    jobs = [
        json.loads(numeral("train", *words, "--json", stdin=stdin).stdout)
        for words, stdin in (((str(as_json),), ""), ((str(as_toml),), ""), (("-",), json.dumps(TINY)))
    ]
    assert len({json.dumps(job["spec"]) for job in jobs}) == 1


def test_a_file_may_hold_a_whole_request(numeral: Any, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(
        json.dumps({"preset": "slp-200", "spec": TINY | {"steps": None}, "metadata": {"a": 1}, "priority": 2})
    )
    job = json.loads(numeral("train", str(file), "--set", "seed=3", "--priority", "3", "--json").stdout)
    assert (job["preset"], job["spec"]["seed"], job["spec"]["epochs"]) == ("slp-200", 3, 1)
    assert (job["metadata"], job["priority"]) == ({"a": 1}, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"preset": "slp-200", "seed": 3}', "'seed' beside preset: put it into spec"),
        ('{"preset": "slp-200", "spec": 5}', "must be an object"),
        ('{"metadata": {"a": []}}', "#/metadata"),
        ("[]", "one object"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_request(numeral: Any, text: str, said: str) -> None:
    ran = numeral("train", "-", stdin=text)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_file_that_is_no_text(numeral: Any, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_bytes(b"\xff")
    assert "malformed_spec" in numeral("train", str(file)).stderr


def test_an_id_can_be_copied_from_a_narrow_list(numeral: Any) -> None:
    job = json.loads(numeral("train", "simulated-wide", "--set", "steps=5", "--wait", "--json").stdout)
    assert job["id"] in numeral("jobs", "list", COLUMNS="80").stdout
    models = json.loads(numeral("models", "list", "--json").stdout)["models"]
    assert models[0]["id"] in numeral("models", "list", COLUMNS="80").stdout


def test_train_that_fails_says_why_and_returns_1(numeral: Any) -> None:
    spec = json.dumps(
        {**TINY, "epochs": 5, "optimizer": {"name": "sgd", "learning_rate": 1000.0}, "loss": "mse"}
    )
    ran = numeral("train", "-", "--wait", stdin=spec)
    assert ran.returncode == 1
    assert "learning_rate" in ran.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "slp-200", "--set", "netwrok.hidden_widths=[3]"), "#/spec/netwrok"),
        (("train", "slp-200", "--set", "seed"), "field=value"),
        (("train", "slp-200", "--set", "a=2", "--set", "a.b=1"), "a is set to a value too"),
        (("train", "no-such-preset"), "unknown_preset"),
        (("train", "missing.json"), "no file"),
        (("jobs", "show", "job_0"), "job_not_found"),
        (("jobs", "show", "../models"), "no_such_path"),
        (("models", "promote", "nobody"), "model_not_found"),
        (("models", "rollback", "nobody"), "alias_not_found"),
        (("models", "promote", "latest", "--as", "A B"), "^[a-z0-9][a-z0-9._-]{0,62}$"),
        (("predict", "missing.png"), "no file"),
        (("data", "fetch", "cifar"), "no_such_dataset"),
        (("jobs", "list", "--url", "http://127.0.0.1:9"), "Is it running?"),
    ],
)
def test_mistakes_are_named(numeral: Any, words: tuple[str, ...], said: str) -> None:
    ran = numeral(*words)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr


def test_a_dry_run_leaves_no_trace(numeral: Any) -> None:
    before = numeral("jobs", "list", "--json").stdout
    answer = json.loads(numeral("train", "slp-200", "--dry-run", "--json").stdout)
    assert (answer["parameter_count"], answer["steps"]) == (25_450, 200)
    assert numeral("jobs", "list", "--json").stdout == before


def test_jobs_are_steered(numeral: Any) -> None:
    job_id = json.loads(numeral("train", "-", "--json", stdin=json.dumps(LONG)).stdout)["id"]

    def state() -> str:
        return str(json.loads(numeral("jobs", "show", job_id, "--json").stdout)["state"])

    until(lambda: state() == "running", "it runs")
    assert numeral("jobs", "pause", job_id).returncode == 0
    until(lambda: state() == "paused", "it is paused")
    assert numeral("jobs", "resume", job_id).returncode == 0
    until(lambda: state() == "running", "it runs again")
    assert job_id in numeral("jobs", "list", "--state", "running").stdout
    assert numeral("jobs", "cancel", job_id).returncode == 0
    watched = numeral("jobs", "watch", job_id)
    assert watched.returncode == 1
    assert "cancelled" in watched.stdout
    again = numeral("jobs", "pause", job_id)
    assert again.returncode == 1
    assert "illegal_transition" in again.stderr


def test_models_are_promoted_and_read_digits(numeral: Any) -> None:
    for seed in (1, 2):
        ran = numeral("train", "-", "--set", f"seed={seed}", "--wait", stdin=json.dumps(TINY))
        assert ran.returncode == 0, ran.stderr
    listed = json.loads(numeral("models", "list", "--json").stdout)["models"]
    newest, older = listed[0]["id"], listed[1]["id"]
    assert numeral("models", "promote", older, "--as", "best").returncode == 0
    assert numeral("models", "promote", newest, "--as", "best").returncode == 0
    assert json.loads(numeral("models", "rollback", "best", "--json").stdout)["model"] == older
    assert "best" in numeral("models", "list").stdout

    picture = str(ROOT / "docs" / "images" / "seven.png")
    answer = json.loads(numeral("predict", picture, picture, "--model", "best", "--json").stdout)
    assert answer["model"] == older
    assert [digit["label"] for digit in answer["predictions"]] == [7, 7]
    assert "%" in numeral("predict", picture).stdout


def test_doctor_finds_a_sound_service_and_names_what_is_wrong(numeral: Any, service: Service) -> None:
    sound = numeral("doctor", "--json")
    assert sound.returncode == 0, sound.stdout
    findings = {finding["what"]: finding for finding in json.loads(sound.stdout)}
    assert findings["workers"]["level"] == "ok"
    assert {finding["level"] for finding in findings.values()} == {"ok"}
    wrong = numeral("doctor", NUMERAL_BROKER_URL="redis://127.0.0.1:9/0")
    assert wrong.returncode == 1
    assert "NUMERAL_BROKER_URL" in wrong.stdout
    misspelt = numeral("doctor", NUMERAL_HOMME="x")
    assert misspelt.returncode == 1
    assert "NUMERAL_HOMME" in misspelt.stdout


def test_migrate_says_what_it_did(numeral: Any, tmp_path: Path) -> None:
    first = json.loads(numeral("migrate", "--json", NUMERAL_HOME=str(tmp_path)).stdout)
    second = json.loads(numeral("migrate", "--json", NUMERAL_HOME=str(tmp_path)).stdout)
    assert first["before"] is None
    assert second == {"before": first["after"], "after": first["after"]}


def test_a_wrong_setting_stops_each_process_with_a_sentence(numeral: Any) -> None:
    for command in ("serve", "worker", "up", "migrate"):
        ran = numeral(command, NUMERAL_PORT="70000")
        assert ran.returncode == 1, command
        assert "NUMERAL_PORT: Input should be less than or equal to 65535" in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("url", ["bogus", "mysql://host/numeral", "postgresql://host/numeral"])
def test_a_database_of_another_kind_is_refused(numeral: Any, url: str) -> None:
    ran = numeral("migrate", NUMERAL_DATABASE_URL=url)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "NUMERAL_DATABASE_URL" in ran.stderr
    assert "postgresql+psycopg://" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_wrong_usage_returns_2(numeral: Any) -> None:
    assert numeral("trian").returncode == 2
    assert os.linesep in numeral("--help").stdout
