"""Whether anything has happened to a journal: asked again and again, for who shows it while it changes."""

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import JournalUnreachable, NotFound
from durable_bus.journal.connection import open_reader, translated
from durable_bus.journal.lock import holder_pid
from durable_bus.journal.statements import Statements, statements_of_its_version

__all__ = ["JournalChanges", "Seen"]


class Seen(NamedTuple):
    """How a journal is. Two that are equal: nothing has happened in between.

    - `commit`: the newest; 0: there is none.
    - `served`: somebody holds its lock.
    - `writes`: SQLite's count of writes that this connection has noticed.
    """

    commit: int
    served: bool
    writes: int


class JournalChanges:
    """Looks at a journal, also at one of a newer version, through a connection of its own, which it keeps.
    Between two looks it reads nothing, so that the write-ahead log can shrink.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._statements: Statements | None = None
        self._file: tuple[int, int] | None = None
        self._served = False

    def look(self) -> Seen:
        """Raises NotFound when the journal has gone, JournalUnreachable when another file is in its place,
        else a JournalError. After each of these the next look begins anew.
        """
        try:
            return self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> Seen:
        file, served = self._file_now(), holder_pid(self._path) is not None
        if self._connection is not None and file != self._file:
            raise JournalUnreachable(f"another file is in the place of the journal {self._path}")
        if served != self._served:
            self.close()  # where we may not write it was opened as a file that nobody changes
        if self._connection is None or self._statements is None:
            self._connection = open_reader(self._path, newer=True)
            with translated(self._path):
                self._statements = statements_of_its_version(self._connection, "reader.sql")
            self._file, self._served = file, served
        with translated(self._path):
            (writes,) = self._connection.execute("PRAGMA data_version").fetchone()
            commit = self._statements.value("newest_commit") or 0
        return Seen(commit, served, writes)

    def _file_now(self) -> tuple[int, int]:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            raise NotFound(f"no journal at {self._path}") from None
        except OSError as error:
            raise JournalUnreachable(f"cannot look at {self._path}: {error.strerror}") from error
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """It may look again all the same."""
        connection, self._connection, self._statements = self._connection, None, None
        if connection is not None:
            connection.close()
