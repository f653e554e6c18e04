"""The command without a server: what it loads, what it refuses by itself, and how it shows what is null."""

import base64
import io
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from PIL import Image
from rich.console import Console, Group
from typer.testing import CliRunner

from service.cli import app, completion, curves, jobs, processes, sweeps, tables, terminal
from service.cli.terminal import figure
from service.client import Client, Job, Member, Point, Sweep
from service.store import schema, workers
from service.store.database import Database

HEAVY = (
    "torch",
    "numpy",
    "sqlalchemy",
    "fastapi",
    "celery",
    "matplotlib",
    "service.spec",
    "service.settings",
)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words)


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """Let every command ask this instead of a server."""
    monkeypatch.setattr(terminal, "Client", partial(Client, transport=httpx.MockTransport(answer)))


def shown(found: dict[str, Any], of: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(Group(*of(found)))
    return capture.get()


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, service.cli; sys.exit(str([name for name in {HEAVY} if name in sys.modules] or ''))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""


@pytest.mark.parametrize(("steps", "text"), [(None, "0/?"), (12_000, "0/12,000")])
def test_the_steps_of_a_job_may_be_unknown(steps: int | None, text: str) -> None:
    job = Job.model_validate(
        {
            "id": "job_0",
            "state": "running",
            "parameter_count": 7850,
            "attempt": 1,
            "created_at": "2024-01-01T00:00:00Z",
            "progress": {"step": 0, "steps": steps},
        }
    )
    assert jobs._steps(job) == text


def test_presets_say_how_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"title": "", "parameter_count": 7850, "published": {}}
    found = [
        {"name": "a", "steps": None, "spec": {"budget_seconds": 60.0}, **common},
        {"name": "b", "steps": 2000, "spec": {"budget_seconds": None}, **common},
    ]
    page = {"data": found, "has_more": False, "next": None}
    answering(monkeypatch, lambda _: httpx.Response(200, json=page))
    said = run("presets").stdout
    assert "7,850 parameters, 60 seconds" in said
    assert "7,850 parameters, 2,000 steps" in said


def test_evaluate_without_pytorch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = run("evaluate", str(file))
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "no_torch" in ran.stderr
    assert "numeral[train]" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plot", "job_0", "loss", "-o", "loss.gif"), "unknown_format"),
        (("plot", "job_0", "loss"), "file_exists"),
        (("preview", "--set", "rotation", "-o", "a.png"), "malformed_change"),
        (("data", "samples", "mnist", "-o", "mnist"), "unknown_format"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_server_is_asked(
    words: tuple[str, ...], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loss.png").write_bytes(b"mine")
    ran = run(*words, "--url", "http://127.0.0.1:9")
    assert ran.exit_code == 1
    assert ran.stderr.startswith(f"{code}:")
    assert Path("loss.png").read_bytes() == b"mine"


def test_options_of_a_picture_are_the_servers_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(422, json={"code": "invalid_parameter", "detail": "no such parameter"})

    answering(monkeypatch, refuse)
    file = tmp_path / "loss.png"
    words = ("--set", "format=csv", "--set", "name=x", "--set", "job_id=y", "--set", "log=true")
    ran = run("plot", "job_0", "loss", *words, "-o", str(file))
    assert ran.exit_code == 1
    assert ran.stderr.startswith("invalid_parameter: ")
    (request,) = asked
    assert request.url.path == "/v1/jobs/job_0/plots/loss.png"
    assert dict(request.url.params) == {"format": "csv", "name": "x", "job_id": "y", "log": "true"}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test_accuracy", 0.9239, "92.39%"),
        ("test_errors", 158.0, "158"),
        ("errors", 1315, "1,315"),
        ("test_loss", 0.25166646, "0.2517"),
        ("test_accuracy", None, "-"),
    ],
)
def test_a_figure_is_shown_as_its_name_asks(name: str, value: float | None, text: str) -> None:
    assert figure(name, value) == text


def test_a_report_shows_what_does_not_exist() -> None:
    nothing = {"precision": None, "recall": None, "f1": None, "roc_auc": None}
    accuracy = {"examples": 1, "errors": 0, "accuracy": 1.0, "accuracy_standard_error": 0.0, "loss": 0.0}
    report = {
        "task": "classification",
        "parts": {"test": accuracy},
        "published": [{"name": "test_accuracy", "published": None, "ours": None}],
        "classes": [{"label": 0, "support": 0, **nothing}, {"label": 1, "support": 1, **nothing}],
        "macro": nothing,
        "confusion_matrix": [[0, 0], [0, 1]],
        "calibration": {"expected_calibration_error": 0.0, "brier_score": 0.0},
    }
    assert "100.00% ± 0.00%" in shown(report, tables.of_report)
    errors = {"examples": 1, "mse": 0.0, "rmse": 0.0, "r2": None}
    noise = {"variance": 0.0, "mse_to_variance": None, "mse_to_realised_variance": None}
    regression = {"task": "regression", "parts": {"test": errors}, "curve_rmse": 0.1, "noise": noise}
    assert "0.1 (rmse)" in shown(regression, tables.of_report)


