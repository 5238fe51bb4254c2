"""The end of another process, seen by a descriptor, also where there are no pidfds.

`os.pidfd_open` is missing in a Python that was built with older headers, as conda's and uv's (before August
2026) were: github.com/python-trio/trio/issues/2855, github.com/astral-sh/uv/issues/15081. The system call is
missing in Linux before 5.3 and in gVisor (github.com/google/gvisor/issues/5839), and some containers refuse
it.
"""

import contextlib
import errno
import os
import select
import signal
import threading
import time
from typing import Any

__all__ = ["fd_if_here", "kill", "process_state", "watch_end"]

_NOT_HERE = (errno.ENOSYS, errno.EPERM)
"""What a kernel says of a call that it does not know, and a container of one that it refuses."""
_LOOK_EVERY_S = 0.1


def fd_if_here(name: str, *arguments: Any) -> int | None:
    """The descriptor that a function of `os` gives; None where Python does not name it, or the kernel does
    not have it. Raises its other OSErrors.
    """
    function = getattr(os, name, None)
    if function is None:
        return None
    try:
        return int(function(*arguments))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise


def watch_end(pid: int) -> int:
    """A descriptor that is readable when a process has ended. The caller closes it.

    Without pidfds a thread waits for a child of ours, and looks after any other process ten times a second.
    Raises ProcessLookupError when there is no such process, and OSError when there is no room for a
    descriptor or a thread.
    """
    fd = fd_if_here("pidfd_open", pid)
    if fd is not None:
        return fd
    with contextlib.suppress(PermissionError):
        os.kill(pid, 0)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    name = f"durable_bus end of {pid}"
    waits = threading.Thread(target=_wait_for, args=(pid, write_fd), name=name, daemon=True)
    try:
        waits.start()
    except RuntimeError as error:
        os.close(read_fd)
        os.close(write_fd)
        raise OSError(errno.EAGAIN, str(error)) from error
    return read_fd


def kill(pid: int, end_fd: int) -> None:
    """SIGKILL for the process of a `watch_end`, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(signal, "pidfd_send_signal"):
            try:
                return signal.pidfd_send_signal(end_fd, signal.SIGKILL)
            except OSError as error:
                if error.errno not in (*_NOT_HERE, errno.EBADF):  # EBADF: it is no pidfd
                    raise
        if not select.select([end_fd], [], [], 0)[0]:
            os.kill(pid, signal.SIGKILL)


def _wait_for(pid: int, write_fd: int) -> None:
    """Close `write_fd` at the end of the process, which is left for others to reap."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        while _is_there(pid):
            time.sleep(_LOOK_EVERY_S)
    os.close(write_fd)


def _is_there(pid: int) -> bool:
    """A zombie has ended, whether its parent wants to know that or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process_state(pid) not in ("Z", "X")  # not seen: the next look says whether it has ended just now


def process_state(pid: int) -> str:
    """The letter of proc_pid_stat(5): R, S, D, T, Z, ...; empty when there is no such process to be seen."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0]
    return ""
