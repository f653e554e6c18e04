"""Word from a worker to its training processes that it is told to stop."""

import mmap


class Leaving:
    """A flag in memory that a fork shares. Without a lock on purpose: the one in a multiprocessing.Event
    stays taken for ever by a process that is killed while it looks, and then whoever looks next hangs, as
    does the signal handler that sets it."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._flag[0] = 1

    def is_set(self) -> bool:
        return self._flag[0] != 0
