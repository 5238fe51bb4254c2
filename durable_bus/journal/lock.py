"""The lock that says who owns a journal: flock on a file of its own, never on the journal itself.

The file says three more things, a line each: who has it, or had it last; where that one listens, when not
beside the journal; and the number of the journal's newest commit, with the journal's inode. By the last of
them a start knows that the -wal, which held the newest commits, is gone (`journal.completeness`).
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import BinaryIO

from durable_bus.errors import JournalLocked, JournalUnreachable
from durable_bus.journal.access import path_to_write, refuse_file_of_others

__all__ = ["JournalLock", "holder_pid", "lock_path", "noted_commit", "socket_in_lock"]

WAIT_S = 5.0
_RETRY_S = 0.05
_LOCK_BYTES_MAX = 8192
_COMMIT_DIGITS = 20


def lock_path(journal: Path) -> Path:
    """Beside the journal's real path, so that every name of one journal meets one lock."""
    return Path(f"{os.path.realpath(journal)}.lock")


class JournalLock:
    """Holds the lock until `release` or the end of the process, whichever way it ends.

    The pid in the file is information for people; the lock is the lock.
    """

    def __init__(self, journal: Path, wait_s: float = WAIT_S) -> None:
        """Wait up to `wait_s` seconds. Raises JournalLocked, naming the holder, or JournalUnreachable, also
        for a journal that somebody else could write to: whoever writes one comes by here.
        """
        self.journal = path_to_write(journal)
        """This one is to be opened."""
        path = lock_path(self.journal)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnreachable(f"cannot open the lock {path}: {error.strerror}") from error
        try:
            refuse_file_of_others(path, os.fstat(self._fd))  # somebody may have been faster than we
            deadline_s = time.monotonic() + wait_s
            while not _locked(self._fd, fcntl.LOCK_EX):
                if time.monotonic() >= deadline_s:
                    raise JournalLocked(_pid_in(path), str(journal))
                time.sleep(_RETRY_S)
        except BaseException:
            os.close(self._fd)
            raise
        self._socket = ""
        self._noted = _lines_in(path)[2]  # what the last holder has noted stays
        self._noted_at = 0
        self._write()

    def note_socket(self, path: Path) -> None:
        """Where the daemon listens when that is not beside the journal: clients look here."""
        self._socket = str(path)
        self._write()

    def begin_to_note(self, commit_id: int, *, survives_power_cut: bool = True) -> None:
        """The newest commit of the journal as it was opened; `note_commit` is told of the later ones. If they
        do not survive a power cut, a journal with fewer may be whole: then no inode is noted.
        """
        inode = os.stat(self.journal).st_ino if survives_power_cut else 0
        self._noted = f"{commit_id:0{_COMMIT_DIGITS}} {inode}"
        self._write()
        with contextlib.suppress(OSError):
            os.fsync(self._fd)  # once: later notes are written over it, and a power cut leaves one of them

    def note_commit(self, commit_id: int) -> None:
        """A commit is on disk. Not synced: a note may be older than the journal, and must not be newer."""
        self._noted = f"{commit_id:0{_COMMIT_DIGITS}}{self._noted[_COMMIT_DIGITS:]}"
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, self._noted[:_COMMIT_DIGITS].encode(), self._noted_at)

    def _write(self) -> None:
        before = os.fsencode(f"{os.getpid()}\n{self._socket}\n")
        self._noted_at = len(before)
        text = before + self._noted.encode() + b"\n"
        with contextlib.suppress(OSError):  # no room on disk: the lock is held all the same
            # In this order: killed in between, what was noted is still there.
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        os.close(self._fd)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> BinaryIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags))


def _lines_in(path: Path) -> list[str]:
    """The three lines; empty ones where there is nothing."""
    try:
        with _open(path) as file:
            text = file.read(_LOCK_BYTES_MAX) or b""  # None of a pipe that is empty
    except OSError:
        text = b""
    return [*os.fsdecode(text).splitlines(), "", "", ""]


def _pid_in(path: Path) -> int | None:
    pid = _lines_in(path)[0]
    return int(pid) if pid.isdecimal() else None


def socket_in_lock(journal: Path) -> str | None:
    """Where the journal's last holder said it listens; None when it said nothing. Its path is absolute."""
    path = _lines_in(lock_path(journal))[1]
    return path if path.startswith("/") else None


def noted_commit(journal: Path) -> tuple[int, bool | None] | None:
    """The newest commit that the journal's last supervisor has noted, and whether it was of the file that is
    there now, None when it has not said of which; None when nothing is noted. A journal may have more
    commits, and lacks some when it has fewer, unless it was not said of which file: see `begin_to_note`.
    """
    commit_id, _, inode = _lines_in(lock_path(journal))[2].partition(" ")
    if not (commit_id.isdecimal() and inode.isdecimal()):
        return None
    try:
        return int(commit_id), os.stat(journal).st_ino == int(inode) if int(inode) else None
    except OSError:
        return None


def holder_pid(journal: Path) -> int | None:
    """The process that serves this journal now; None when nobody does. Never waits, changes nothing."""
    path = lock_path(journal)
    try:
        with _open(path) as file:
            return None if _locked(file.fileno(), fcntl.LOCK_SH) else _pid_in(path)
    except OSError:
        return None
