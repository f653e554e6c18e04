"""Two reconcilers at once, as of two API processes, on a database each knows for itself."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from service.running import queue
from service.running.reconciler import Reconciler
from service.settings import Settings
from service.spec import TrainingSpec
from service.store import attempts, events, jobs
from service.store.database import Database
from tests.faults.ledger import Fault
from tests.integration.test_queue import Clock

JOBS = 20


def lost(db: Database) -> str:
    """A job whose worker is gone."""
    answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda job: {"id": job.id}, queue="cpu")
    attempts.claim(db, answer["id"], worker="w", device="cpu", lease_seconds=60)
    return str(answer["id"])


def test_two_reconcilers_at_once(
    db: Database, database_url: str, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """two reconcilers at once"""
    held = [lost(db) for _ in range(JOBS)]
    settings, clock = Settings(home=tmp_path, database_url=database_url), Clock()
    doors = [Database(database_url) for _ in range(2)]
    pair = [Reconciler(settings, door, queue.celery(settings), clock=clock) for door in doors]
    for reconciler in pair:
        reconciler._take_back()
    clock.now += settings.lease_seconds + 1
    taken, asked, together = Counter[bool](), Counter[str](), threading.Barrier(2, timeout=10)
    take_back = attempts.worker_lost

    def both(*given: Any, **named: Any) -> Any:
        asked[threading.current_thread().name] += 1
        together.wait()
        found = take_back(*given, **named)
        taken[found is not None] += 1
        return found

    monkeypatch.setattr(attempts, "worker_lost", both)
    threads = [threading.Thread(target=reconciler._take_back) for reconciler in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fault.fired(f"each of {JOBS} jobs taken back by {len(asked)} at the same moment")
    assert list(asked.values()) == [JOBS, JOBS]
    assert taken == {True: JOBS, False: JOBS}
    for job_id in held:
        job = jobs.get(db, job_id)
        assert (job.state, job.crashes) == ("queued", 1)
        told = events.page(db, job_id, after=0, limit=99)
        assert [event.data.get("reason") for event in told].count("lease_expired") == 1
    for door in doors:
        door.close()
    fault.came("each counted one crash and was queued once")
