"""A sweep from end to end: real workers take its jobs, the command follows, compares and cancels them."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Service, running, until

SHORT = ("--set", "steps=1", "--set", "dataset.examples=100", "--set", "evaluation.every_steps=null")
LONG = ("--set", "steps=50000000", "--set", "evaluation.every_steps=null")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("home"), NUMERAL_WORKERS="2") as started:
        yield started


@pytest.fixture
def numeral(service: Service, tmp_path: Path) -> Any:
    """Run the command in an empty folder; returns the finished process."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            env={**service.environment, "NUMERAL_URL": service.url, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=tmp_path,
        )

    return run


def test_a_grid_is_trained_and_compared(service: Service, numeral: Any, tmp_path: Path) -> None:
    fields = ("--grid", "optimizer.learning_rate=0.001,0.01", "--grid", "seed=0,1,2")
    dry = json.loads(numeral("sweep", "simulated-wide", *SHORT, *fields, "--dry-run", "--json").stdout)
    assert (dry["size"], dry["steps"]) == (6, 6)
    assert list(service.client.sweeps.list()) == []

    ran = numeral("sweep", "simulated-wide", *SHORT, *fields, "--wait", "--json")
    sweep = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    assert "6/6 members" in ran.stderr
    assert (sweep["state"], sweep["counts"]) == ("succeeded", {"succeeded": 6})
    assert [member["rank"] for member in sweep["members"]] == [1, 2, 3, 4, 5, 6]
    losses = [member["metrics"]["test_loss"] for member in sweep["members"]]
    assert (sweep["metric"], losses) == ("test_loss", sorted(losses))
    for member in sweep["members"]:
        job = service.client.jobs.get(member["job_id"])
        spec = job.model_dump()["spec"]
        assert {
            "optimizer.learning_rate": spec["optimizer"]["learning_rate"],
            "seed": spec["seed"],
        } == member["changes"]
        assert (job.state, job.sweep_id, job.model_id) == ("succeeded", sweep["id"], member["model_id"])

    shown = numeral("sweeps", "show", sweep["id"], "--sort", "index").stdout
    assert "6 succeeded" in shown
    assert all(member["job_id"] in shown for member in sweep["members"])
    assert "warning: ranked by the test set" in shown
    assert sweep["id"] in numeral("sweeps", "list").stdout
    listed = json.loads(numeral("jobs", "list", "--sweep", sweep["id"], "--json").stdout)
    assert {job["id"] for job in listed} == {member["job_id"] for member in sweep["members"]}
    drawn = numeral("sweeps", "plot", sweep["id"], "--set", "log=true", "-o", "sweep.svg")
    assert drawn.returncode == 0, drawn.stderr
    assert "optimizer.learning_rate" in (tmp_path / "sweep.svg").read_text()
    assert numeral("sweeps", "plot", sweep["id"], "series", "-o", "series.csv").returncode == 0
    with (tmp_path / "series.csv").open(newline="") as file:
        assert {row["index"] for row in csv.DictReader(file)} == set("012345")


def test_a_member_is_the_job_that_it_would_be_alone(service: Service) -> None:
    """Also where members are trained together: to rounding."""
    spec = {"steps": 60, "evaluation": {"every_steps": 5}}
    sweep = service.client.sweeps.create(
        spec,
        preset="simulated-deep",
        random={"optimizer.learning_rate": {"low": 0.001, "high": 0.01, "log": True}},
        count=6,
    )
    done = service.client.sweeps.wait(sweep.id)
    assert (done.state, done.counts) == ("succeeded", {"succeeded": 6})
    together = set()
    for member in done.members:
        rate = member.changes["optimizer.learning_rate"]
        optimizer = {"name": "amsgrad", "learning_rate": rate}
        alone = service.client.jobs.create(spec | {"optimizer": optimizer}, preset="simulated-deep")
        assert service.client.jobs.wait(alone.id).state == "succeeded"
        own, other = series(service, member.job_id), series(service, alone.id)
        assert len(other) > 60
        assert own == pytest.approx(other, rel=1e-3)
        model_id = service.client.jobs.get(member.job_id).model_id
        assert model_id is not None
        together.add(service.client.models.get(model_id).model_dump()["provenance"]["trained_together"])
    assert max(together) > 1


