"""Gives the room that deleted rows have left in a journal back to the file system, by SQLite's VACUUM.

SQLite keeps the pages of deleted rows for later rows, and the file never gets shorter by itself. VACUUM
writes what is left into a temporary file, and from there into the write-ahead log, as one transaction. A
checkpoint moves the log into the journal, and cuts it. Killed before the end of the transaction, the journal
is as it was; killed after it, the log has all of it, and whoever opens the journal next goes on from there.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import Interrupted, StorageFull
from durable_bus.journal.access import wal_bytes
from durable_bus.journal.admin.wal_readers import WalReader, wal_readers
from durable_bus.journal.connection import translated

__all__ = ["Pages", "Vacuumed", "pages_of", "refuse_no_room", "vacuum"]

_OPCODES_BETWEEN_LOOKS = 10_000
"""Of SQLite's: about a millisecond."""
_TEMPORARY_FOLDERS = ("/var/tmp", "/usr/tmp", "/tmp")
"""Where SQLite looks for one, behind its two variables (https://www.sqlite.org/tempfiles.html, section 5)."""


class Pages(NamedTuple):
    """The pages of a journal, in bytes."""

    used_bytes: int
    free_bytes: int
    """Of deleted rows."""


class Vacuumed(NamedTuple):
    """What came of it, in bytes of the journal and its write-ahead log."""

    before_bytes: int
    after_bytes: int
    held_by: list[WalReader]
    """They still read the journal as it was, so it could not be cut yet; empty: it was."""
    is_cut: bool


def pages_of(connection: sqlite3.Connection) -> Pages:
    count, free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return Pages((count - free) * page_bytes, free * page_bytes)


def refuse_no_room(connection: sqlite3.Connection, path: Path) -> dict[Path, tuple[int, int]]:
    """The bytes that a VACUUM needs, and those that are free, by folder: what is left of the journal is
    written into a temporary file, and into the log. Raises StorageFull where they do not fit.
    """
    folders: dict[int, Path] = {}
    needed: dict[Path, int] = {}
    for folder in (path.parent, _temporary_folder(connection, path)):
        folder = folders.setdefault(os.stat(folder).st_dev, folder)
        needed[folder] = needed.get(folder, 0) + pages_of(connection).used_bytes
    room = {folder: (count, shutil.disk_usage(folder).free) for folder, count in needed.items()}
    for folder, (count, free) in room.items():
        if count > free:
            raise StorageFull(f"a vacuum of {path} needs {count:,} bytes in {folder}, and {free:,} are free")
    return room


def _temporary_folder(connection: sqlite3.Connection, path: Path) -> Path:
    """Where SQLite will put its temporary file: beside the journal, as there is room for a log, too.

    Elsewhere may be little room, or memory only. A SQLite that was built without the pragma, which is
    deprecated, chooses by itself.
    """
    connection.execute("PRAGMA temp_store = FILE")
    quoted = str(path.parent).replace("'", "''")
    connection.execute(f"PRAGMA temp_store_directory = '{quoted}'")
    if connection.execute("PRAGMA temp_store_directory").fetchone():
        return path.parent
    named = [os.environ.get(name, "") for name in ("SQLITE_TMPDIR", "TMPDIR")]
    usable = [name for name in (*named, *_TEMPORARY_FOLDERS) if os.access(name, os.W_OK | os.X_OK)]
    return Path(usable[0] if usable else ".")


def vacuum(connection: sqlite3.Connection, path: Path, is_stopped: Callable[[], bool]) -> Vacuumed:
    """Vacuum the journal at `path`, of which `connection` is the writer; the caller holds its lock, and has
    asked `refuse_no_room`. Page size, WAL mode and all rows stay, and no commit is added.

    `is_stopped` is asked again and again. Raises Interrupted when it said yes before all was written, and
    StorageFull: the journal is as it was then. Raises another JournalError when storage fails.
    """
    before_bytes = _bytes_of(path)
    connection.set_progress_handler(lambda: int(is_stopped()), _OPCODES_BETWEEN_LOOKS)
    try:
        with translated(path):
            connection.execute("VACUUM")
    except Exception as error:
        if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            raise Interrupted(f"interrupted: {path} is as it was") from None
        raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.execute("PRAGMA temp_store_directory = ''")  # it is the whole process's
    # If we die here, all of it is in the log, which the next start moves into the journal.
    with translated(path):
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return Vacuumed(before_bytes, _bytes_of(path), wal_readers(path) if busy else [], not busy)


def _bytes_of(path: Path) -> int:
    """The sizes of the files, by their names: to open and close one would drop SQLite's locks."""
    return path.stat().st_size + (wal_bytes(path) or 0)
