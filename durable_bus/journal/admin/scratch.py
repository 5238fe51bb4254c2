"""A private copy of a journal's open work, to find out what a start would do without doing it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from durable_bus.errors import JournalError
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, reader_uri, translated
from durable_bus.journal.journal import Journal
from durable_bus.journal.schema import migrate
from durable_bus.journal.statements import load

__all__ = ["copy_of_open_work", "waiting_messages"]

_COPIED = (
    "runs", "last_commit", "buffers", "pauses", "items", "forwarded_items", "dispatches", "messages",
    "failures", "threads", "mailboxes",
)  # fmt: skip


@contextlib.contextmanager
def copy_of_open_work(path: Path) -> Iterator[Journal]:
    """A journal to write to, in a temporary file that nobody else sees and that is gone in the end.

    It holds what `path` holds at one moment of open buffers and unsettled messages: 1,000,000 outstanding
    items take a second. Raises a JournalError.
    """
    reader = open_reader(path)
    try:
        version = reader.execute("PRAGMA user_version").fetchone()[0]
    finally:
        reader.close()
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"the journal {path} has schema version {version}, this durable_bus writes {SCHEMA_VERSION}: "
            "run `durable-bus migrate` first"
        )
    connection = sqlite3.connect("", isolation_level=None, uri=True)
    try:
        migrate(connection)
        with translated(path):
            connection.execute("ATTACH ? AS source", (reader_uri(path),))
            statements = load("scratch.sql")
            connection.execute("BEGIN")
            for name in _COPIED:
                connection.execute(statements[name])
            connection.execute("COMMIT")
            connection.execute("DETACH source")
        yield Journal(path, connection)
    finally:
        connection.close()


def waiting_messages(journal: Journal) -> dict[str, int]:
    """How many messages wait for each name."""
    return dict(journal.connection.execute(load("scratch.sql")["waiting_messages"]).fetchall())
