"""Several API processes on one socket. They share nothing but that and the database; the kernel gives each connection
to one of them."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from service.running import lifeline

RESTART_SECONDS = 1.0  # from the start of a process to that of the one that takes its place
BACKLOG = 2048
STARTUP_FAILURE = 3  # as what uvicorn ends with when it cannot start

log = logging.getLogger(__name__)


class Fleet:
    """`size` processes that each do `work` with a listening socket and a number below `size`, and the one that tends them. For a process with
    one thread, as they are forked: what is imported by then they have in common."""

    def __init__(self, host: str, port: int, size: int, work: Callable[[socket.socket, int], None]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._size, self._work = size, work
        self._began: dict[int, float] = {}  # by process id
        self._numbers: dict[int, int] = {}  # likewise; who takes a process's place takes its number
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT, which all of them are sent; a process that ends by itself is replaced, but one
        that cannot start ends them all. The exit status."""
        failure = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for place in range(self._size):
            self._start(place)
        while self._began:
            pid, status = os.wait()
            began, place = self._began.pop(pid, None), self._numbers.pop(pid, 0)
            if began is None or self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code == STARTUP_FAILURE:
                failure = code
                self._stop()
                continue
            log.error("an API process ended with status %s: starting another", code)
            time.sleep(max(0.0, began + RESTART_SECONDS - time.monotonic()))
            self._start(place)
        return failure

    def _stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        self._stopping = True
        for pid in self._began:
            with suppress(ProcessLookupError):  # it has ended, and was not yet taken from the list
                os.kill(pid, signal.SIGTERM)

    def _start(self, number: int) -> None:
        # a signal between the fork and the note of it would miss the new process
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            parent = os.getpid()
            pid = 0 if self._stopping else os.fork()
            if pid:
                self._began[pid], self._numbers[pid] = time.monotonic(), number
            elif not self._stopping:
                self._child(parent, signals, number)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _child(self, parent: int, signals: set[signal.Signals], place: int) -> NoReturn:
        status = 1
        try:
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C reaches all of a terminal: the parent passes it on
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            lifeline.die_with_parent(signal.SIGTERM, parent=parent)
            self._work(self.socket, place)
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            log.exception("an API process failed")
        finally:
            sys.stdout.flush()
            os._exit(status)  # nothing of the parent's is to be closed here