def test_a_comparison_calls_jobs_by_letters() -> None:
    found = {
        "jobs": [
            {"id": "job_x", "preset": None, "metrics": {"test_accuracy": 0.5}},
            {"id": "job_y", "preset": "p", "metrics": {}},
        ],
        "differences": [{"pointer": "#/seed", "values": {"job_x": 1, "job_y": None}}],
        "tests": [],
        "notes": ["job_x and job_y are not tested against each other"],
    }
    text = shown(found, tables.of_comparison)
    for said in ("A  job_x", "50.00%", "#/seed", "null", "A and B are not tested"):
        assert said in text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.001,0.01", [0.001, 0.01]),
        ("sgd,adam", ["sgd", "adam"]),
        ("[32],[64,64],[]", [[32], [64, 64], []]),
        ("full,100", ["full", 100]),
        ('null,{"rotation": 10}', [None, {"rotation": 10}]),
        ("true", [True]),
        ("a,", ["a", ""]),
    ],
)
def test_values_of_a_grid(text: str, values: list[Any]) -> None:
    assert sweeps.parse_grid([f"a.b={text}"]) == {"a.b": values}


@pytest.mark.parametrize(
    ("text", "draw"),
    [
        ("0.001:0.1:log", {"low": 0.001, "high": 0.1, "log": True}),
        ("16:512:integer:log", {"low": 16.0, "high": 512.0, "log": True, "integer": True}),
        ("0:1", {"low": 0.0, "high": 1.0}),
        ("1e-3:1e-1", {"low": 0.001, "high": 0.1}),
        ("relu,tanh", {"choices": ["relu", "tanh"]}),
        ('{"name":"sgd"},{"name":"adam"}', {"choices": [{"name": "sgd"}, {"name": "adam"}]}),
    ],
)
def test_draws(text: str, draw: dict[str, Any]) -> None:
    assert sweeps.parse_random([f"a={text}"]) == {"a": draw}


@pytest.mark.parametrize(
    "words",
    [
        ("--grid", "seed"),
        ("--grid", "=1"),
        ("--grid", "seed="),
        ("--grid", "seed=1", "--grid", "seed=2"),
        ("--random", "seed=0:9:whole", "--count", "2"),
    ],
)
def test_what_is_no_sweep_is_refused_before_a_server_is_asked(words: tuple[str, ...]) -> None:
    ran = run("sweep", "slp-200", *words, "--url", "http://127.0.0.1:9")
    assert ran.exit_code == 1
    assert ran.stderr.startswith("malformed_change:")


def test_a_sweep_counts_and_ranks_its_members() -> None:
    member = {"index": 0, "job_id": "job_x", "state": "succeeded", "rank": 1, "metrics": {"test_loss": 0.25}}
    changes = {"optimizer.learning_rate": 0.01, "network.activation": "relu"}
    found = Sweep(
        id="sweep_x",
        state="failed",
        counts={"succeeded": 1, "failed": 1},
        size=2,
        fields=list(changes),
        created_at="",
        metric="test_loss",
        warnings=["ranked by the test set"],
        members=[
            Member.model_validate(member | {"changes": changes}),
            Member(index=1, job_id="job_y", state="failed", changes=changes),
        ],
    )
    text = shown({"sweep": found}, lambda given: sweeps._standing(given["sweep"]))
    for said in ("1 succeeded, 1 failed", "learning_rate", "0.25", "relu", "job_y", "warning: ranked"):
        assert said in text


JOB_POINTS = [
    {"name": name, "step": step, "epoch": 1.0, "value": value, "time": ""}
    for name in ("train_loss", "test_loss", "test_accuracy")
    for step, value in ((0, 1.0), (50, 0.1), (100, 0.01))
]


def test_curves_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"data": JOB_POINTS, "has_more": False, "next": None}
    answering(monkeypatch, lambda _: httpx.Response(200, json=page))
    said = run("curves", "job_0").stdout
    for legend in ("train_loss 0.01", "test_loss 0.01", "test_accuracy 1.00%"):
        assert legend in said
    first = said.splitlines()[1]
    assert first.split()[0] == "1"  # at the top, where the line begins
    assert "\u2800" <= first[9] <= "\u28ff"
    assert first[9] != "\u2800"
    assert "100" in said.splitlines()[13]
    assert json.loads(run("curves", "job_0", "--json").stdout) == JOB_POINTS


