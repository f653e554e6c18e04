"""Threads that share a step's work, each with its part of the batch or of the weights.

Within torch each of them is alone. Left to itself torch hands out the rows of one operation at a time: it takes
some operations whole where they are small (a product of 1000 x 1024 x 1024 in bfloat16 on two cores, a turned
matrix, a norm), and its threads then wait for each other, spinning, which slows whatever else the machine does.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import torch

MOST = 4  # the interpreter lets one of them at a time through; with more cores each has several to itself

T = TypeVar("T")


class Crew:
    """`size` threads that share torch's, of which the one that calls is the first. It works between `with` and its
    end; a crew of one has nothing to begin or to end, and leaves torch's threads as they are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._threads = self._own = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def largest(cls) -> Self:
        """That which as many threads as torch has here make."""
        return cls(min(torch.get_num_threads(), MOST))

    def __enter__(self) -> Self:
        if self.size > 1:
            self._threads = torch.get_num_threads()
            self._own = max(1, self._threads // self.size)
            self._pool = ThreadPoolExecutor(
                self.size - 1, "crew", initializer=torch.set_num_threads, initargs=(self._own,)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def each(self, work: Callable[[int], T]) -> list[T]:
        """What `work` gives for every member 0, 1, ..., side by side. It ends when all of them have; the first
        error of theirs is raised then."""
        if self._pool is None:
            return [work(member) for member in range(self.size)]
        others = [self._pool.submit(work, member) for member in range(1, self.size)]
        torch.set_num_threads(self._own)
        try:
            own = work(0)
        finally:
            for other in others:
                other.exception()  # waits: none may go on in memory that the caller believes to be its own
            torch.set_num_threads(self._threads)
        return [own, *(other.result() for other in others)]

    def share(self, member: int, count: int) -> slice:
        """The member's part of `count` rows: as even as can be, in order, perhaps empty."""
        return slice(member * count // self.size, (member + 1) * count // self.size)


ALONE = Crew(1)
