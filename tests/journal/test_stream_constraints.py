"""What the table of buffers refuses about streams, whoever writes to it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_bus.journal.connection import open_writer

ROW: dict[str, Any] = {
    "buffer_seq": 1, "buffer_id": "b", "target": "work", "return_to": "", "from_id": "", "thread_id": "t/b",
    "starter_thread_id": "t", "collect": 1, "request_id": "r", "digest": None, "next_chunk": 1, "received": 3,
    "total": None, "succeeded": 0, "failed": 0, "touched_at": 1, "created_commit": 1, "opened_commit": None,
    "sealed_commit": None, "cancelled_commit": None, "ended_commit": None, "dropped_commit": None,
}  # fmt: skip
"""A buffer that is received."""
OPEN = {"opened_commit": 2}
SEALED = {"opened_commit": 2, "sealed_commit": 4, "total": 3}

ALLOWED: dict[str, dict[str, Any]] = {
    "received": {},
    "given up": {"dropped_commit": 2},
    "a stream": OPEN,
    "a stream with results": {**OPEN, "succeeded": 2, "failed": 1},
    "a sealed stream, without a digest": SEALED,
    "whole": {**SEALED, "sealed_commit": 2, "digest": "d"},
    "ended as it was sealed": {**SEALED, "succeeded": 3, "ended_commit": 4},
    "ended later": {**SEALED, "succeeded": 3, "ended_commit": 5},
    "a stream that was cancelled": {**OPEN, "total": 3, "cancelled_commit": 3, "ended_commit": 3},
    "cancelled after its seal": {**SEALED, "cancelled_commit": 5, "ended_commit": 5},
}

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "a stream without an item": ("an_open_buffer_has_items", {**OPEN, "received": 0}),
    "more results than have come": ("never_more_results_than_items", {**OPEN, "succeeded": 3, "failed": 1}),
    "sealed and not opened": ("sealed_after_opened", {**SEALED, "opened_commit": None}),
    "sealed before it opened": ("sealed_after_opened", {**SEALED, "sealed_commit": 1}),
    "sealed without a total": ("the_total_is_known_at_the_end", {**SEALED, "total": None}),
    "a total before the seal": ("the_total_is_known_at_the_end", {**OPEN, "total": 3}),
    "a total before it opened": ("the_total_is_known_at_the_end", {"total": 3}),
    "cancelled without a total": (
        "the_total_is_known_at_the_end",
        {**OPEN, "cancelled_commit": 3, "ended_commit": 3},
    ),
    "ended unsealed": ("ended_means_whole_or_cancelled", {**OPEN, "succeeded": 3, "ended_commit": 5}),
    "ended before its seal": (
        "ended_means_whole_or_cancelled",
        {**SEALED, "succeeded": 3, "ended_commit": 3},
    ),
    "ended with a result too few": (
        "ended_means_whole_or_cancelled",
        {**SEALED, "succeeded": 2, "ended_commit": 5},
    ),
    "a stream that was given up": ("dropped_was_never_open", {**OPEN, "dropped_commit": 3}),
}


@pytest.fixture
def writer(empty: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(Path(shutil.copy(empty, tmp_path / "journal.db")))) as connection:
        connection.execute(
            "INSERT INTO run (run_id, pid, app, version, started_at) VALUES (1, 1, 'a', '1', 1)"
        )
        for commit_id in range(1, 6):
            connection.execute(
                "INSERT INTO journal_commit (commit_id, run_id, committed_at, results, failures)"
                " VALUES (?, 1, 1, 0, 0)",
                (commit_id,),
            )
        yield connection


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    named = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({named})", row)


@pytest.mark.parametrize("what", ALLOWED)
def test_what_may_be_is_written(writer: sqlite3.Connection, what: str) -> None:
    insert(writer, "buffer", {**ROW, **ALLOWED[what]})


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(writer: sqlite3.Connection, what: str) -> None:
    constraint, changed = REFUSED[what]
    with pytest.raises(sqlite3.IntegrityError, match=constraint):
        insert(writer, "buffer", {**ROW, **changed})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"item_count": 0}, "chunk_is_not_empty"),
        ({"first_index": -1}, "chunk_is_not_empty"),
        ({"buffer_seq": 9}, "FOREIGN KEY"),
        ({"commit_id": 9}, "FOREIGN KEY"),
        ({}, "UNIQUE"),
    ],
)
def test_a_chunk_is_some_items_of_a_buffer_in_a_commit(
    writer: sqlite3.Connection, changed: dict[str, Any], why: str
) -> None:
    insert(writer, "buffer", {**ROW, **OPEN})
    chunk = {"buffer_seq": 1, "first_index": 0, "item_count": 3, "commit_id": 2}
    insert(writer, "chunk", chunk)
    writer.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError, match=why):
        insert(writer, "chunk", {**chunk, **({"first_index": 3} if changed else {}), **changed})
