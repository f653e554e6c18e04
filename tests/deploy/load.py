"""Requests that go on while something is done to the service, each noted with what came of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

THREADS = 3
PAUSE_SECONDS = 0.05


@dataclass
class Load:
    done: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, seconds: float, failure: str | None) -> None:
        with self._lock:
            self.done += 1
            self.slowest = max(self.slowest, seconds)
            if failure is not None:
                self.failed.append(failure)


@contextmanager
def under_load(act: Callable[[], str | None]) -> Iterator[Load]:
    """`act` again and again, in some threads, until the end of the block; it returns what failed."""
    load, over = Load(), threading.Event()

    def work() -> None:
        while not over.wait(PAUSE_SECONDS):
            began = time.monotonic()
            try:
                failure = act()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what a client would see
                failure = repr(error)
            load.note(time.monotonic() - began, failure)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