def series(service: Service, job_id: str) -> dict[tuple[str, int], float]:
    found = httpx.get(f"{service.url}/v1/jobs/{job_id}/metrics").raise_for_status().json()["data"]
    return {(one["name"], one["step"]): one["value"] for one in found}


def test_members_whose_worker_dies_go_on_at_once(service: Service, numeral: Any) -> None:
    sweep = json.loads(
        numeral("sweep", "simulated-wide", *LONG, "--grid", "seed=0,1,2,3,4,5", "--json").stdout
    )
    until(
        lambda: service.client.sweeps.get(sweep["id"]).counts.get("running") == 6,
        "all members are trained, by two workers",
    )
    for child in service.worker().children():
        child.kill()

    def jobs_are(attempt: int) -> bool:
        found = service.client.jobs.list(sweep=sweep["id"])
        return all(job.attempt == attempt or job.state == "queued" for job in found)

    until(lambda: jobs_are(2), "all are taken up again, or wait", 30)
    service.client.sweeps.cancel(sweep["id"])
    until(lambda: service.client.sweeps.get(sweep["id"]).ended, "all members have ended", 30)


def test_a_sweep_is_cancelled_as_one(service: Service, numeral: Any) -> None:
    sweep = json.loads(numeral("sweep", "simulated-wide", *LONG, "--grid", "seed=0,1,2,3,4", "--json").stdout)
    until(
        lambda: service.client.sweeps.get(sweep["id"]).counts.get("running") == 5,
        "both workers train members",
    )
    ran = numeral("sweeps", "cancel", sweep["id"])
    assert ran.returncode == 0, ran.stderr
    ended = until(
        lambda: (found := service.client.sweeps.get(sweep["id"])).ended and found,
        "all members have ended",
        30,
    )
    assert (ended.state, ended.counts) == ("cancelled", {"cancelled": 5})
    again = numeral("sweeps", "cancel", sweep["id"])
    assert again.returncode == 0
    watched = numeral("sweeps", "watch", sweep["id"])
    assert watched.returncode == 1
    assert "5 cancelled" in watched.stdout


def test_a_member_that_diverges_fails_alone(numeral: Any) -> None:
    words = ("--set", "steps=50", "--set", "evaluation.every_steps=null", "--set", "optimizer.name=sgd")
    ran = numeral(
        "sweep", "simulated-wide", *words, "--grid", "optimizer.learning_rate=0.001,1000", "--wait", "--json"
    )
    sweep = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert (sweep["state"], sweep["counts"]) == ("failed", {"succeeded": 1, "failed": 1})
    assert [member["rank"] for member in sweep["members"]] == [1, None]
    assert "learning_rate" in sweep["members"][1]["error"]["detail"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep", "slp-200"), "#/grid"),
        (("sweep", "slp-200", "--grid", "sed=1"), "there is no field 'sed'"),
        (("sweep", "slp-200", "--grid", "seed=1,-1"), "member 1: seed=-1"),
        (("sweep", "slp-200", "--grid", "seed"), "field=values"),
        (("sweep", "slp-200", "--random", "seed=0:9:integer"), "#/count"),
        (("sweep", "missing.json", "--grid", "seed=1"), "no file"),
        (("sweeps", "show", "sweep_0"), "sweep_not_found"),
        (("sweeps", "plot", "sweep_0"), "sweep_not_found"),
    ],
)
def test_mistakes_are_named(numeral: Any, words: tuple[str, ...], said: str) -> None:
    ran = numeral(*words)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
