"""Threads that share a step's work, each with its part of the batch or of the weights.

Within torch each of them is alone. Left to itself torch hands out the rows of one operation at a time: it takes
some operations whole where they are small (a product of 1000 x 1024 x 1024 in bfloat16 on two cores, a turned
matrix, a norm), and its threads then wait for each other, spinning, which slows whatever else the machine does.
"""

from collections.abc import Callable
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

MOST = 4  # the interpreter lets one of them at a time through; with more cores each has several to itself

T = TypeVar("T")


class Crew:
    """`size` threads that share torch's, of which the one that calls is the first. It works between `with` and its
    end; a crew of one has nothing to begin or to end, and leaves torch's threads as they are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._threads = self._own = torch.get_num_threads()
        self._others: list[_Member] = []

    @classmethod
    def largest(cls) -> Self:
        """That which as many threads as torch has here make."""
        return cls(min(torch.get_num_threads(), MOST))

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        self._own = max(1, self._threads // self.size)
        self._others = [_Member(number, self._own) for number in range(1, self.size)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for other in self._others:
            other.leave()
        self._others = []

    def each(self, work: Callable[[int], T]) -> list[T]:
        """What `work` gives for every member 0, 1, ..., side by side. It ends when all of them have; the first
        error of theirs is raised then."""
        if not self._others:
            return [work(member) for member in range(self.size)]
        # first, since a thread's number begins as that which was set last
        torch.set_num_threads(self._own)
        try:
            for other in self._others:
                other.begin(work)
            try:
                own = work(0)
            finally:
                for other in self._others:
                    other.wait()  # none may go on in memory that the caller believes to be its own
        finally:
            torch.set_num_threads(self._threads)
        return [own, *(other.result() for other in self._others)]

    def share(self, member: int, count: int) -> slice:
        """The member's part of `count` rows: as even as can be, in order, perhaps empty."""
        return slice(member * count // self.size, (member + 1) * count // self.size)


class _Member:
    """One of the threads. It is told and tells by locks, for a quarter of what an executor's futures cost: a step
    of some milliseconds has half a dozen such meetings."""

    def __init__(self, number: int, threads: int) -> None:
        self._number, self._threads = number, threads
        self._told, self._done = Lock(), Lock()
        self._told.acquire()
        self._done.acquire()
        self._work: Callable[[int], Any] | None = None
        self._found: Any = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name=f"crew-{number}", daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[int], Any]) -> None:
        self._work = work
        self._told.release()

    def wait(self) -> None:
        self._done.acquire()

    def result(self) -> Any:
        """What the work gave, once `wait` is over. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._found

    def leave(self) -> None:
        self._work = None
        self._told.release()
        self._thread.join()

    def _run(self) -> None:
        torch.get_num_threads()  # which torch would do later, and undo what follows
        torch.set_num_threads(self._threads)
        while True:
            self._told.acquire()
            if self._work is None:
                return
            self._found = self._error = None
            try:
                self._found = self._work(self._number)
            except BaseException as error:  # noqa: BLE001  # raised again where it was asked for
                self._error = error
            self._done.release()


ALONE = Crew(1)
