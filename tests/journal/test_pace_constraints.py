"""What the tables refuse about limits, budgets, ends and what was spent, whoever writes to them."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paced
import pytest

from durable_bus.journal.connection import open_writer

CHANGES: dict[str, list[tuple[str, str]]] = {
    "priority_is_within_ten": [("buffer", "priority = 11"), ("buffer", "priority = -11")],
    "enough_is_positive": [("buffer", "enough = 0")],
    "max_failures_is_positive": [("buffer", "max_failures = 0")],
    "ended_in_a_known_way": [
        ("buffer", "ended_how = 'bored'"),
        ("buffer", "ended_how = CASE WHEN cancelled_commit IS NULL THEN 'enough' ELSE 'all' END"),
        ("buffer", "ended_how = 'enough', ended_commit = NULL"),
    ],
    "paused_for_a_known_reason": [("pause", "why = 'tired'")],
    "memo_is_bool": [("answer", "memo = 2")],
    "failure_has_a_known_kind": [("failure", "kind = 'later'")],
    "declared_is_bool": [("limit_state", "declared = 2")],
    "adaptive_is_bool": [("limit_state", "adaptive = -1")],
    "by_hand_is_bool": [("limit_state", "by_hand = 2")],
    "a_limit_limits_something": [("limit_state", "rate = NULL, running = NULL")],
    "running_is_positive": [("limit_state", "running = 0"), ("limit_state", "app_running = 0")],
    "one_may_always_run": [("limit_state", "allowed = 0.5")],
    "never_more_begun_than_in_hand": [
        ("limit_state", "not_begun = 1"),
        ("limit_state", "in_hand = -1, not_begun = -1"),
    ],
    "changed_for_a_known_cause": [("limit_change", "cause = 'weather'")],
    "amount_is_positive": [("budget", "amount = 0.0")],
    "amount_is_not_negative": [("spent", "amount = -1.0")],
    "spent_on_an_item_or_a_message": [
        ("spent", "dispatch_id = 0"),
        ("spent", "message_seq = 5"),
        ("spent", "message_seq = dispatch_id WHERE dispatch_id > 0"),
    ],
    "number_is_not_negative": [("spent", "number = -1"), ("spent", "item_index = -1")],
}
ALLOWED = [
    ("buffer", "priority = 10"),
    ("buffer", "priority = -10"),
    ("buffer", "ended_how = NULL"),
    ("failure", "kind = 'retry_after'"),
    ("limit_state", "rate = NULL"),
    ("limit_state", "running = NULL, app_running = NULL, allowed = NULL"),
    ("limit_state", "in_hand = 3, not_begun = 3"),
    ("spent", "amount = 0.0"),
    ("spent", "message_seq = NULL"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paced.make(tmp_path_factory.mktemp("paced") / "journal.db")


@pytest.fixture
def writer(made: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(Path(shutil.copy(made, tmp_path / "journal.db")))) as connection:
        yield connection


@pytest.mark.parametrize(
    ("constraint", "table", "change"),
    [(name, table, change) for name, changes in CHANGES.items() for table, change in changes],
)
def test_what_cannot_be_is_refused(
    writer: sqlite3.Connection, constraint: str, table: str, change: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=constraint):
        writer.execute(f"UPDATE {table} SET {change}")


@pytest.mark.parametrize(("table", "change"), ALLOWED)
def test_what_may_be_is_written(writer: sqlite3.Connection, table: str, change: str) -> None:
    assert writer.execute(f"UPDATE {table} SET {change}").rowcount > 0


def test_every_constraint_that_this_version_has_brought_is_tried(writer: sqlite3.Connection) -> None:
    tables = ("limit_state", "limit_change", "budget", "spent")
    sql = "SELECT group_concat(sql, ' ') FROM sqlite_schema WHERE name IN (?, ?, ?, ?)"
    (text,) = writer.execute(sql, tables).fetchone()
    named = {part.split()[0] for part in text.split("CONSTRAINT ")[1:]}
    assert named <= CHANGES.keys()


def again(connection: sqlite3.Connection, table: str, where: str, **changed: Any) -> None:
    """A row once more, changed."""
    cursor = connection.execute(f"SELECT * FROM {table} WHERE {where} LIMIT 1")
    names = [column[0] for column in cursor.description]
    row = {**dict(zip(names, cursor.fetchone(), strict=True)), **changed}
    named = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({named})", row)


def test_what_an_item_has_spent_is_counted_once(writer: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=r"spent\.dispatch_id"):
        again(writer, "spent", "dispatch_id = 1 AND unit = 'usd'", spent_id=None)
    for changed in ({"number": 1}, {"unit": "chars"}, {"item_index": 1}, {"dispatch_id": 9}):
        again(writer, "spent", "dispatch_id = 1 AND unit = 'usd'", spent_id=None, **changed)


def test_a_message_that_is_handled_again_at_the_same_attempt_spends_again(writer: sqlite3.Connection) -> None:
    again(writer, "spent", "dispatch_id = -1", spent_id=None)


@pytest.mark.parametrize(
    ("table", "where", "changed", "why"),
    [
        ("budget", "buffer_seq = 1", {"buffer_seq": 99}, "FOREIGN KEY"),
        ("budget", "buffer_seq = 1", {"commit_id": 99}, "FOREIGN KEY"),
        ("budget", "buffer_seq = 1", {}, "UNIQUE"),
        ("spent", "dispatch_id = 1", {"spent_id": None, "number": 7, "buffer_seq": 99}, "FOREIGN KEY"),
        ("spent", "dispatch_id = -1", {"spent_id": None, "dispatch_id": -9, "message_seq": 9}, "FOREIGN KEY"),
        ("limit_change", "change_id = 1", {"change_id": None, "commit_id": 99}, "FOREIGN KEY"),
        ("limit_state", "declared = 1", {}, "UNIQUE"),
        ("memo", "true", {}, "UNIQUE"),
    ],
)
def test_rows_refer_to_what_is_there_and_stand_once(
    writer: sqlite3.Connection, table: str, where: str, changed: dict[str, Any], why: str
) -> None:
    writer.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError, match=why):
        again(writer, table, where, **changed)


@pytest.mark.parametrize("seq", [paced.PATIENT, 99])
def test_a_budget_is_that_of_a_buffer(writer: sqlite3.Connection, seq: int) -> None:
    writer.execute("PRAGMA foreign_keys = ON")
    if seq == paced.PATIENT:
        writer.execute("UPDATE buffer SET budget_of = ? WHERE buffer_seq = 6", (seq,))
    else:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            writer.execute("UPDATE buffer SET budget_of = ? WHERE buffer_seq = 6", (seq,))
