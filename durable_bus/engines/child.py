"""What a process that an engine starts does first, before it runs any batch."""

import ctypes
import os
import signal

__all__ = ["live_with"]

_PR_SET_PDEATHSIG = 1


def live_with(parent_pid: int) -> int:
    """Die when the engine process dies, however it dies, and leave Ctrl-C to it. Return the process's id.

    The kernel sends the signal when the *thread* that started this process ends. So whoever starts one must
    do it on a thread that lives as long as the process shall.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)  # it had died before we asked to be killed with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.getpid()
