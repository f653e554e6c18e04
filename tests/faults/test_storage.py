"""A database that is locked, full, restarted, or whose bytes change."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, select, update

from service.store import checkpoints, events
from service.store.database import Database
from service.store.tables import chunk
from tests.acceptance.conftest import Service, running, until
from tests.acceptance.test_main_job import SMALL
from tests.conftest import missing
from tests.faults.ledger import Fault
from tests.faults.stack import STACKS, Stack

DISK_MIB = 96
WIDE: dict[str, Any] = {  # 8 MB a checkpoint with its state
    "network": {"hidden_widths": [1200]},
    "epochs": 50,
    "evaluation": {"every_steps": 500},
    "checkpoints": {"every_epochs": None, "every_steps": 300, "min_seconds": 0},
}


def test_a_database_locked_for_a_while(stack: Stack, fault: Fault) -> None:
    """the database locked for 3 seconds"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=100)
    with released_after(stack, 3) as thread:
        answer = stack.post(SMALL)
        thread.join()
    seconds = answer.elapsed.total_seconds()
    fault.fired(f"a submit waited {seconds:.1f} s")
    assert seconds > 1
    assert answer.status_code == 202
    stack.as_promised(job.id)
    stack.as_promised(answer.json()["id"])
    fault.came("202 when it was free again; both jobs done")


def test_a_database_locked_for_too_long(stack: Stack, fault: Fault) -> None:
    """the database locked beyond the timeout"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=100)
    with stack.locked():
        answer = stack.post(SMALL)
        read = httpx.get(f"{stack.service.url}/v1/jobs", timeout=5)
    seconds = answer.elapsed.total_seconds()
    fault.fired(f"a submit waited {seconds:.1f} s")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_busy")
    assert int(answer.headers["Retry-After"]) > 0
    assert read.status_code == 200
    stack.as_promised(job.id)
    fault.came(
        "503 with Retry-After, reads answered meanwhile; the job under way is done, weights as undisturbed"
    )


@contextmanager
def released_after(stack: Stack, seconds: float) -> Iterator[threading.Thread]:
    """The database locked from now on for so long."""
    held = threading.Event()

    def hold() -> None:
        with stack.locked():
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    yield thread
    thread.join()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def truncated(data: bytes) -> bytes:
    return data[:-100]


@pytest.mark.parametrize("damage", [flipped, truncated, None])
def test_a_damaged_checkpoint(stack: Stack, fault: Fault, damage: Callable[[bytes], bytes] | None) -> None:
    """bytes of the newest checkpoint flipped, cut off, missing"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=300)
    stack.service.client.jobs.pause(job.id)
    until(lambda: stack.state(job.id) == "paused", "it is paused", 20)
    newest, before = checkpoints.of_job(stack.db, job.id)[:2]
    spoil(stack.db, newest.weights_blob, damage)
    fault.fired(f"{damage.__name__ if damage else 'removed'}: a piece of {newest.id} of step {newest.step}")
    stack.service.client.jobs.resume(job.id)
    stack.as_promised(job.id, attempt=2, crashes=0)
    told = events.page(stack.db, job.id, after=0, limit=10_000)
    warned = [one.data["id"] for one in told if one.data.get("code") == "checkpoint_damaged"]
    assert warned == [newest.id]
    assert [one.data["checkpoint_id"] for one in told if one.data.get("checkpoint_id")] == [before.id]
    fault.came(f"an event says so, it went on from step {before.step}, weights as undisturbed")


def spoil(db: Database, blob_id: str, damage: Callable[[bytes], bytes] | None) -> None:
    where = (chunk.c.blob_id == blob_id, chunk.c.ordinal == 0)
    with db.write() as connection:
        if damage is None:
            connection.execute(delete(chunk).where(*where))
            return
        data = connection.execute(select(chunk.c.data).where(*where)).scalar_one()
        connection.execute(update(chunk).where(*where).values(data=damage(bytes(data))))


@pytest.mark.parametrize("stack", STACKS[1:], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "at once"])
def test_postgresql_restarted_under_load(stack: Stack, fault: Fault, number: signal.Signals) -> None:
    """PostgreSQL restarted under load"""
    cluster = stack.cluster
    assert cluster is not None
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=100)
    statuses: list[int] = []
    accepted: list[str] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            answer = httpx.get(f"{stack.service.url}/v1/jobs/{job.id}", timeout=30)
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    cluster.stop(number)
    during = stack.post(SMALL)
    time.sleep(1)
    cluster.start()
    answer = until(lambda: _accepted(stack), "a submit is accepted again", 20)
    accepted.append(answer)
    over.set()
    for thread in threads:
        thread.join()
    refused = statuses.count(503)
    fault.fired(f"{refused} of {len(statuses)} requests were refused meanwhile")
    assert refused
    assert set(statuses) <= {200, 503}
    assert (during.status_code, during.json()["code"]) == (503, "storage_unavailable")
    stack.as_promised(job.id)
    stack.as_promised(accepted[0])
    fault.came("503 with Retry-After and nothing else; both jobs done, weights as undisturbed")


def _accepted(stack: Stack) -> str | None:
    answer = stack.post(SMALL)
    return str(answer.json()["id"]) if answer.status_code == 202 else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """The service on a disk of a few MiB, in a namespace of its own, with which the disk goes; and where it lies."""
    home = tmp_path / "home"
    home.mkdir()
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    mount = f'mount -t tmpfs -o size={DISK_MIB}m tmpfs "$0" && exec "$@"'
    within = ["unshare", *as_root, "--mount", "sh", "-c", mount, str(home)]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], check=False).returncode != 0:
        missing("the right to mount a small disk")
    with running(home, within=within, NUMERAL_LEASE_SECONDS="4", NUMERAL_RECONCILE_SECONDS="0.5") as service:
        yield service, Path(f"/proc/{service.process.pid}/root{home}")


def test_a_full_disk(small_disk: tuple[Service, Path], fault: Fault) -> None:
    """the disk full at a checkpoint"""
    service, disk = small_disk
    stored = f"{service.url}/v1/jobs/{{}}/checkpoints"
    job = service.start(WIDE, at_step=1)
    until(lambda: httpx.get(stored.format(job.id)).json()["data"], "there is a checkpoint")
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:  # nothing is left to be written as it is closed
        try:
            while True:
                file.write(bytes(2**16))
        except OSError as error:
            fault.fired(str(error))
    job = service.client.jobs.wait(job.id)
    assert (job.state, job.error and job.error.code) == ("failed", "disk_full")
    found = httpx.get(stored.format(job.id)).json()["data"]
    assert found
    for one in found:
        answer = httpx.get(f"{service.url}/v1/checkpoints/{one['id']}/download")
        assert answer.status_code == 200
    refused = httpx.post(f"{service.url}/v1/jobs", json={"spec": SMALL})
    assert refused.status_code in (202, 507)
    ballast.unlink()
    again = service.client.jobs.wait(service.client.jobs.create({**SMALL, "epochs": 1}).id)
    assert again.state == "succeeded"
    fault.came(
        f"failed as disk_full, {len(found)} checkpoints whole, reads answered; with room again it works"
    )
