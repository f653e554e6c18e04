"""The command, against a running service: what it prints, and its exit status."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
        (("evaluate", "missing.safetensors"), "no file"),
        (("report", "job_0"), "job_not_found"),
        (("misclassified", "job_0"), "job_not_found"),
        (("compare", "job_0"), "query/jobs"),
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


def test_what_is_done_already_is_taken_again(numeral: Any) -> None:
    words = ("train", "simulated-wide", "--set", "seed=77", "--set", "steps=20", "--reuse")
    first = json.loads(numeral(*words, "--wait", "--json").stdout)
    again = numeral(*words)
    assert (again.returncode, again.stdout) == (0, f"{first['id']} has done this before: it succeeded\n")
    assert json.loads(numeral(*words, "--wait", "--json").stdout) == first
    assert f"reuses: {first['id']}" in numeral(*words, "--dry-run").stdout
    assert "reuses" not in numeral(*words, "--set", "seed=78", "--dry-run").stdout


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
    assert re.fullmatch("[0-9]\n", numeral("read", picture).stdout)


@pytest.fixture(scope="module")
def digits(service: Service) -> list[str]:
    """Two finished classifiers that differ in their seed."""
    jobs = [service.client.jobs.create({**TINY, "seed": seed}) for seed in (11, 12)]
    assert {service.client.jobs.wait(job.id).state for job in jobs} == {"succeeded"}
    return [job.id for job in jobs]


@pytest.fixture(scope="module")
def curve(service: Service) -> str:
    """A finished regression."""
    job = service.client.jobs.create(
        {"steps": 30, "evaluation": {"every_steps": 10}}, preset="simulated-wide"
    )
    assert service.client.jobs.wait(job.id).state == "succeeded"
    return job.id


def test_a_report_says_how_good_a_classifier_is(numeral: Any, digits: list[str]) -> None:
    as_json = json.loads(numeral("report", digits[0], "--json").stdout)
    shown = numeral("report", digits[0])
    assert shown.returncode == 0, shown.stderr
    test = as_json["parts"]["test"]
    assert f"{test['accuracy']:.2%} ± {test['accuracy_standard_error']:.2%}" in shown.stdout
    for word in ("precision", "recall", "F1", "ROC AUC", "predicted", "calibration"):
        assert word in shown.stdout
    assert str(as_json["confusion_matrix"][0][0]) in shown.stdout


def test_a_report_says_how_good_a_regression_is(numeral: Any, curve: str) -> None:
    as_json = json.loads(numeral("report", curve, "--json").stdout)
    shown = numeral("report", curve).stdout
    assert as_json["task"] == "regression"
    for word in ("rmse", "R²", "published", "#/steps", "distance of the curve from the truth"):
        assert word in shown


def test_the_client_reads_what_the_command_shows(service: Service, digits: list[str], curve: str) -> None:
    client = service.client
    found = client.jobs.curves(curve)
    assert [one["step"] for one in found["curves"]] == [0, 1, 10, 20, 30]
    assert len(found["x"]) == len(found["truth"]) == len(found["curves"][0]["y"]) == 315
    worst = list(client.jobs.misclassified(digits[0], limit=150))  # two pages
    assert [one.loss for one in worst] == sorted((one.loss for one in worst), reverse=True)
    assert len({one.index for one in worst}) == 150
    assert {one.name for one in client.datasets.list()} >= {"mnist", "simulated"}
    assert client.jobs.plot(curve, "fitted", {"steps": [10, 20]}, format="csv").count(b"\n") > 300
    assert client.datasets.preview({"rotation": 10}, count=2, variants=1, format="svg").startswith(b"<?xml")
    assert client.datasets.samples("mnist", count=4).startswith(b"\x89PNG")
    picture = ROOT / "docs" / "images" / "seven.png"
    reading = client.read(picture)
    assert reading.text == "".join(str(digit.label) for digit in reading.digits)
    assert len(reading.digits) == 1
    assert client.read(picture.read_bytes(), model=reading.model) == reading


def test_a_sheet_that_cannot_be_read_is_named(numeral: Any, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    for words, said in (
        (("read", str(tmp_path / "note.png")), "unsupported"),
        (("read", str(tmp_path / "none.png")), "none.png"),
        (("read", str(ROOT / "docs" / "images" / "seven.png"), "--model", "nobody"), "nobody"),
    ):
        ran = numeral(*words)
        assert ran.returncode != 0
        assert said in ran.stderr.lower(), ran.stderr


def test_mistakes_are_listed_worst_first(numeral: Any, digits: list[str]) -> None:
    page = json.loads(numeral("misclassified", digits[0], "--limit", "3", "--json").stdout)
    losses = [mistake["loss"] for mistake in page["data"]]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3
    true, predicted = page["data"][0]["true"], page["data"][0]["predicted"]
    words = ("misclassified", digits[0], "--true", str(true), "--predicted", str(predicted))
    chosen = json.loads(numeral(*words, "--json").stdout)
    assert {(one["true"], one["predicted"]) for one in chosen["data"]} == {(true, predicted)}
    shown = numeral(*words).stdout
    assert f"{losses[0]:.3f}" in shown
    assert f"{len(chosen['data'])} of {chosen['total']}" in shown


def test_jobs_are_compared(numeral: Any, digits: list[str], curve: str) -> None:
    found = json.loads(numeral("compare", *digits, "--json").stdout)
    shown = numeral("compare", *digits).stdout
    assert [row["pointer"] for row in found["differences"]] == ["#/seed"]
    assert "#/seed" in shown
    assert f"{found['tests'][0]['p_value']:.3g}" in shown
    assert "McNemar" in shown
    other = numeral("compare", digits[0], curve)
    assert other.returncode == 0
    assert "not tested against each other" in other.stdout.replace("\n", " ")


def test_a_file_of_weights_is_evaluated_here(
    numeral: Any, service: Service, digits: list[str], tmp_path: Path
) -> None:
    stored = json.loads(numeral("report", digits[0], "--json").stdout)
    checkpoint = service.client.call("GET", f"/v1/jobs/{digits[0]}/checkpoints")["data"][0]
    file = tmp_path / "weights.safetensors"
    file.write_bytes(service.client.fetch("GET", f"/v1/checkpoints/{checkpoint['id']}/download"))
    found = numeral("evaluate", str(file), "--json")
    assert found.returncode == 0, found.stderr
    anew = json.loads(found.stdout)
    for name in ("weights_sha256", "dataset", "confusion_matrix", "step"):
        assert anew[name] == stored[name]
    assert anew["parts"]["test"]["accuracy"] == stored["parts"]["test"]["accuracy"]
    assert "ROC AUC" in numeral("evaluate", str(file)).stdout
    file.write_bytes(b"no weights")
    refused = numeral("evaluate", str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "corrupt_weights" in refused.stderr


@pytest.mark.parametrize(
    ("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".csv", b"series,")]
)
def test_a_plot_is_drawn_into_a_file(
    numeral: Any, digits: list[str], tmp_path: Path, ending: str, magic: bytes
) -> None:
    file = tmp_path / f"loss{ending}"
    for _ in range(2):  # a file that is named is written over
        ran = numeral("plot", digits[0], "loss", "-o", str(file))
        assert ran.returncode == 0, ran.stderr
    assert str(file) in ran.stdout
    assert file.read_bytes().startswith(magic)


def test_series_become_a_run_of_tensorboard(numeral: Any, digits: list[str], tmp_path: Path) -> None:
    told = json.loads(numeral("jobs", "tensorboard", digits[0], str(tmp_path), "--json").stdout)
    file = tmp_path / digits[0] / f"events.out.tfevents.{digits[0]}"
    assert told == {"file": str(file), "bytes": file.stat().st_size}
    loaded = EventAccumulator(str(file.parent))
    loaded.Reload()
    assert {"train_loss", "test_accuracy"} <= set(loaded.Tags()["scalars"])
    assert "job_not_found" in numeral("jobs", "tensorboard", "job_0", str(tmp_path)).stderr
    refused = numeral("jobs", "tensorboard", digits[0], str(file))
    assert refused.returncode == 1
    assert "unwritable_file" in refused.stderr


def test_a_plot_takes_options_and_names_what_it_cannot_do(
    numeral: Any, digits: list[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "mistakes.csv")
    ran = numeral("plot", digits[0], "misclassified", "--set", "limit=2", "-o", file, "--json")
    assert json.loads(ran.stdout)["file"] == file
    refused = numeral("plot", digits[0], "loss", "-o", str(tmp_path / "loss.gif"))
    assert refused.returncode == 1
    assert ".png or .svg or .csv" in refused.stderr
    assert "query/true" in numeral("plot", digits[0], "loss", "--set", "true=4", "-o", file).stderr
    assert "no_such_path" in numeral("plot", digits[0], "../../livez", "-o", file).stderr
    assert "unwritable_file" in numeral("plot", digits[0], "loss", "-o", str(tmp_path / "a" / "b.png")).stderr


def test_a_file_that_was_not_named_is_never_written_over(
    numeral: Any, digits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert numeral("plot", digits[0], "confusion").returncode == 0
    before = (tmp_path / "confusion.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    again = numeral("plot", digits[0], "weights", "-o", "confusion.png")
    assert again.returncode == 0
    weights = (tmp_path / "confusion.png").read_bytes()
    assert weights != before
    refused = numeral("plot", digits[0], "confusion")
    assert refused.returncode == 1
    assert "file_exists" in refused.stderr
    assert (tmp_path / "confusion.png").read_bytes() == weights


def test_an_augmentation_is_previewed(numeral: Any, tmp_path: Path) -> None:
    def drawn(*words: str) -> bytes:
        file = tmp_path / "preview.png"
        ran = numeral("preview", "--set", "rotation=15", "--set", "elastic=1.2", "-o", str(file), *words)
        assert ran.returncode == 0, ran.stderr
        return file.read_bytes()

    first = drawn("--seed", "3")
    assert first.startswith(b"\x89PNG")
    assert drawn("--seed", "3") == first
    assert drawn("--seed", "4") != first
    refused = numeral("preview", "--set", "rotation=1000", "-o", str(tmp_path / "x.png"))
    assert refused.returncode == 1
    assert "rotation" in refused.stderr


def test_presets_and_datasets_are_listed(numeral: Any, tmp_path: Path) -> None:
    shown = numeral("presets").stdout
    for said in ("slp-200", "25,450", "test accuracy 92.39%"):
        assert said in shown
    assert json.loads(numeral("presets", "--json").stdout)[0]["published"]
    listed = numeral("data", "list").stdout
    assert "mnist" in listed
    assert "simulated" in listed
    file = tmp_path / "mnist.png"
    assert numeral("data", "samples", "mnist", "-o", str(file)).returncode == 0
    assert file.read_bytes().startswith(b"\x89PNG")


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
