"""The lock that says who owns a journal: flock on a file of its own, never on the journal itself."""

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

from durable_bus.errors import JournalLocked, JournalUnreachable

__all__ = ["JournalLock", "holder_pid", "lock_path", "socket_in_lock"]

WAIT_S = 5.0
_RETRY_S = 0.05
_LOCK_BYTES_MAX = 8192


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
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise JournalUnreachable(f"cannot open the lock {path}: it is not a file")
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
        self._write(f"{os.getpid()}\n")

    def note_socket(self, path: Path) -> None:
        """Where the daemon listens when that is not beside the journal: clients look here."""
        self._write(f"{os.getpid()}\n{path}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # no room on disk: the lock is held all the same
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, os.fsencode(text), 0)

    def release(self) -> None:
        os.close(self._fd)


def _lines_in(path: Path) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.fsdecode(os.read(fd, _LOCK_BYTES_MAX)).splitlines()
    except OSError:
        return []
    finally:
        os.close(fd)


def _pid_in(path: Path) -> int | None:
    lines = _lines_in(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def socket_in_lock(journal: Path) -> str | None:
    """Where the journal's last holder said it listens; None when it said nothing. Its path is absolute."""
    lines = _lines_in(lock_path(journal))
    return lines[1] if len(lines) > 1 and lines[1].startswith("/") else None


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
