"""A child process that does not outlive its parent.

On Linux the kernel sees to it (PR_SET_PDEATHSIG); elsewhere a guard process holds the child and ends it
when the pipe to the parent closes.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
IS_LINUX = sys.platform.startswith("linux")


def die_with_parent(signal_number: int, *, parent: int) -> None:
    """Called in the child: get `signal_number` when `parent` ends. Does nothing but on Linux."""
    if IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it ended before this call
            os.kill(os.getpid(), signal_number)


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], signal_number: int, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own (a Ctrl-C at the terminal reaches the parent alone), to be
    sent `signal_number` if this process ends first. Only for a process with one thread."""
    parent = os.getpid()
    if IS_LINUX:
        return subprocess.Popen(  # noqa: S603 - our own commands
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal_number, parent=parent),
            **options,
        )
    guarded = [sys.executable, "-m", "service.running.lifeline", str(int(signal_number)), *command]
    return subprocess.Popen(  # noqa: S603 - our own commands
        guarded, env=dict(environment), stdin=subprocess.PIPE, start_new_session=True, **options
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a spawned process at once, with all that it started, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):  # it has ended, as Linux and macOS put it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _guard(signal_number: int, command: Sequence[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own commands

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    reader = os.fork()
    if reader == 0:  # waits for the parent's end of the pipe to close
        sys.stdin.buffer.read()
        os.kill(child.pid, signal_number)
        os._exit(0)
    code = child.wait()
    os.kill(reader, signal.SIGKILL)
    return code


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
