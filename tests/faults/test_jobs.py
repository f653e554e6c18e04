"""What people do to jobs at the worst moment."""

import random
import time
from collections import Counter
from operator import itemgetter

import httpx

from service.store import events
from tests.acceptance.conftest import until
from tests.acceptance.test_main_job import LONG, SMALL
from tests.faults.ledger import Fault
from tests.faults.stack import Stack


def test_cancel_at_any_moment(stack: Stack, fault: Fault, chance: random.Random) -> None:
    """cancel while queued, claimed, running and finishing"""
    undisturbed = str(stack.undisturbed(SMALL).weights_sha256)
    began = time.monotonic()
    made = [(stack.service.client.jobs.create(SMALL).id, chance.random() * 8) for _ in range(8)]
    met = Counter[str]()
    for job_id, moment in sorted(made, key=itemgetter(1)):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        met[stack.state(job_id)] += 1
        answer = httpx.post(f"{stack.service.url}/v1/jobs/{job_id}/cancel", timeout=30)
        assert answer.status_code in (200, 202, 409)
        assert answer.status_code == 409 or answer.json()["state"] in ("cancelling", "cancelled")
    ends = Counter(whole(stack, job_id, undisturbed) for job_id, _ in made)
    fault.fired("asked while " + ", ".join(f"{state} ({count})" for state, count in met.items()))
    assert set(ends) <= {"cancelled", "succeeded"}
    assert ends["cancelled"]
    fault.came(
        f"{ends['cancelled']} cancelled, {ends['succeeded']} had succeeded; each has one end, no half model"
    )


def whole(stack: Stack, job_id: str, undisturbed: str) -> str:
    """The end of a job, of which everything else tells too."""
    job = stack.service.client.jobs.wait(job_id)
    told = events.page(stack.db, job_id, after=0, limit=1000)
    assert [one.seq for one in told] == list(range(1, len(told) + 1))
    assert [one.data["state"] for one in told if one.type == "end"] == [job.state]
    assert told[-1].type == "end"
    assert (job.state == "succeeded") == (job.model_id is not None)
    assert job.weights_sha256 == (undisturbed if job.model_id else None)
    return job.state


def test_delete_of_a_running_job(stack: Stack, fault: Fault) -> None:
    """delete of a running job"""
    job = stack.service.start(LONG, at_step=1)
    url = f"{stack.service.url}/v1/jobs/{job.id}"
    refused = httpx.delete(url, timeout=30)
    fault.fired(f"DELETE while {stack.state(job.id)}")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_active")
    before = stack.service.step(job.id)
    until(lambda: stack.service.step(job.id) > before, "it trains on")
    stack.service.client.jobs.cancel(job.id)
    until(
        lambda: httpx.delete(url, timeout=30).status_code == 204, "it can be deleted once it has stopped", 15
    )
    assert httpx.get(url, timeout=30).status_code == 404
    after = stack.service.client.jobs.create(SMALL)
    stack.as_promised(after.id, attempt=1)
    fault.came("409 and it trained on; after a cancel it is gone, and its worker does the next job")
