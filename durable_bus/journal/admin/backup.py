"""A consistent copy of a journal, also while a supervisor writes it.

The copy is made beside its destination, brought to disk, and renamed over it: killed at any moment, a backup
leaves the old copy as it was. SQLite's backup interface reads all pages within one read transaction, so the
supervisor goes on; the write-ahead log cannot shrink meanwhile.
"""

import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from durable_bus.errors import JournalLocked, JournalUnreachable, StorageFailed, UsageError
from durable_bus.journal.access import files_of, real_path, refuse_file_of_others, wal_bytes
from durable_bus.journal.completeness import file_facts
from durable_bus.journal.connection import open_reader, translated

__all__ = ["back_up", "copy_seconds"]

_STEP_BYTES = 32 * 1024 * 1024
"""After so many somebody who watches is told, when they are on disk: else the end, where all of it would be
brought there at once, took as long as the copying.
"""
_SAMPLE_BYTES = 64 * 1024 * 1024


def back_up(
    journal: str | Path,
    destination: str | Path,
    *,
    served_by: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> int:
    """Copy the journal to `destination`, replacing an earlier backup there; the size of the copy in bytes.

    The copy is not in WAL mode, so it is complete in itself, and readable where nobody may write; a
    supervisor that is started on it changes that, and then it is a journal, which no backup replaces.
    `served_by`: who serves what is at `destination` (`lock.holder_pid`). `watch` is told how many bytes of
    how many are copied; only where nobody writes the journal meanwhile: whatever is written between two steps
    of the copy makes SQLite begin anew.

    Raises UsageError, NotAJournal (`destination` is a file of another kind), JournalLocked (another backup to
    it is running), JournalUnreachable (another user has put something in its way), StorageFailed, or as
    open_reader does.
    """
    target = real_path(destination)
    if served_by is not None:
        raise UsageError(f"{target} is a journal in use, by process {served_by}: name another file")
    _check_destination(Path(journal), target)
    partial = target.with_name(f".{target.name}.durable_bus_backup")
    source = open_reader(journal)
    try:
        with _locked(partial, target) as fd:
            _copy(source, partial, fd, watch)
            # Not in WAL mode any more (https://www.sqlite.org/fileformat.html, offsets 18 and 19): there is
            # no -wal that the copy could be missing. `PRAGMA journal_mode` would make files beside it.
            os.pwrite(fd, b"\x01\x01", 18)
            os.fsync(fd)
            size_bytes = os.fstat(fd).st_size
            _check_destination(Path(journal), target)  # copying takes long enough to start a supervisor on it
            for suffix in ("-wal", "-shm"):  # empty, left by readers of what was there before
                Path(f"{target}{suffix}").unlink(missing_ok=True)
            # If we die here, the old copy is there, and a partial one that the next backup writes anew.
            os.replace(partial, target)
        _sync_folder(target.parent)
        return size_bytes
    except OSError as error:
        raise StorageFailed(f"cannot write the backup {destination}: {error.strerror}") from error
    finally:
        source.close()


def _check_destination(journal: Path, target: Path) -> None:
    """Never over a journal that may be in use, nor over anything that is not a backup of one."""
    if target == Path(os.path.realpath(journal)) or (target.exists() and os.path.samefile(target, journal)):
        raise UsageError(f"{target} is the journal itself: name another file for its backup")
    if target in files_of(journal):
        raise UsageError(f"{target} belongs to the journal itself: name another file for its backup")
    if target.is_dir():
        raise UsageError(f"{target} is a folder: name a file for the backup")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise UsageError(f"{target} is not a file that can be replaced: name another one for the backup")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}")
    if wal_bytes(target):
        raise UsageError(f"{target} is a journal in use (there is a -wal beside it): name another file")
    if target.exists() and target.stat().st_size:
        with contextlib.closing(open_reader(target)):
            pass  # raises NotAJournal for anything else
        # Its -wal tells nothing: a supervisor that idles leaves an empty one, one that has ended none.
        if file_facts(target).in_wal_mode:
            raise UsageError(f"{target} is a journal, not a backup of one: name another file")


@contextlib.contextmanager
def _locked(partial: Path, target: Path) -> Iterator[int]:
    """The partial file, empty and ours alone."""
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        refuse_file_of_others(partial, os.fstat(fd))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            error = JournalLocked()
            error.args = (f"another backup to {target} is running",)
            raise error from None
        os.ftruncate(fd, 0)  # what a killed backup has left
        yield fd
    except (JournalLocked, JournalUnreachable):
        raise  # it is somebody else's
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        raise
    finally:
        os.close(fd)


def _copy(
    source: sqlite3.Connection, partial: Path, fd: int, watch: Callable[[int, int], None] | None
) -> None:
    """Everything the source holds now, as one file."""
    with translated(partial):
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            # Nobody will ever want half of it back: no rollback journal, and the data is synced at the end.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            if watch is None:
                source.backup(copy)
                return
            (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

            def step_done(_: int, remaining: int, pages: int) -> None:
                os.fdatasync(fd)
                watch((pages - remaining) * page_bytes, pages * page_bytes)

            source.backup(copy, pages=_STEP_BYTES // page_bytes, progress=step_done)


def copy_seconds(journal: Path, size_bytes: int) -> float:
    """How long a copy of the journal beside it takes, by a part from its middle that is copied there and
    brought to disk, read from the disk if that may be.

    Only while this process has no connection to the journal: closing the file drops its locks. Raises
    StorageFailed.
    """
    sample_bytes = min(size_bytes, _SAMPLE_BYTES)
    try:
        import tempfile  # 4 ms, which no start pays: few upgrade a journal

        with open(journal, "rb") as file, tempfile.TemporaryFile(dir=journal.parent) as copy:
            middle = (size_bytes - sample_bytes) // 2
            os.posix_fadvise(file.fileno(), middle, sample_bytes, os.POSIX_FADV_DONTNEED)
            file.seek(middle)
            begun = time.monotonic()
            copied = copy.write(file.read(sample_bytes))
            copy.flush()
            os.fdatasync(copy.fileno())
            return (time.monotonic() - begun) * size_bytes / max(1, copied)
    except OSError as error:
        raise StorageFailed(f"cannot copy the journal {journal} beside itself: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