def test_a_logarithm_makes_a_fall_by_tenths_a_straight_line() -> None:
    points = [Point.model_validate(one) for one in JOB_POINTS[:3]]
    drawn = curves.chart({"train_loss": points}, 60, log=True).plain.splitlines()[1:13]
    marks = [next(index for index, dot in enumerate(line[9:]) if dot != "\u2800") for line in drawn]
    steps = {after - before for before, after in itertools.pairwise(marks)}
    assert steps <= {4, 5}  # fifty columns in twelve lines
    nothing = [Point.model_validate(JOB_POINTS[0] | {"value": 0.0})]
    assert "nothing to draw" in curves.chart({"train_loss": nothing}, 60, log=True).plain


def test_what_the_network_saw_is_drawn_beside_what_it_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.new("L", (28, 28))
    image.putpixel((3, 0), 255)
    image.putpixel((3, 1), 255)
    file = io.BytesIO()
    image.save(file, "PNG")
    seen = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    digit = {
        "label": 7,
        "confidence": 0.75,
        "probabilities": [0.0] * 7 + [0.75, 0.25, 0.0],
        "warnings": ["blank"],
    }
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(
            200, json={"model": "m", "version": 1, "predictions": [digit | {"image": seen}]}
        )

    answering(monkeypatch, answer)
    ran = CliRunner().invoke(app, ["predict", "-", "--pictures"], input=b"a picture")
    assert asked[0].content == b"a picture"
    assert asked[0].url.params["include"] == "image"
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["7", "75.0%", "-", "blank"]
    assert lines[1].startswith("   █ ")
    assert f"7 {'█' * 15} 75.0%" in lines[8]
    table = CliRunner().invoke(app, ["predict", "-"], input=b"a picture").stdout
    assert "75.0%" in table
    assert "█" not in table
    assert "include" not in asked[1].url.params


def test_standard_input_is_there_once() -> None:
    ran = run("predict", "-", "-", "--url", "http://127.0.0.1:9")
    assert (ran.exit_code, ran.stderr.partition(":")[0]) == (1, "stdin_twice")


def test_the_page_is_opened_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    answering(monkeypatch, lambda _: httpx.Response(200, json={"status": "alive"}))
    words = ("--url", "http://there:1")
    assert run("open", "train", "--no-browser", *words).stdout == "http://there:1/train\n"
    assert json.loads(run("open", "job_0", "--json", *words).stdout) == {"url": "http://there:1/jobs/job_0"}
    assert opened == ["http://there:1/jobs/job_0"]


def test_no_server_is_a_sentence_and_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    answering(monkeypatch, refuse)
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    ran = run("jobs", "list", "--url", "http://there:1")
    assert (ran.exit_code, ran.stdout) == (terminal.UNREACHABLE, "")
    for said in ("no answer from http://there:1: Connection refused", "`numeral up`", "`numeral doctor`"):
        assert said in ran.stderr


def test_names_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name, _ in completion.presets("slp-2")] == ["slp-200"]
    assert [name for name, _ in completion.views("st")] == ["status"]
    monkeypatch.setenv("NUMERAL_URL", "http://127.0.0.1:9")
    assert list(completion.jobs("job_")) == []
    assert [name for name, _ in completion.models("")] == ["latest"]


@pytest.mark.parametrize("devices", ["tpu", "0,", "-1", "0 1", ""])
def test_a_worker_is_told_which_devices_there_are(devices: str) -> None:
    ran = run("worker", f"--devices={devices}")
    assert ran.exit_code == 1
    assert "auto, cpu, cuda or numbers" in ran.stderr


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ("auto", {"NUMERAL_DEVICE": "auto"}),
        ("0,2", {"NUMERAL_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": "0,2"}),
    ],
)
def test_devices_become_what_a_worker_reads(devices: str, told: dict[str, str]) -> None:
    assert processes._chosen(devices) == told


def test_without_a_worker_none_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAL_HOME", str(tmp_path))
    db = Database(f"sqlite:///{tmp_path / 'numeral.db'}")
    schema.migrate(db)
    assert run("health").exit_code == 1
    workers.seen(db, f"{socket.gethostname()}:1:2", queues=("cpu",), device="CPU", job_id=None)
    assert run("health").exit_code == 0
    db.close()
