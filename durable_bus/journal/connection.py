"""Opening the journal: as its one writer, or as one of any number of readers.

The writer is the supervisor, and nobody else: two connections that write or checkpoint at the same instant
may lose pages (the WAL-reset bug of SQLite 3.7.0 to 3.51.2). Readers open `mode=ro`. The supervisor's process
touches the journal through this library only: closing any other descriptor of the file would drop SQLite's
POSIX locks, and the next reader elsewhere could unlink the live WAL.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from durable_bus.errors import (
    JournalDamaged,
    JournalError,
    JournalTooNew,
    JournalUnreachable,
    NotAJournal,
    NotFound,
    StorageFailed,
    StorageFull,
    one_line,
)
from durable_bus.journal.access import path_to_write, refuse_no_file, refuse_others, reserved
from durable_bus.payloads.settings import DURABILITIES

__all__ = [
    "APPLICATION_ID",
    "PAGE_BYTES",
    "SCHEMA_VERSION",
    "TEXT_BYTES_MAX",
    "check_identity",
    "open_reader",
    "open_writer",
    "read_only_uri",
    "transaction",
    "translate",
    "translated",
]

APPLICATION_ID = int.from_bytes(b"DBUS", "big")
SCHEMA_VERSION = 7
SQLITE_OLDEST = (3, 38, 0)

TEXT_BYTES_MAX = 64 * 1024 * 1024
"""The longest text that SQLite may make of many payloads; beyond it we ask for fewer. One of 8 MiB fits."""
_CACHE_KIB = 32 * 1024
PAGE_BYTES = 8 * 1024
"""Of a new journal. A page costs two writes and a checksum: 16 KiB instead of SQLite's 4 made a million-item
run 13 % faster. But a commit writes whole pages: with 8 KiB ten-item buffers go 10 % faster than with 16.
"""
_CHECKPOINT_BYTES = 4 * 1024 * 1024
"""A commit that leaves the log this long checkpoints it in about 5 ms. At 64 MiB it took 170 ms, and workers
ran out of work. A short log, overwritten in place, also syncs faster: together 8 % (200,000 items).
"""
_WAL_KEPT_BYTES = 64 * 1024 * 1024
"""A log that a reader has kept from shrinking is cut to this when it begins anew."""


def translate(error: sqlite3.Error, path: str | Path) -> JournalError:
    """The error of ours that says what an SQLite error means for the journal at `path`."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_FULL":
        return StorageFull(f"no room on disk for the journal {path}")
    if name == "SQLITE_NOTADB":
        return NotAJournal(f"{path} is not a durable_bus journal: it is not an SQLite database")
    if name.startswith("SQLITE_CORRUPT"):
        return JournalDamaged(
            f"the journal {path} is damaged: {one_line(str(error))} (durable-bus check says where, export "
            "saves what can be read)"
        )
    if name == "SQLITE_READONLY_ROLLBACK":
        return JournalUnreachable(
            f"cannot open the journal {path}: a change of it was cut short, and only who may write to it can "
            "undo that"
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return JournalUnreachable(f"cannot open the journal {path}: {one_line(str(error))}")
    return StorageFailed(
        f"the storage of the journal {path} failed: {one_line(str(error))} ({name or type(error).__name__})"
    )


@contextlib.contextmanager
def translated(path: str | Path) -> Iterator[None]:
    """Whatever SQLite raises inside comes out as the JournalError that says what it means."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def check_identity(connection: sqlite3.Connection, path: str | Path, *, newer: bool = False) -> int:
    """The journal's schema version (0: an empty file). Only reads. Raises NotAJournal or JournalTooNew.

    `newer`: a version that we do not know is no error. Who asks for that reads what it knows and can find.
    """
    with translated(path):
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id == 0 and tables == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise NotAJournal(f"{path} is not a durable_bus journal: it is another program's SQLite database")
    if version > SCHEMA_VERSION and not newer:
        raise JournalTooNew(
            f"the journal {path} has schema version {version}, this durable_bus "
            f"knows {SCHEMA_VERSION}: upgrade durable_bus"
        )
    return int(version)


def open_writer(path: Path, durability: str = "full") -> sqlite3.Connection:
    """Open, or create with mode 0600, the journal at `path` for its one writer, who holds the lock already.

    `durability` is "full" (an acknowledged commit survives a power cut) or "normal" (it survives a kill of
    any process, not a power cut). Raises a JournalError; nothing is written to a file that is not a journal,
    nor to one that others could write to.
    """
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        raise JournalError(
            f"durable_bus needs SQLite 3.38 or newer; this Python has {sqlite3.sqlite_version}"
        )
    refuse_others(path)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise JournalUnreachable(f"cannot create the journal {path}: {error.strerror}") from error
    with reserved(path), translated(path):
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        try:
            check_identity(connection, path)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # a file that has pages keeps its own
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise JournalUnreachable(
                    f"cannot open the journal {path} for writing: its journal mode stays {mode!r}"
                )
            connection.execute(f"PRAGMA synchronous = {DURABILITIES[durability]}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_BYTES // page_bytes}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
            # Debian's SQLite overwrites deleted rows: to drop a buffer took as much room as it had.
            connection.execute("PRAGMA secure_delete = OFF")
            # A temporary file would take a descriptor, and there may be none left.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, TEXT_BYTES_MAX)
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: str | Path, *, timeout_s: float = 5.0, newer: bool = False) -> sqlite3.Connection:
    """Open the journal read-only. Raises NotFound when there is none, else a JournalError. `newer`: see
    `check_identity`.

    In a folder that we may not write to, SQLite cannot open a journal in WAL mode that lacks its -shm file;
    nobody can be serving it then. Without a -wal, which a clean end leaves, it is read as immutable; with
    one, which a kill leaves, both are copied to a temporary folder that this process removes at its end.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound(f"no journal at {path}")
    refuse_no_file(path)
    with translated(path):
        _undo_what_was_cut_short(path, timeout_s)
        try:
            connection = _connect_reader(read_only_uri(path), timeout_s)
        except sqlite3.OperationalError as error:
            cannot_write = ("SQLITE_READONLY_DIRECTORY", "SQLITE_CANTOPEN")
            if getattr(error, "sqlite_errorname", "") not in cannot_write:
                raise
            connection = _connect_reader(_uri_without_writing(path), timeout_s)
    try:
        if check_identity(connection, path, newer=newer) == 0:
            raise NotFound(f"the journal {path} is empty")
    except BaseException:
        connection.close()
        raise
    return connection


def read_only_uri(path: Path) -> str:
    """The URI of a journal, wherever it can be opened as it is."""
    return f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"


def _undo_what_was_cut_short(path: Path, timeout_s: float) -> None:
    """A kill leaves SQLite's rollback journal beside this one: most likely while it was made, and put into
    WAL mode. SQLite undoes the change for whoever opens the file and may write, never for a reader
    (https://www.sqlite.org/lockingv3.html, 4.2); nor do we for a file that is none of ours.

    Ask this before SQLite has seen it: for root, SQLite gives a planted one to the owner of the journal.
    """
    beside = f"{os.path.realpath(path)}-journal"
    try:
        if os.stat(beside).st_size == 0 or not os.access(path, os.W_OK):
            return
    except OSError:
        return  # there is none, or who opens the journal will say what is wrong
    real = path_to_write(path)
    with contextlib.closing(sqlite3.connect(f"{read_only_uri(real)}&immutable=1", uri=True)) as as_it_is:
        try:
            check_identity(as_it_is, path, newer=True)
        except NotAJournal as error:
            if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_NOTADB":
                raise  # else its first page was not written yet
    with contextlib.closing(sqlite3.connect(real, timeout=timeout_s, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _uri_without_writing(path: Path) -> str:
    """How to read a journal that nobody can be serving, in a folder where SQLite may not make its -shm."""
    import atexit  # rarely needed, and `status` is to be there at once
    import shutil
    import tempfile

    real = os.path.realpath(path)
    try:
        if os.stat(f"{real}-wal").st_size == 0:
            return read_only_uri(path) + "&immutable=1"
    except FileNotFoundError:
        return read_only_uri(path) + "&immutable=1"
    except OSError as error:
        raise JournalUnreachable(f"cannot read the -wal of {path}: {error.strerror}") from error
    folder = Path(tempfile.mkdtemp(prefix="durable_bus_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        for suffix in ("", "-wal"):
            shutil.copyfile(real + suffix, f"{folder / path.name}{suffix}")
    except OSError as error:
        raise JournalUnreachable(f"cannot copy the journal {path} to read it: {error.strerror}") from error
    return read_only_uri(folder / path.name)


def _connect_reader(uri: str, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=timeout_s, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """BEGIN ... COMMIT, or ROLLBACK when an exception leaves this block. For errors of ours, use it inside
    `translated`. `kind` is DEFERRED for readers, of whom several statements see the same state then.

    SQLITE_FULL is a certain rollback: StorageFull, and the same transaction may be tried again. Any other
    error leaves what is on disk unknown: nobody may be told anything, and the process must end.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLITE_FULL, IOERR and NOMEM may have rolled back by themselves: then ROLLBACK would be an error.
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
