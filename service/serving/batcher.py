"""What runs networks for requests: at once where that takes no longer than to hand it over, else a thread of its own
that takes whatever has queued.

The queue is bounded: beyond it requests are refused, so that those which are accepted are answered soon. One batch holds
the images of one network only; a request keeps the network that it began with."""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import Unavailable
from service.observing.meter import Meter
from service.serving.inference import Floats

LIGHT = (
    2_000_000  # multiplications that take less than a tenth of a millisecond, about what a hand-over costs
)
LARGEST_BATCH = 256  # images; more are no faster an image, and the first of them would wait for the last
# images: in one batch of so many an image takes a quarter of what it does alone, and more would hardly make it less
WORTH_BATCHING = 8


class Overloaded(Unavailable):
    code = "overloaded"


class Runs(Protocol):
    """A network in any form."""

    @property
    def cost(self) -> int:
        """Of an image, in float32's multiplications."""
        ...

    def logits(self, inputs: NDArray[Any]) -> Floats:
        """(n, classes) of (n, 784)."""
        ...


@dataclass(frozen=True, eq=False)
class _Waiting:
    network: Runs
    pixels: NDArray[Any]
    answer: "Future[Floats]" = field(default_factory=Future)


class Batcher:
    """Runs networks; any thread may ask. It works between `start` and `close`."""

    def __init__(self, max_waiting: int, meter: Meter | None = None) -> None:
        """`max_waiting` images may wait at a time; a single request may bring more while none do."""
        self._max_waiting = max_waiting
        self._meter = meter or Meter()
        self._queue: deque[_Waiting] = deque()
        self._images = 0  # in the queue
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Answer those that wait, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout=10)

    async def logits(self, network: Runs, pixels: NDArray[Any]) -> Floats:
        """(n, classes) of (n, 784). Raises Overloaded."""
        if is_light(network, len(pixels)):
            return self._now(network, pixels)
        return await asyncio.wrap_future(self.queued(network, pixels))

    def logits_in_thread(self, network: Runs, pixels: NDArray[Any]) -> Floats:
        """The same for a caller that may wait."""
        if is_light(network, len(pixels)):
            return self._now(network, pixels)
        return self.queued(network, pixels).result()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._images

    def _now(self, network: Runs, pixels: NDArray[Any]) -> Floats:
        self._meter.ran(len(pixels))
        return network.logits(pixels)

    def queued(self, network: Runs, pixels: NDArray[Any]) -> "Future[Floats]":
        """The same, of whatever size, when its turn has come. Raises Overloaded."""
        one = _Waiting(network, pixels)
        with self._changed:
            if self._is_closing:
                raise Overloaded("the server is stopping")
            if self._images and self._images + len(pixels) > self._max_waiting:
                raise Overloaded(
                    f"{self._images:,} images wait already, the limit is {self._max_waiting:,} "
                    "(NUMERAL_MAX_WAITING_IMAGES): try again soon, or run more API processes"
                )
            self._queue.append(one)
            self._images += len(pixels)
            self._meter.waiting(self._images)
            self._changed.notify()
        return one.answer

    def _work(self) -> None:
        while True:
            batch = self._next()
            if not batch:
                return
            batch = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if batch:
                self._meter.ran(sum(len(one.pixels) for one in batch))
                _run(batch)

    def _next(self) -> list[_Waiting]:
        """Those at the head of the queue that have one network; none when all is over."""
        with self._changed:
            while not self._queue and not self._is_closing:
                self._changed.wait()
            batch: list[_Waiting] = []
            images = 0
            while self._queue and (
                not batch
                or (
                    self._queue[0].network is batch[0].network
                    and images + len(self._queue[0].pixels) <= LARGEST_BATCH
                )
            ):
                batch.append(self._queue.popleft())
                images += len(batch[-1].pixels)
            self._images -= images
            self._meter.waiting(self._images)
            return batch


def is_light(network: Runs, images: int) -> bool:
    """Whether it is done sooner than handed over."""
    return network.cost * images <= LIGHT


def room(network: Runs) -> int:
    """How many images go together that came at one time: as many as are light, or as the thread takes where those would
    be too few for a network to gain by being run on several."""
    light = LIGHT // network.cost
    return light if light >= WORTH_BATCHING else LARGEST_BATCH


def _run(batch: list[_Waiting]) -> None:
    try:
        pixels = np.concatenate([one.pixels for one in batch])
        found = batch[0].network.logits(pixels)
    except Exception as error:  # noqa: BLE001  raised again by whoever asked
        for one in batch:
            one.answer.set_exception(error)
        return
    start = 0
    for one in batch:
        one.answer.set_result(found[start : start + len(one.pixels)])
        start += len(one.pixels)
