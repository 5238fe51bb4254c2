"""The journal's writer: commits, runs, requests. `buffers`, `work`, `messages` and `pace` write the rest."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from durable_bus.journal.buffers import BufferTable
from durable_bus.journal.connection import open_writer, transaction, translate, translated
from durable_bus.journal.messages import MessageTable
from durable_bus.journal.pace import PaceTable
from durable_bus.journal.schema import upgrade
from durable_bus.journal.statements import Statements
from durable_bus.journal.work import WorkTable
from durable_bus.payloads.settings import ListenerSettings

__all__ = ["WRITER_SQL", "Journal", "NewIds"]

WRITER_SQL = ("runs.sql", "commits.sql", "buffers.sql", "work.sql", "messages.sql", "pace.sql")


@dataclass(slots=True)
class NewIds:
    """Counted in memory: one writer, so nobody else can take one. A rolled-back commit gives its ids back."""

    commit: int
    buffer: int
    dispatch: int
    answer: int

    def copy(self) -> "NewIds":
        return NewIds(self.commit, self.buffer, self.dispatch, self.answer)


class Journal:
    """The one connection that writes. Every write happens inside `commit()`; everything else raises.

    After StorageFull nothing of the commit is on disk; after any other JournalError from `commit()` what is
    on disk is unknown, and the process must end.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self.statements = Statements(connection, *WRITER_SQL)
        with translated(path):
            row = self.statements.one("last_ids")
        assert row is not None
        self.ids = NewIds(*row)
        self.run_id = 0
        self.now_ms = 0
        self.buffers = BufferTable(self)
        self.work = WorkTable(self)
        self.messages = MessageTable(self)
        self.pace = PaceTable(self)
        self.new_results = 0
        self.new_failures = 0
        self.committed = False
        """Whether the last commit wrote anything."""
        self.note_commit: Callable[[int], None] | None = None
        """Told the number of each commit that is on disk."""

    @classmethod
    def open(cls, path: Path, durability: str = "full") -> "Journal":
        """Open, create or upgrade the journal at `path`; the caller holds its lock. Raises a JournalError."""
        connection = open_writer(path, durability)
        try:
            with translated(path):
                upgrade(connection, path, big_ones=False)
            return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def write(self, name: str, /, **parameters: Any) -> int:
        """Execute a statement, with the number and the time of this commit; how many rows it changed."""
        parameters["commit_id"] = self.ids.commit
        parameters["now_ms"] = self.now_ms
        return self.statements.run(name, parameters)

    @contextlib.contextmanager
    def commit(self, now_ms: int) -> Iterator[None]:
        """One group commit: everything written inside is on disk when this returns, or nothing of it is."""
        before = self.ids.copy()
        self.ids.commit += 1
        self.now_ms = now_ms
        self.new_results = self.new_failures = 0
        self.committed = False
        try:
            with translated(self.path), transaction(self.connection):
                changes = self.connection.total_changes
                yield
                if self.connection.total_changes == changes:
                    self.ids = before  # nothing to record: COMMIT writes nothing and waits for nothing
                    return
                counts = {"results": self.new_results, "failures": self.new_failures}
                self.write("add_commit", run_id=self.run_id, **counts)
            self.committed = True
            self.buffers.fresh.commit()
        except BaseException:
            self.ids = before
            self.buffers.fresh.rollback()
            raise
        if self.note_commit is not None:  # before anybody is told of it: a copy that lacks it is found out
            self.note_commit(self.ids.commit)

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside a commit: what is written in here stays out of it when an exception leaves this block."""
        before = self.ids.copy()
        counted = (self.new_results, self.new_failures)
        self.connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            # An error that rolled the whole transaction back took the savepoint with it.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO part")
                self.connection.execute("RELEASE part")
            self.ids = before
            self.buffers.fresh.rollback()
            self.new_results, self.new_failures = counted
            raise
        self.connection.execute("RELEASE part")

    def start_run(self, pid: int, app: str, version: str) -> int:
        """Inside a commit: a new run. Every earlier one that did not say it ended has crashed."""
        facts = {"now_ms": self.now_ms, "pid": pid, "app": app, "version": version}
        self.run_id = self.statements.insert("start_run", commit_id=self.ids.commit, **facts)
        return self.run_id

    def stop_run(self) -> None:
        """This run says that it ends."""
        self.write("stop_run", run_id=self.run_id)

    def set_listeners(self, listeners: dict[str, ListenerSettings]) -> None:
        """The table of listeners that a worker has reported."""
        table = msgspec.json.encode(listeners).decode()
        self.write("set_run_report", run_id=self.run_id, listeners=table, error=None)

    def set_worker_error(self, error: str) -> None:
        """Why the last worker could not import the app."""
        self.write("set_run_report", run_id=self.run_id, listeners=None, error=error)

    def prove_room(self) -> None:
        """Write, so that a commit which was nothing but this succeeds only when there is room on disk."""
        self.write("prove_room", run_id=self.run_id)

    def last_listeners(self) -> dict[str, ListenerSettings] | None:
        text = self.statements.value("last_listeners")
        return msgspec.json.decode(text, type=dict[str, ListenerSettings]) if text else None

    def request_answer(self, request_id: str) -> dict[str, Any] | None:
        """What a request with this id was answered, None when it was not yet."""
        text = self.statements.value("request_answer", request_id=request_id)
        return dict(json.loads(text)) if text else None

    def add_request(self, request_id: str, answer: dict[str, Any]) -> None:
        """What a client was told, and is told again when it asks with the same id."""
        self.write("add_request", request_id=request_id, answer=json.dumps(answer))

    def forget_requests(self, before_ms: int, limit: int) -> bool:
        """Delete answers to requests that nobody will repeat any more; whether there may be more of them."""
        last = self.last_commit_before(before_ms)
        return self.write("forget_requests", before_commit=last, limit=limit) == limit

    def last_commit_before(self, before_ms: int) -> int:
        """The newest commit made before a time; 0 when there is none."""
        return int(self.statements.value("last_commit_before", before_ms=before_ms))

    def checkpoint(self, wait_ms: int = 0) -> bool:
        """Checkpoint the write-ahead log and truncate it, outside a commit; True when that was possible.

        A full disk prevents it, and a reader with an old snapshot, for which we wait up to `wait_ms`. Neither
        is an error: the next checkpoint tries again. Commits checkpoint a long log without truncating it.

        Raises another JournalError when storage fails: the process must end. Nothing is lost by that, as
        every commit is in the log. To go on could lose something: after a failed sync the system may take
        pages for written that are not. The next start looks at their checksums, a checkpoint does not.
        """
        (busy_ms,) = self.connection.execute("PRAGMA busy_timeout").fetchone()
        self.connection.execute(f"PRAGMA busy_timeout = {wait_ms}")
        try:
            busy, _log, _moved = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if not name.startswith(("SQLITE_BUSY", "SQLITE_FULL")):
                raise translate(error, self.path) from error
            busy = 1
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        return bool(busy == 0)

    def close(self) -> None:
        self.connection.close()
