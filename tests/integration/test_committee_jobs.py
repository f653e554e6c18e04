"""A committee as a job: what a training process leaves in a real database, and what is served of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import delete, update

from service.data import datasets
from service.network import Committee, rebuild
from service.serving.classifier import Classifier
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import checkpoints, jobs, models, reports, schema, tables
from service.store.database import Database
from service.store.jobs import Job
from tests.conftest import mnist_folder
from tests.integration.test_tasks import StillHeart, at_step
from worker import attempt, tasks
from worker.leaving import Leaving
from worker.process import Process

SPEC: dict[str, Any] = {
    "dataset": {"examples": 300},
    "network": {"hidden_widths": [16]},
    "committee": {"members": 3},
    "augmentation": {"rotation": 10},
    "averaging": {"decay": 0.9},
    "batch_size": 60,
    "epochs": 12,
    "evaluation": {"every_epochs": 4},
    "checkpoints": {"every_steps": 7, "min_seconds": 0},
}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    settings = Settings(home=tmp_path, data_dir=mnist_folder())
    db = Database(settings.database)
    schema.migrate(db)
    heart: Any = StillHeart()
    yield Process(settings, db, "w", torch.device("cpu"), 1, heart, Leaving(), lambda _: None)
    db.close()


def submit(process: Process, **changes: Any) -> str:
    spec = TrainingSpec.model_validate(SPEC | changes)
    answer, _ = jobs.submit(process.db, spec, answer=lambda job: {"id": job.id}, queue="cpu")
    return str(answer["id"])


def trained(process: Process, **changes: Any) -> Job:
    job_id = submit(process, **changes)
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "succeeded", job.error
    return job


def weights_of(process: Process, job: Job) -> bytes:
    return checkpoints.weights(process.db, checkpoints.of_job(process.db, job.id)[0])


def test_a_committee_is_one_model_that_answers_as_torch_does(process: Process) -> None:
    job = trained(process)
    ((model,), _) = models.page(process.db, limit=9)
    assert (model.id, model.parameter_count) == (job.model_id, 3 * (784 * 16 + 16 + 16 * 10 + 10))
    built = rebuild(weights_of(process, job))
    assert isinstance(built, Committee)

    data = datasets.load(
        TrainingSpec.model_validate(SPEC).dataset,
        cache_dir=process.settings.cache_dir,
        data_dir=process.settings.data_dir,
    )
    with torch.no_grad():
        logits = built(torch.tensor(data.test_inputs))
    served = Classifier(process.db).loaded("latest").exact.probabilities(data.test_inputs)
    np.testing.assert_allclose(served, torch.softmax(logits, 1).numpy(), rtol=0, atol=1e-5)
    correct = int((logits.argmax(1).numpy() == data.test_targets).sum())
    report = reports.find(process.db, job.id)
    assert report is not None
    assert report.data["parts"]["test"]["errors"] == len(data.test_targets) - correct
    assert job.metrics["test_accuracy"] == correct / len(data.test_targets)


def test_a_committee_that_is_interrupted_ends_with_the_same_file(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = trained(process)
    job_id = submit(process)
    at_step(monkeypatch, 23, process.leaving.set)
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).state == "queued"
    process.leaving = Leaving()
    tasks.train(process, job_id)
    resumed = jobs.get(process.db, job_id)
    assert (resumed.state, resumed.attempt) == ("succeeded", 2)
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    assert resumed.metrics == undisturbed.metrics


def test_a_committee_within_a_budget(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as are said to fit: how many do is the machine's business."""
    monkeypatch.setattr(attempt, "steps_within", lambda *_: 3)
    job = trained(process, epochs=None, budget_seconds=2.0)
    assert job.progress is not None
    assert job.progress["step"] == job.progress["steps"] == 3


def test_a_student_learns_from_the_model_that_it_names(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = trained(process)
    distillation = {"teacher": teacher.model_id, "share": 1.0}
    job = trained(process, committee=None, distillation=distillation)
    again = trained(process, committee=None, distillation=distillation)
    other = trained(process, committee=None)
    assert job.weights_sha256 == again.weights_sha256 != other.weights_sha256
    monkeypatch.setattr(attempt, "steps_within", lambda *_: 3)
    planned = trained(process, committee=None, distillation=distillation, epochs=None, budget_seconds=1.0)
    assert planned.progress is not None
    assert planned.progress["step"] == planned.progress["steps"] == 3


def test_a_student_that_is_interrupted_ends_with_the_same_file(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"distillation": {"teacher": trained(process, committee=None).model_id}}
    undisturbed = trained(process, **changes)
    job_id = submit(process, **changes)
    at_step(monkeypatch, 23, process.leaving.set)
    tasks.train(process, job_id)
    process.leaving = Leaving()
    tasks.train(process, job_id)
    assert jobs.get(process.db, job_id).weights_sha256 == undisturbed.weights_sha256


@pytest.mark.parametrize("loss", ["model", "bytes"])
def test_a_teacher_that_is_gone_fails_the_job_and_says_what_to_do(process: Process, loss: str) -> None:
    teacher = trained(process)
    job_id = submit(process, committee=None, distillation={"teacher": teacher.model_id})
    with process.db.write() as connection:
        if loss == "model":
            connection.execute(delete(tables.model))
        else:
            connection.execute(update(tables.chunk).values(data=b"x"))
    tasks.train(process, job_id)
    job = jobs.get(process.db, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "teacher_gone"
    assert str(teacher.model_id) in job.error["detail"]
    assert "distillation.teacher" in job.error["detail"]
