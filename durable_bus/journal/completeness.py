"""Tells whether a journal lacks its last commits, because its -wal was left behind or deleted.

The last commits are in the -wal only. Without it the file is an older journal, in which nothing looks wrong.
This is how it is told:

- A backup of ours is not in WAL mode. It is complete in itself.
- The supervisor notes the number of each commit, and the journal's inode, in its lock file. If the inode is
  this file's, the journal lacks what was noted and is not there.
- If the lock file is of another inode, the journal is a copy, or has taken the place of another one. It is
  complete if it has all that was noted, or if its newest run says that it has ended.
- Without a lock file, a newest run that has not said that it ended had a -wal when it died. If that is
  missing, empty (an idle supervisor leaves it empty, and so does a reader of a copy) or no log, commits may
  be missing.

Nothing is written: to open a journal would make the -wal whose absence we look for.
"""

import os
import sqlite3
import struct
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import JournalDamaged, JournalUnreachable, NotFound
from durable_bus.journal.access import refuse_no_file, wal_bytes
from durable_bus.journal.connection import APPLICATION_ID, open_reader, read_only_uri
from durable_bus.journal.statements import load

__all__ = ["FileFacts", "file_facts", "refuse_incomplete", "what_may_be_missing"]

_HEADER_BYTES = 100
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_WAL_MAGIC = 0x377F0682


class FileFacts(NamedTuple):
    """What the file itself says, in its first 100 bytes and its size."""

    size_bytes: int
    expected_bytes: int
    """What the header says; 0 when it does not say."""
    is_sqlite: bool
    in_wal_mode: bool
    wal_bytes: int | None
    """Size of the -wal beside it, None without one."""

    @property
    def is_truncated(self) -> bool:
        """The end of the file is missing, and no -wal can hold it."""
        return self.size_bytes < self.expected_bytes and not self.wal_bytes


def file_facts(path: str | Path) -> FileFacts:
    """Read the header. Only while this process has no connection to the journal: closing the file would drop
    that connection's locks. Raises NotFound or JournalUnreachable.
    """
    try:
        refuse_no_file(Path(path))
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise NotFound(f"no journal at {path}") from None
    except OSError as error:
        raise JournalUnreachable(f"cannot open the journal {path}: {error.strerror}") from error
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        return FileFacts(size_bytes, 0, False, False, wal_bytes(path))
    (page_bytes,) = struct.unpack_from(">H", header, 16)
    change_counter, pages = struct.unpack_from(">II", header, 24)
    (counter_of_pages,) = struct.unpack_from(">I", header, 92)
    expected = pages * (65536 if page_bytes == 1 else page_bytes) if change_counter == counter_of_pages else 0
    return FileFacts(size_bytes, expected, True, header[18] == 2, wal_bytes(path))


class _End(NamedTuple):
    """How a journal ends, as far as it can be read."""

    commit_id: int
    run_id: int
    """The newest run; 0: none yet."""
    run_ended: bool


_NOTHING_YET = _End(0, 0, True)
"""Of a journal without a schema."""


def what_may_be_missing(
    path: str | Path, facts: FileFacts, noted: tuple[int, bool | None] | None
) -> tuple[str | None, int]:
    """Why commits may be missing at the end, None when there is no reason to think so; and the newest commit.

    `noted`: what the lock file says, see `lock.noted_commit`. Only while nobody serves the journal. What is
    damaged is for others to tell: then no more is said than that nothing is known.
    """
    end = _end(path, facts)
    if end is None:
        return None, 0
    commit_id, noted_id = end.commit_id, noted[0] if noted else 0
    name = os.path.basename(os.path.realpath(path))
    if not facts.in_wal_mode or (noted and commit_id >= noted_id):
        return None, commit_id
    older = "unless this is an older copy, put in the journal's place"
    if noted and noted[1]:
        return (
            f"{path} ends with commit {commit_id:,}, but its supervisor has made {noted_id:,}: the last "
            f"{noted_id - commit_id:,} are missing. They were in {name}-wal beside it ({older})"
        ), commit_id
    if end.run_ended or not end.run_id:
        return None, commit_id
    if noted and noted[1] is False:
        return (
            f"{path} may lack the last {noted_id - commit_id:,} commits: it ends with {commit_id:,}, "
            f"{name}.lock beside it says that there were {noted_id:,}, and its run {end.run_id} has not said "
            f"that it ended. "
            f"They were in {name}-wal, which is missing, cut off or damaged ({older})"
        ), commit_id
    if facts.wal_bytes and _begins_as_a_log(f"{os.path.realpath(path)}-wal"):
        return None, commit_id
    return (
        f"{path} may lack whatever was committed last: its run {end.run_id} has not said that it ended, and "
        f"the {name}-wal that belongs beside it is missing or empty (a copy takes all of {name}*, or is made "
        "by durable-bus backup)"
    ), commit_id


def _begins_as_a_log(wal: str) -> bool:
    """Whether a -wal has a header and a whole first frame of the same log. SQLite takes any other for empty
    (https://www.sqlite.org/fileformat2.html, section 4).
    """
    try:
        with open(wal, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            start = file.read(_WAL_HEADER_BYTES + _FRAME_HEADER_BYTES)
    except OSError:
        return True  # it is there, and somebody else will say why it cannot be read
    if len(start) < _WAL_HEADER_BYTES + _FRAME_HEADER_BYTES:
        return False
    magic, _, page_bytes = struct.unpack_from(">III", start)
    salt, salt_of_frame = start[16:24], start[_WAL_HEADER_BYTES + 8 : _WAL_HEADER_BYTES + 16]
    return magic & ~1 == _WAL_MAGIC and salt == salt_of_frame and size_bytes >= len(start) + page_bytes


def refuse_incomplete(path: Path, noted: tuple[int, bool | None] | None) -> int:
    """Before the journal is opened for writing, by who holds its lock: the newest commit, 0 without any.

    Raises JournalDamaged when commits may be missing; nothing was written then.
    """
    try:
        facts = file_facts(path)
    except (NotFound, OSError):
        return 0  # a new journal; or one that opening it will say all about
    missing, newest = what_may_be_missing(path, facts, noted)
    if missing:
        raise JournalDamaged(
            f"{missing}. Put the -wal where it was; or, to go on without what is missing, go on with a "
            f"backup: durable-bus backup NEW --journal {path}"
        )
    return newest


def _end(path: str | Path, facts: FileFacts) -> _End | None:
    if not facts.is_sqlite:
        return None
    try:
        if facts.wal_bytes:
            connection = open_reader(path)
        else:
            # There is no log to be read, and opened as usual SQLite would make one.
            uri = read_only_uri(Path(path)) + "&immutable=1"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except NotFound:
        return _NOTHING_YET  # killed while the schema went into its -wal
    except (JournalDamaged, sqlite3.Error):
        return None
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        if application_id == 0 and not connection.execute(load("history.sql")["tables"]).fetchone():
            return _NOTHING_YET  # killed before the schema was in it; or that was in the -wal
        if application_id != APPLICATION_ID:
            return None
        run = connection.execute(load("history.sql")["newest_run"]).fetchone()
        commit_id = connection.execute(load("history.sql")["newest_commit"]).fetchone()[0] or 0
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    return _End(int(commit_id), int(run[0]), bool(run[1])) if run else _End(int(commit_id), 0, True)
