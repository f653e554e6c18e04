"""The thread that runs large networks: whole answers, one network a batch, and a bound on what waits."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from service.checkpoints import shapes
from service.serving import batcher
from service.serving.batcher import Batcher, Overloaded
from service.serving.inference import Floats, NumpyNetwork
from service.spec import TrainingSpec

SPEC = TrainingSpec.model_validate({"network": {"hidden_widths": [20]}})
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (100, 784), dtype=np.uint8)


class Watched(NumpyNetwork):
    """Notes the batches, and waits for leave."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        arrays = {
            name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes(SPEC).items()
        }
        arrays["input.std"][:] = 1
        super().__init__(SPEC, arrays)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.begun = threading.Event()

    def logits(self, inputs: Any) -> Floats:
        self.batches.append(len(inputs))
        self.begun.set()
        assert self.gate.wait(10)
        return super().logits(inputs)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batcher]:
    """A batcher to which no network is light, and 50 images are all that may wait."""
    monkeypatch.setattr(batcher, "LIGHT", 0)
    found = Batcher(50)
    found.start()
    yield found
    found.close()


def expected(network: Watched, images: Any) -> Floats:
    return NumpyNetwork.logits(network, images)


def wait_for(running: Batcher, images: int) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if running.waiting == images:
            return
        deadline.wait(0.01)
    raise AssertionError(f"{running.waiting} images wait, not {images}")


def test_what_has_queued_is_run_at_once_and_each_gets_its_own(running: Batcher) -> None:
    network = Watched(0)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(running.logits_in_thread, network, IMAGES[:1])
        assert network.begun.wait(10)
        others = [pool.submit(running.logits_in_thread, network, IMAGES[n : n + 4]) for n in range(1, 11)]
        wait_for(running, 40)
        network.gate.set()
        found = [each.result(10) for each in (first, *others)]
    assert network.batches == [1, 40]
    np.testing.assert_allclose(found[0], expected(network, IMAGES[:1]), atol=1e-4)
    for n, rows in enumerate(found[1:], start=1):
        np.testing.assert_allclose(rows, expected(network, IMAGES[n : n + 4]), atol=1e-4)


def test_two_networks_never_share_a_batch(running: Batcher) -> None:
    one, other = Watched(1), Watched(2)
    other.gate.set()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(running.logits_in_thread, one, IMAGES[:1])
        assert one.begun.wait(10)
        order = [one, one, other, other, one]
        later = []
        for n, network in enumerate(order):
            later.append(pool.submit(running.logits_in_thread, network, IMAGES[n : n + 1]))
            wait_for(running, n + 1)
        one.gate.set()
        first.result(10)
        for n, (network, each) in enumerate(zip(order, later, strict=True)):
            np.testing.assert_allclose(each.result(10), expected(network, IMAGES[n : n + 1]), atol=1e-4)
    assert (one.batches, other.batches) == ([1, 2, 1], [2])


def test_beyond_the_bound_requests_are_refused_and_those_within_are_answered(running: Batcher) -> None:
    network = Watched(0)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(running.logits_in_thread, network, IMAGES[:1])
        assert network.begun.wait(10)
        second = pool.submit(running.logits_in_thread, network, IMAGES[:50])
        wait_for(running, 50)
        with pytest.raises(Overloaded, match="NUMERAL_MAX_WAITING_IMAGES") as refused:
            running.logits_in_thread(network, IMAGES[:1])
        assert refused.value.headers == {"Retry-After": "2"}
        network.gate.set()
        assert (len(first.result(10)), len(second.result(10))) == (1, 50)
        # a request of more than the bound is taken while nothing waits
        assert len(running.logits_in_thread(network, IMAGES)) == 100


def test_a_coroutine_may_ask_and_give_up(running: Batcher) -> None:
    network = Watched(0)

    async def ask() -> Floats:
        given_up = asyncio.create_task(running.logits(network, IMAGES[:1]))
        await asyncio.to_thread(network.begun.wait, 10)
        waiting = asyncio.create_task(running.logits(network, IMAGES[:2]))
        gone = asyncio.create_task(running.logits(network, IMAGES[:3]))
        await asyncio.to_thread(wait_for, running, 5)
        for task in (given_up, gone):
            task.cancel()
        await asyncio.gather(given_up, gone, return_exceptions=True)
        network.gate.set()
        return await waiting

    found = asyncio.run(ask())
    np.testing.assert_allclose(found, expected(network, IMAGES[:2]), atol=1e-4)
    assert network.batches == [1, 2]


def test_an_error_reaches_who_asked_and_the_thread_goes_on(running: Batcher) -> None:
    network = Watched(0)
    network.gate.set()
    with pytest.raises(ValueError, match="expected"):
        running.logits_in_thread(network, IMAGES[:, :700])
    assert len(running.logits_in_thread(network, IMAGES[:2])) == 2


def test_a_light_network_is_run_by_who_asks() -> None:
    network, idle = Watched(0), Batcher(1)
    network.gate.set()
    assert len(idle.logits_in_thread(network, IMAGES[:3])) == 3  # it was never started
    assert asyncio.run(idle.logits(network, IMAGES[:3])).shape == (3, 10)


def test_a_closed_batcher_refuses(running: Batcher) -> None:
    running.close()
    with pytest.raises(Overloaded, match="stopping"):
        running.logits_in_thread(Watched(0), IMAGES[:1])
