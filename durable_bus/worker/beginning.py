"""What a process that a supervisor has spawned does first: a worker, or an engine process."""

import ctypes
import os
import signal
import sys

from durable_bus.wire.memory import keep_freed
from durable_bus.wire.slot import Slot
from durable_bus.wire.spawning import INSIDE_HANDLER_VARIABLE, WorkerArguments

__all__ = ["begin", "die_with"]

_PR_SET_PDEATHSIG = 1


def begin(arguments: WorkerArguments) -> Slot:
    """Die with the supervisor, and leave to handlers nothing of ours but the name of the journal."""
    die_with(arguments.parent_pid)
    keep_freed()
    for fd in arguments.fds:
        os.set_inheritable(fd, False)
    sys.argv = [sys.argv[0]]
    os.environ[INSIDE_HANDLER_VARIABLE] = arguments.journal
    return Slot(arguments.fds[2])


def die_with(parent_pid: int) -> None:
    """Die when the parent dies, however it dies, and leave Ctrl-C to it.

    The kernel sends the signal when the *thread* that started this process ends. So whoever starts one must
    do it on a thread that lives as long as the process shall.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # it had died before we asked to be killed with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
