"""The power cut: what had not been synced is gone, and nothing that was promised is."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from service.spec import TrainingSpec
from service.store import attempts, batches, blobs, checkpoints, events, garbage, jobs, metrics, schema
from service.store.attempts import Attempt, Point
from service.store.batches import Body, Hold
from service.store.database import Database
from service.store.tables import chunk
from tests.faults.ledger import Fault
from tests.faults.servers import Cluster, postgres

WEIGHTS = bytes(range(256)) * 12_000  # three chunks
SAVER = """
import os, signal, sys
from sqlalchemy import event
from service.store import attempts, blobs, checkpoints
from service.store.attempts import Attempt
from service.store.database import Database
from tests.faults.test_power import WEIGHTS, save

url, job_id = sys.argv[1:]
db = Database(url)
# else the log would be synced, copied into the database and begun again meanwhile
event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint=0"))
held = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
attempt = Attempt(job_id, held.attempt)
save(db, attempt, step=1)
print(os.stat(db.url.database + "-wal").st_size, flush=True)
written = blobs.write
def cut(db, data):
    written(db, data)
    os.kill(os.getpid(), signal.SIGKILL)  # before the header
blobs.write = cut
save(db, attempt, step=2)
"""


def save(db: Database, attempt: Attempt, *, step: int) -> None:
    checkpoints.save(
        db,
        attempt,
        step=step,
        epoch=float(step),
        reason="scheduled",
        metrics={},
        spec=TrainingSpec().model_dump(mode="json"),
        weights=WEIGHTS,
        state=WEIGHTS[::-1],
    )


def submit(db: Database) -> str:
    answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda job: {"id": job.id}, queue="cpu")
    return str(answer["id"])


@pytest.fixture(params=range(3))
def survivor(request: pytest.FixtureRequest, tmp_path: Path, fault: Fault) -> Iterator[tuple[Database, str]]:
    """A database as a disk may have it after the power went between the chunks of a second checkpoint and its
    header; and the job."""
    made = Database(f"sqlite:///{tmp_path / 'before' / 'numeral.db'}")
    schema.migrate(made)
    job_id = submit(made)
    command = [sys.executable, "-c", SAVER, str(made.url), job_id]
    keeper = made.engine.connect()  # whoever closes a database last would tidy up its log
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    keeper.close()
    made.close()
    synced = int(ended.stdout)
    log = tmp_path / "after" / "numeral.db-wal"
    (tmp_path / "after" / "numeral.db-shm").unlink()
    whole = log.stat().st_size
    chance = random.Random(request.param)  # noqa: S311 - moments, not secrets
    kept = synced if request.param == 0 else chance.randrange(synced, whole)
    os.truncate(log, kept)
    if request.param == 2:  # a page that was half on its way
        with log.open("r+b") as file:
            file.seek(kept - min(kept - synced, 2000))
            file.write(chance.randbytes(min(kept - synced, 2000)))
    fault.fired(f"killed before the header; {whole - kept:,} of {whole - synced:,} bytes unsynced are gone")
    db = Database(f"sqlite:///{tmp_path / 'after' / 'numeral.db'}")
    yield db, job_id
    db.close()


def test_a_power_cut_between_chunks_and_header(survivor: tuple[Database, str], fault: Fault) -> None:
    """the power cut between the chunks of a checkpoint and its header"""
    db, job_id = survivor
    with db.read() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    (header,) = checkpoints.of_job(db, job_id)
    assert header.step == 1
    found = [(one.step, weights, state) for one, weights, state in checkpoints.resumable(db, job_id)]
    assert found == [(1, WEIGHTS, WEIGHTS[::-1])]
    left = chunks(db)
    garbage.collect(db, grace_seconds=-60)
    assert chunks(db) == 6, "those of the first checkpoint"
    told = events.page(db, job_id, after=0, limit=99)
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    fault.came(f"integrity ok, the checkpoint before is whole, {left - 6} chunks without a header collected")


def chunks(db: Database) -> int:
    with db.read() as connection:
        return int(connection.execute(select(func.count()).select_from(chunk)).scalar_one())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One that writes its log to disk when it must, and else as late as it can."""
    with postgres("wal_writer_delay=10s") as running:
        yield running


def test_postgresql_loses_its_memory(cluster: Cluster, fault: Fault) -> None:
    """PostgreSQL's host without power, its clients alive"""
    db = Database(cluster.url)
    schema.migrate(db)
    job_id, batch_id = submit(db), submit_batch(db)
    blobs.write(db, WEIGHTS)  # a megabyte has the log written at once, and then not for ten seconds
    claimed = attempts.claim(db, job_id, worker="w", device="cpu", lease_seconds=60)
    assert claimed is not None
    points = [Point("train_loss", step, float(step), 0.5) for step in range(1, 6)]
    progress: dict[str, Any] = {"step": 5, "steps": 9}
    figures = [{"step": 5, "epoch": 5.0, "metrics": {"train_loss": 0.5}}]
    attempts.write_progress(
        db, Attempt(job_id, claimed.attempt), progress=progress, points=points, figures=figures
    )
    held = batches.claim(db, batch_id, worker="w", lease_seconds=60)
    assert held is not None
    batches.append(db, Hold(batch_id, held.attempt), b"{}\n" * 3, done=3, errors=0)
    promised = jobs.get(db, job_id)
    loose = blobs.write(db, b"whose loss is seen before a header would name it")
    cluster.stop(signal.SIGQUIT)
    cluster.start()
    with db.read() as connection:
        kept = connection.execute(select(func.count()).where(chunk.c.blob_id == loose)).scalar_one()
    assert kept == 0
    fault.fired("stopped at once; a chunk written last is gone")
    found = jobs.get(db, job_id)
    assert (found.state, found.attempt, found.last_event) == ("running", 1, promised.last_event)
    values, _ = metrics.page(db, job_id, limit=99)
    assert [value.step for value in values] == [1, 2, 3, 4, 5]
    batch = batches.get(db, batch_id)
    assert (batch.state, batch.attempt, batch.done) == ("running", 1, 3)
    assert b"".join(blobs.read_rows(db, batch.results_blob, batch.results_rows)) == b"{}\n" * 3
    fault.came("the claims, the figures, the events and a batch's answers are there")
    db.close()


def submit_batch(db: Database) -> str:
    body = Body("lines", blobs.write(db, b"[1]"), 3, 9)
    fields: dict[str, Any] = {"model_id": "m", "preprocess": None, "scale": "byte", "max_attempts": 3}
    _, made = batches.submit(db, body, answer=lambda batch: {"id": batch.id}, **fields)
    assert made is not None
    return made.id
