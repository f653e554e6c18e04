"""A broker that is frozen, forgets, dies or says everything a hundred times."""

import random
import time

from service.running import broker, queue
from tests.acceptance.conftest import until
from tests.acceptance.test_main_job import SMALL
from tests.faults.ledger import Fault
from tests.faults.stack import Stack, ended

IN_VAIN = "is not queued: nothing to do"  # as a worker says it
SUBMIT_SECONDS = 1.0  # an accepted job is answered within, whatever the broker does


def test_a_frozen_broker_delays_no_submit(stack: Stack, fault: Fault) -> None:
    """the broker frozen at submit"""
    process = stack.broker()
    process.suspend()
    try:
        answers = [stack.post(SMALL) for _ in range(3)]
        fault.fired(f"process {process.pid} is {process.status()}")
    finally:
        process.resume()
    slowest = max(answer.elapsed.total_seconds() for answer in answers)
    assert [answer.status_code for answer in answers] == [202] * 3
    assert slowest < SUBMIT_SECONDS
    for answer in answers:
        stack.as_promised(answer.json()["id"], crashes=0)
    fault.came(f"3 submits answered 202, the slowest in {slowest * 1000:.0f} ms; all done")


def test_a_broker_wiped_in_mid_run(stack: Stack, fault: Fault) -> None:
    """the broker wiped in mid-run"""
    stack.undisturbed(SMALL)
    made = [stack.service.client.jobs.create(SMALL) for _ in range(4)]
    until(lambda: [stack.state(job.id) for job in made].count("running") == 2, "two run, two wait")
    before = until(lambda: sum(queue.depths(stack.settings).values()), "messages wait")
    connection = broker.client(stack.settings)
    connection.flushall()
    connection.close()
    fault.fired(f"{before} messages before, {sum(queue.depths(stack.settings).values())} after")
    for job in made:
        stack.as_promised(job.id, attempt=1)
    fault.came("the reconciler rang again; 4 jobs done, each in attempt 1")


def test_a_broker_killed(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """kill -9 of the broker, which comes back empty; a job submitted while it is down"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=chance.randrange(1, 800))
    process = stack.broker()
    process.kill()
    until(lambda: ended(process), "the broker is gone", 5)
    fault.fired(f"process {process.pid} gone")
    answer = stack.post(SMALL)
    assert answer.status_code == 202
    if stack.redis is not None:
        stack.redis.kill()
        stack.redis.start()
    stack.as_promised(job.id, attempt=1)
    stack.as_promised(answer.json()["id"], attempt=1)
    fault.came("submit answered 202; both jobs done in attempt 1")


def test_messages_a_hundred_times_over(stack: Stack, fault: Fault) -> None:
    """each message 100 times, to two workers"""
    app = queue.celery(stack.settings)
    before = stack.said(IN_VAIN)
    made = [stack.service.client.jobs.create(SMALL) for _ in range(2)]
    for _ in range(100):
        for job in made:
            app.send_task(queue.TRAIN_TASK, args=[job.id], queue="cpu", priority=5, ignore_result=True)
    app.close()
    for job in made:
        stack.as_promised(job.id, attempt=1)
        states = [event.data.get("state") for event in stack.service.events(job.id)]
        assert states.count("running") == 1
    until(lambda: stack.said(IN_VAIN) - before >= 200, "all messages have been taken", 60)
    fault.fired(f"{stack.said(IN_VAIN) - before} messages came in vain")
    fault.came("each job ran once")


def test_a_broker_down_for_a_while(stack: Stack, fault: Fault) -> None:
    """the broker frozen for longer than its clients' patience, in mid-run"""
    stack.undisturbed(SMALL)
    job = stack.service.start(SMALL, at_step=100)
    process = stack.broker()
    process.suspend()
    try:
        waiting = stack.service.client.jobs.create(SMALL)
        time.sleep(7)  # a client gives up after 5
        fault.fired(f"process {process.pid} {process.status()} for 7 s")
    finally:
        process.resume()
    stack.as_promised(job.id, attempt=1)
    stack.as_promised(waiting.id, attempt=1)
    fault.came("both jobs done in attempt 1")
