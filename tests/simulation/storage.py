"""The commit port: what may go wrong between the supervisor and its disk.

The connection is the real one. Only its COMMIT passes through here, where a process can die before or after
it, or be told something other than what has happened. The disk that is full is SQLite's own
(`max_page_count`): which statement meets it, and what SQLite then rolls back by itself, is for SQLite to say.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from durable_bus.journal.connection import open_writer
from durable_bus.journal.journal import Journal

__all__ = ["AT_COMMIT", "CommitPort", "Crash", "copy_of_template", "fast_folder", "open_journal"]

AT_COMMIT = ("crash before", "crash after", "crash sending", "full", "io error, written", "io error, lost")
"""What may befall a COMMIT. `io error`: it says that it failed, and nobody can know whether it did."""

_PAGES_UNLIMITED = 1_073_741_823


class Crash(BaseException):
    """The supervisor is killed at this point of its code."""


def _error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"simulated {name}")
    error.sqlite_errorname = name
    return error


class CommitPort:
    """A writer's connection as the journal sees it."""

    def __init__(
        self, connection: sqlite3.Connection, fault: Callable[[], str | None], committed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._fault = fault
        self._committed = committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            return self._connection.execute(sql, *parameters)
        fault = self._fault()
        if fault == "crash before":
            raise Crash
        if fault == "full":
            raise _error("SQLITE_FULL")  # the transaction is still there: who failed must roll it back
        if fault == "io error, lost":
            self._connection.execute("ROLLBACK")
            raise _error("SQLITE_IOERR_WRITE")
        cursor = self._connection.execute("COMMIT")
        self._committed()
        if fault == "io error, written":
            raise _error("SQLITE_IOERR_FSYNC")
        if fault == "crash after":
            raise Crash
        return cursor

    def leave_pages(self, count: int | None) -> None:
        """The disk has room for `count` more pages; None: for as many as one likes."""
        used = self._connection.execute("PRAGMA page_count").fetchone()[0]
        limit = _PAGES_UNLIMITED if count is None else used + count
        self._connection.execute(f"PRAGMA max_page_count = {limit}")


def fast_folder() -> Path:
    """A new folder, in memory where there is such a place: no schedule waits for a disk."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="durable_bus-simulation-", dir=memory if usable else None))


@cache
def _template() -> bytes:
    """An empty journal, migrated once a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        Journal.open(path, "normal").close()
        return path.read_bytes()


def copy_of_template(path: Path) -> None:
    path.write_bytes(_template())


def open_journal(path: Path, fault: Callable[[], str | None], committed: Callable[[], None]) -> Journal:
    """The real journal, its COMMITs through the port."""
    port = CommitPort(open_writer(path, "normal"), fault, committed)
    return Journal(path, cast(sqlite3.Connection, port))
