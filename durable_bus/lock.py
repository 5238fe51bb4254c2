"""The lock that says who owns a journal: flock on a file of its own, never on the journal itself."""

import fcntl
import os
import time
from pathlib import Path

from durable_bus.errors import JournalLocked, JournalUnreachable

__all__ = ["JournalLock", "holder_pid", "lock_path"]

WAIT_S = 5.0
_RETRY_S = 0.05


def lock_path(journal: Path) -> Path:
    """Beside the journal's real path, so that every name of one journal meets one lock."""
    return Path(f"{os.path.realpath(journal)}.lock")


class JournalLock:
    """Holds the lock until `release` or the end of the process, whichever way it ends.

    The pid in the file is information for people; the lock is the lock.
    """

    def __init__(self, journal: Path, wait_s: float = WAIT_S) -> None:
        """Wait up to `wait_s` seconds. Raises JournalLocked, naming the holder, or JournalUnreachable."""
        self._journal = journal
        path = lock_path(journal)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnreachable(f"cannot open the lock {path}: {error.strerror}") from error
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    os.close(self._fd)
                    raise JournalLocked(_pid_in(path), str(journal)) from None
                time.sleep(_RETRY_S)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def holder_pid(journal: Path) -> int | None:
    """The process that serves this journal now; None when nobody does. Never waits, changes nothing."""
    path = lock_path(journal)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(path)
    finally:
        os.close(fd)
    return None
