"""Processes killed, stopped, frozen and told to leave, at moments drawn by chance."""

import random
import signal
import time
from functools import partial

import httpx
import pytest

from service.store import jobs
from tests.acceptance.conftest import until
from tests.acceptance.test_main_job import LONG, SMALL
from tests.faults.ledger import Fault
from tests.faults.stack import LEASE_SECONDS, STACKS, Stack, ended


def test_a_training_child_killed(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """kill -9 of the training child"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=1)
    child = stack.trainer(job.id)
    step = chance.randrange(100, 800)
    until(lambda: stack.service.step(job.id) >= step, f"step {step}")
    killed_at = time.time()
    child.kill()
    until(lambda: not child.is_running(), "the child is gone", 5)
    fault.fired(f"process {child.pid} gone about step {stack.service.step(job.id)}")
    stack.as_promised(job.id, attempt=2, crashes=1)
    (requeued_at,) = stack.requeued(job.id, "worker_died")
    seconds = requeued_at - killed_at
    assert seconds < 2, f"it took {seconds:.2f} s"
    fault.came(f"requeued after {seconds:.2f} s, succeeded in attempt 2, weights as undisturbed")


def test_a_worker_group_killed(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """kill -9 of the worker and so of all its children"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=chance.randrange(100, 800))
    worker = stack.service.worker()
    children = worker.children()
    killed_at = time.time()
    worker.kill()
    until(lambda: not any(child.is_running() for child in children), "its children died with it", 5)
    fault.fired(f"worker {worker.pid} and its {len(children)} children gone")
    stack.as_promised(job.id, attempt=2, crashes=1)
    (requeued_at,) = stack.requeued(job.id, "lease_expired")
    seconds = requeued_at - killed_at
    assert seconds < LEASE_SECONDS + 3
    fault.came(
        f"requeued after {seconds:.1f} s (a lease is {LEASE_SECONDS:g}), succeeded, weights as undisturbed"
    )


def test_a_worker_told_to_leave(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """SIGTERM of the worker, as a deployment sends it"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=chance.randrange(100, 800))
    worker = stack.service.worker()
    began = time.monotonic()
    worker.terminate()
    until(lambda: ended(worker), "the worker has left", 20)
    seconds = time.monotonic() - began
    fault.fired(f"worker {worker.pid} gone")
    stack.as_promised(job.id, crashes=0)
    assert stack.requeued(job.id, "worker_left")
    assert seconds < 10
    fault.came(f"left after {seconds:.1f} s, no attempt spent, weights as undisturbed")


def test_a_worker_frozen_beyond_its_lease(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """SIGSTOP of the training child beyond its lease, then SIGCONT"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=chance.randrange(100, 800))
    child = stack.trainer(job.id)
    stack.freeze(child)
    try:
        until(lambda: stack.service.client.jobs.get(job.id).attempt == 2, "another worker took it over", 60)
        fault.fired(f"process {child.pid} is {child.status()} while attempt 2 trains")
    finally:
        child.resume()
    stack.as_promised(job.id, attempt=2, crashes=1)
    refused = until(lambda: stack.said("ran out") + stack.said("does not hold"), "its write was refused", 20)
    events = stack.service.events(job.id)
    taken = next(event.seq for event in events if event.data.get("attempt") == 2)
    later = [event for event in events if event.seq > taken and event.type == "status"]
    assert [event.data["state"] for event in later] == ["succeeded"]
    assert refused
    fault.came("the job went on elsewhere, the stale attempt wrote nothing, weights as undisturbed")


def test_an_api_killed_before_it_commits(stack: Stack, fault: Fault) -> None:
    """kill -9 of the API before a submit commits"""
    key = f"before-{time.time()}"
    with stack.locked():
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{stack.service.url}/v1/jobs",
                json={"spec": SMALL},
                headers={"Idempotency-Key": key},
                timeout=1,
            )
        api = stack.service.child("serve")
        api.kill()
        until(lambda: ended(api), "the API is gone", 5)
        fault.fired(f"process {api.pid} gone while the submit waited for the database")
    made = [stack.service.client.jobs.create(SMALL, idempotency_key=key) for _ in range(3)]
    assert len({job.id for job in made}) == 1
    stack.as_promised(made[0].id, attempt=1)
    fault.came("sent again with the same key it is one job, and is done")


def test_an_api_killed_before_it_rings(stack: Stack, fault: Fault) -> None:
    """kill -9 of the API after a commit and before its message"""
    broker = stack.broker()
    broker.suspend()
    try:
        job = stack.service.client.jobs.create(SMALL)
        api = stack.service.child("serve")
        api.kill()
        until(lambda: ended(api), "the API is gone", 5)
        fault.fired(f"process {api.pid} gone with the broker {broker.status()}")
    finally:
        broker.resume()
    stack.as_promised(job.id, attempt=1)
    fault.came("the reconciler rang, and the job is done in attempt 1")


def has_crashed(stack: Stack, job_id: str, times: int) -> bool:
    return jobs.get(stack.db, job_id).crashes == times


def test_workers_die_of_a_job(stack: Stack, fault: Fault) -> None:
    """a poison job: whoever trains it is killed"""
    poison = stack.service.client.jobs.create(LONG)
    after = stack.service.client.jobs.create(SMALL)
    for crashes in (1, 2, 3):
        until(lambda: stack.state(poison.id) == "running", "it is begun again", 60)
        stack.trainer(poison.id).kill()
        until(partial(has_crashed, stack, poison.id, crashes), "it is taken back", 20)
    fault.fired("3 training processes killed")
    job = stack.service.client.jobs.get(poison.id)
    assert (job.state, job.error and job.error.code) == ("failed", "worker_lost")
    stack.as_promised(after.id)
    fault.came("failed as worker_lost after 3 workers; the job behind it is done")


@pytest.mark.parametrize("stack", STACKS[:1], indirect=True)
def test_nothing_stays_behind(stack: Stack, fault: Fault) -> None:
    """two signals at once: the worker told to leave, the API killed"""
    job = stack.service.start(SMALL, at_step=100)
    worker, api = stack.service.worker(), stack.service.child("serve")
    worker.send_signal(signal.SIGTERM)
    api.kill()
    until(lambda: ended(worker) and ended(api), "both are gone", 20)
    fault.fired(f"processes {worker.pid} and {api.pid} gone")
    stack.as_promised(job.id, crashes=0)
    fault.came("both started again by the supervisor, the job is done")
