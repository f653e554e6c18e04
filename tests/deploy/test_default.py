"""`docker compose up` as it stands: every service on SQLite, one after the other as they depend on each other."""

import sys
from collections.abc import Iterator

import pytest

from service.client import ApiError, Client
from tests.acceptance.conftest import free_port, until
from tests.deploy.deployment import START_SECONDS, Deployment, may_become, placed, require_redis
from tests.deploy.files import composed

pytestmark = pytest.mark.timeout(480)  # where others use the machine too


TINY_JOB = {"dataset": {"name": "simulated", "examples": 20}, "batch_size": "full", "steps": 5}


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    with placed(composed(), {"redis:6379": f"127.0.0.1:{free_port()}"}) as found:
        yield found


@pytest.mark.parametrize("name", ["api", "worker"])
def test_what_does_not_run_is_not_healthy(name: str, deployment: Deployment) -> None:
    deployment.ports[name] = free_port()
    assert not deployment.is_healthy(name)


def test_a_gpu_worker_without_a_gpu_says_so(deployment: Deployment) -> None:
    deployment.start("worker-gpu", CUDA_VISIBLE_DEVICES="")
    assert deployment.await_end("worker-gpu", START_SECONDS) == 1
    assert "NUMERAL_DEVICE" in deployment.said("worker-gpu")


def test_it_trains_and_leaves_nothing_behind(deployment: Deployment) -> None:
    require_redis()
    running = deployment.start_in_order()
    assert set(running) == {"redis", "api", "worker", "batch-worker"}
    if may_become("10001:10001"):
        assert (deployment.home / "numeral.db").stat().st_uid == 10001

    with Client(deployment.url()) as nobody, pytest.raises(ApiError, match="send an API key"):
        list(nobody.jobs.list())
    with Client(deployment.url(), api_key=(deployment.home / "admin.key").read_text()) as client:
        job = client.jobs.create(TINY_JOB)
        until(lambda: client.jobs.get(job.id).ended, "the job ends", 60)
        assert client.jobs.get(job.id).state == "succeeded"
        until(lambda: served(client) == {"cpu", "batch"}, "both workers serve", 60)
    if sys.platform == "linux":
        assert [name for name in running if deployment.has_torch(name)] == ["worker"]

    for name in reversed(running):
        assert deployment.stop(name) == 0, deployment.said(name)
        # of the batch worker the check sees the worker too, which has a host of its own elsewhere
        if name not in ("redis", "batch-worker"):
            assert not deployment.is_healthy(name)
    assert deployment.left_behind() == []


def served(client: Client) -> set[str]:
    """The queues that somebody takes messages of."""
    return {queue for worker in client.workers() for queue in worker.queues}
