"""Model versions and aliases: numbered without gaps, moved by one at a time, never losing their bytes."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import update

from service.errors import Conflict, Invalid, NotFound
from service.spec import DatasetSpec, TrainingSpec
from service.store import attempts, checkpoints, events, garbage, jobs, models
from service.store.attempts import Attempt
from service.store.database import Database
from service.store.jobs import JobLost
from service.store.models import Model
from service.store.tables import alias

DIGITS = TrainingSpec()
REGRESSION = TrainingSpec(dataset=DatasetSpec(name="simulated"))


def start(db: Database, spec: TrainingSpec = DIGITS) -> Attempt:
    """A job that a worker holds."""
    answer, _ = jobs.submit(db, spec, answer=lambda job: {"id": job.id}, queue="cpu", preset="p")
    job = attempts.claim(db, str(answer["id"]), worker="w", device="cpu", lease_seconds=60)
    assert job is not None
    return Attempt(job.id, job.attempt)


def finish(db: Database, attempt: Attempt, header: checkpoints.Checkpoint) -> Model | None:
    return models.finish(
        db,
        attempt,
        header,
        preprocessing="1",
        dataset_sha256="d" * 64,
        provenance={"seed": 0},
        runtime=3.0,
    )


def final(db: Database, attempt: Attempt, spec: TrainingSpec = DIGITS) -> checkpoints.Checkpoint:
    return checkpoints.save(
        db,
        attempt,
        step=10,
        epoch=1.0,
        reason="final",
        metrics={"test_loss": 0.25},
        spec=spec.model_dump(mode="json"),
        weights=attempt.job_id.encode(),
        state=None,
    )


def train(db: Database, spec: TrainingSpec = DIGITS) -> Model:
    attempt = start(db, spec)
    model = finish(db, attempt, final(db, attempt, spec))
    assert model is not None
    return model


def test_a_finished_job_is_a_model_version(db: Database) -> None:
    attempt = start(db)
    header = final(db, attempt)
    model = finish(db, attempt, header)
    assert model is not None
    assert (model.version, model.task, model.preset, model.job_id) == (
        1,
        "classification",
        "p",
        attempt.job_id,
    )
    assert (model.metrics, model.parameter_count) == ({"test_loss": 0.25}, DIGITS.parameter_count)
    assert TrainingSpec.model_validate(model.spec) == DIGITS
    job = jobs.get(db, attempt.job_id)
    assert (job.state, job.model_id, job.weights_sha256) == ("succeeded", model.id, header.weights_sha256)
    assert (job.worker, job.lease_until, job.runtime_seconds) == (None, None, 3.0)
    last = events.page(db, job.id, after=0, limit=99)[-1]
    assert (last.type, last.seq, last.data["model_id"]) == ("end", job.last_event, model.id)
    assert train(db).version == 2
    page, more = models.page(db, limit=1)
    assert ([one.version for one in page], more) == ([2], True)
    assert models.page(db, limit=1, after=page[0].id) == ([model], False)


def test_jobs_that_finish_at_once_get_versions_without_gaps(db: Database) -> None:
    ready = [(attempt, final(db, attempt)) for attempt in (start(db) for _ in range(8))]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda pair: finish(db, *pair), ready))
    assert sorted(model.version for model in made if model is not None) == list(range(1, 9))


def test_what_cannot_finish_registers_nothing(db: Database) -> None:
    attempt = start(db)
    header = final(db, attempt)
    jobs.cancel(db, attempt.job_id)
    assert finish(db, attempt, header) is None
    assert jobs.get(db, attempt.job_id).state == "cancelling"
    attempts.cancelled(db, attempt, runtime=1)
    stale = start(db)
    stale_header = final(db, stale)
    attempts.worker_lost(db, stale, reason="died")
    for lost, of_it in ((attempt, header), (stale, stale_header)):
        before = jobs.get(db, lost.job_id)
        with pytest.raises(JobLost):
            finish(db, lost, of_it)
        assert jobs.get(db, lost.job_id) == before
    assert models.page(db, limit=9) == ([], False)
    assert train(db).version == 1


def test_a_model_is_found_by_id_latest_and_alias(db: Database) -> None:
    for reference in ("latest", "model_none", "champion"):
        with pytest.raises(NotFound) as refusal:
            models.resolve(db, reference)
        assert refusal.value.code == "model_not_found"
    assert models.pointers(db) == {}
    first, second, other = train(db), train(db), train(db, REGRESSION)
    models.set_alias(db, "champion", first.id)
    assert models.resolve(db, "latest") == second, "a regression reads no digits"
    assert models.resolve(db, "champion") == first
    assert models.resolve(db, other.id) == other
    assert models.pointers(db) == {"champion": first.id, "latest": second.id}


def test_an_alias_moves_and_rolls_back_along_its_history(db: Database) -> None:
    a, b, c = (train(db).id for _ in range(3))
    assert models.set_alias(db, "champion", a)[1]
    same, moved = models.set_alias(db, "champion", "champion")
    assert (same.seq, same.model_id, moved) == (1, a, False)
    models.set_alias(db, "champion", b)
    models.set_alias(db, "champion", "latest")
    assert [models.roll_back(db, "champion").model_id for _ in range(2)] == [b, a]
    with pytest.raises(Conflict) as refusal:
        models.roll_back(db, "champion")
    assert refusal.value.code == "no_earlier_model"
    models.set_alias(db, "champion", c)
    assert models.roll_back(db, "champion").model_id == a
    current, history = models.alias_of(db, "champion")
    assert (current.seq, current.model_id) == (7, a)
    assert [(move["seq"], move["model_id"], move["action"]) for move in history[::-1]] == [
        (1, a, "set"),
        (2, b, "set"),
        (3, c, "set"),
        (4, b, "rollback"),
        (5, a, "rollback"),
        (6, c, "set"),
        (7, a, "rollback"),
    ]
    assert [one.name for one in models.aliases(db)] == ["champion"]


def test_names_that_cannot_be_aliases(db: Database) -> None:
    model = train(db)
    for name in ("latest", "model_1"):
        with pytest.raises(Invalid) as refusal:
            models.set_alias(db, name, model.id)
        assert refusal.value.code == "reserved_alias"
    with pytest.raises(NotFound):
        models.set_alias(db, "champion", "nothing")
    for read in (models.alias_of, models.roll_back):
        with pytest.raises(NotFound) as missing:
            read(db, "champion")
        assert missing.value.code == "alias_not_found"
    assert models.aliases(db) == []


def test_moves_at_once_leave_one_history(db: Database) -> None:
    made = [train(db).id for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda index: models.set_alias(db, "champion", made[index % 3]), range(24)))
    current, history = models.alias_of(db, "champion")
    moves = history[::-1]
    assert len(moves) == sum(moved for _, moved in results)
    assert [move["seq"] for move in moves] == list(range(1, len(moves) + 1))
    assert [move["before"] for move in moves] == [None, *range(1, len(moves))]
    assert (current.seq, current.model_id) == (moves[-1]["seq"], moves[-1]["model_id"])
    assert all(move["model_id"] != after["model_id"] for move, after in pairwise(moves))
    assert [models.roll_back(db, "champion").model_id for _ in moves[1:]] == [
        move["model_id"] for move in moves[-2::-1]
    ]


def test_reading_an_alias_does_not_wait_for_its_move(db: Database) -> None:
    models.set_alias(db, "champion", train(db).id)
    with ThreadPoolExecutor(1) as pool, db.write() as connection:
        connection.execute(update(alias).values(seq=9))
        current, _ = pool.submit(models.alias_of, db, "champion").result(timeout=10)
    assert current.seq == 1


def test_a_model_outlives_its_job(db: Database) -> None:
    attempt = start(db)
    spare = final(db, attempt)
    model = finish(db, attempt, final(db, attempt))
    assert model is not None
    jobs.remove(db, attempt.job_id)
    assert garbage.collect(db, grace_seconds=-60, seconds=60) > 0
    with pytest.raises(NotFound):
        checkpoints.get(db, spare.id)
    kept: Any = checkpoints.get(db, models.resolve(db, "latest").checkpoint_id)
    assert kept.job_id is None
    assert checkpoints.weights(db, kept) == attempt.job_id.encode()
