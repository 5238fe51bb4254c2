"""Reading what can be read of a damaged journal. Nothing is written to it.

A page that is damaged or cut off takes with it the rows on it, or all those below it in the tree. So buffers
and results are read from the leaves themselves, and no more is lost than was on the pages that are.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import JournalDamaged, NotFound
from durable_bus.journal.admin.leaves import Leaves, Row
from durable_bus.journal.connection import read_only_uri
from durable_bus.journal.formats import INDEX_BITS
from durable_bus.journal.statements import load
from durable_bus.payloads.messages import Result

__all__ = ["Salvage"]

_SEQ_MAX = (1 << 31) - 1


def _is_result(row: Row) -> bool:
    """By its columns, in the order of the table; no other table's are like them."""
    if len(row.values) != 5:
        return False
    key, payload, success, is_xml, answer_id = row.values
    return (
        key is None
        and isinstance(payload, str)
        and success in (0, 1)
        and is_xml in (0, 1)
        and isinstance(answer_id, int)
    )


class _Buffer(NamedTuple):
    """The columns of a buffer, in the order of the table."""

    buffer_seq: None
    buffer_id: str
    target: str
    return_to: str
    from_id: str
    thread_id: str
    starter_thread_id: str
    collect: int
    request_id: str
    digest: str | None
    next_chunk: int
    received: int
    total: int | None
    succeeded: int
    failed: int
    low_water: int
    retry_of: int | None
    touched_at: int
    created_commit: int
    opened_commit: int | None
    cancelled_commit: int | None
    ended_commit: int | None
    pruned_commit: int | None
    dropped_commit: int | None


def _is_buffer(row: Row) -> bool:
    """By the types of its columns, as `_is_result`."""
    if len(row.values) != len(_Buffer._fields):
        return False
    buffer = _Buffer(*row.values)
    return (
        buffer.buffer_seq is None
        and isinstance(buffer.buffer_id, str)
        and isinstance(buffer.received, int)
        and isinstance(buffer.total, int | None)
        and isinstance(buffer.succeeded, int)
        and isinstance(buffer.failed, int)
    )


class Salvage:
    """One buffer of a damaged journal. Raises JournalDamaged when nothing can be found out about it,
    NotFound when it can, and the buffer is not there.
    """

    def __init__(self, path: Path, buffer_id: str) -> None:
        self._path = path
        self._statements = load("salvage.sql")
        self._connection = sqlite3.connect(read_only_uri(path), uri=True, isolation_level=None)
        # Damaged text must not stop us either.
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
        # Without it SQLite refuses a file that was cut off as a whole. The connection is read-only.
        self._connection.execute("PRAGMA writable_schema = ON")
        self._leaves: Leaves | None = None
        try:
            self.buffer_seq, self.total, self.recorded = self._find(buffer_id)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        if self._leaves is not None:
            self._leaves.close()

    def _find(self, buffer_id: str) -> tuple[int, int, int]:
        """Its key, how many items it has, and how many results are said to be recorded."""
        damaged = False
        for statement in ("buffer", "buffer_without_index"):
            try:
                row = self._connection.execute(
                    self._statements[statement], {"buffer_id": buffer_id}
                ).fetchone()
            except sqlite3.DatabaseError:
                damaged = True
                continue
            if row is not None:
                return int(row[0]), int(row[1]), int(row[2])
        if not damaged:
            raise NotFound(f"no buffer {buffer_id!r:.120} in {self._path}")
        for key, values in self._found_leaves().rows(1, _SEQ_MAX, _is_buffer):
            buffer = _Buffer(*values)
            if buffer.buffer_id == buffer_id and buffer.dropped_commit is None:
                total = buffer.received if buffer.total is None else buffer.total
                return key, total, buffer.succeeded + buffer.failed
        raise JournalDamaged(
            f"the journal {self._path} is so damaged that {buffer_id!r:.120} cannot be found in it"
        )

    def _found_leaves(self) -> Leaves:
        if self._leaves is None:
            self._leaves = Leaves(self._path)
        return self._leaves

    def results(self) -> Iterator[Result]:
        """Every result that can be read, in item order. What it was answered by is 0 where that cannot be."""
        base = self.buffer_seq << INDEX_BITS
        for key, values in self._found_leaves().rows(base, base + max(self.total, 1) - 1, _is_result):
            _, payload, success, is_xml, answer_id = values
            index = key - base
            attempt, duration_ms = self._answer(answer_id, index)
            yield Result(
                index, success == 1, payload, is_xml == 1, None if success else payload, attempt, duration_ms
            )

    def _answer(self, answer_id: int, index: int) -> tuple[int, float]:
        try:
            row = self._connection.execute(self._statements["answer"], {"answer_id": answer_id}).fetchone()
            if row is None:
                return 0, 0.0
            start = (index - row[0]) * 10
            return int(row[1]), int(row[2][start : start + 10] or 0) / 1000
        except (sqlite3.DatabaseError, ValueError):
            return 0, 0.0
