"""A journal in which limits, budgets, ends, memos and RetryAfter have left their rows, commit by commit.

Written row by row, as a supervisor writes them, so that a test knows what was so at each commit and may
change any of it. Commit n is made n seconds after the beginning.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import migrate

STARTED_MS = 1_800_000_000_000
FAR_MS = 1 << 45
"""In the year 3084."""
LAST_COMMIT = 31

FIRST, AGAIN, FAILING, LATE, STOPPED, PATIENT, POOR, INNER = range(1, 9)
"""The buffers, by number; their ids are these words in small letters."""
IDS = ("first", "again", "failing", "late", "stopped", "patient", "poor", "inner")
LISTENERS = {"ask": ["service"], "free": []}


def key(buffer_seq: int, index: int) -> int:
    return (buffer_seq << 32) + index


def at_ms(commit_id: int) -> int:
    return STARTED_MS + 1000 * commit_id


class Writing:
    """Inserts rows, and counts what a commit has added."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.commit_id = 0
        self._dispatches = self._answers = 0

    def insert(self, table: str, row: Mapping[str, Any]) -> None:
        named = ", ".join(f":{name}" for name in row)
        self._connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({named})", dict(row))

    def change(self, sql: str, *parameters: Any) -> None:
        assert self._connection.execute(sql, parameters).rowcount > 0

    def commit(self) -> None:
        """Everything from here on is of a new one."""
        self.commit_id += 1
        row = {"commit_id": self.commit_id, "run_id": 1, "committed_at": at_ms(self.commit_id)}
        self.insert("journal_commit", {**row, "results": 0, "failures": 0})

    def buffer(self, seq: int, target: str, items: list[str], thread: str = "t", **terms: Any) -> None:
        buffer_id, commit = IDS[seq - 1], self.commit_id
        thread_id = f"{thread}/{buffer_id}"
        facts = {
            "buffer_seq": seq, "buffer_id": buffer_id, "target": target, "return_to": "", "from_id": "cli",
            "thread_id": thread_id, "starter_thread_id": thread, "collect": 0, "request_id": buffer_id,
            "digest": "d", "next_chunk": 1, "received": len(items), "total": len(items),
            "touched_at": at_ms(commit), "created_commit": commit, "opened_commit": commit,
            "sealed_commit": commit,
        }  # fmt: skip
        self.insert("buffer", {**facts, **terms})
        for index, item in enumerate(items):
            self.insert("item", {"item_key": key(seq, index), "payload": item, "form": 0})
        chain = {"chain": "[]", "created_commit": commit, "changed_commit": commit}
        self.insert("thread", {"thread_id": thread_id, **chain})

    def budget(self, seq: int, unit: str, amount: float) -> None:
        row = {"buffer_seq": seq, "unit": unit, "commit_id": self.commit_id, "amount": amount}
        self.insert("budget", row)

    def dispatch(self, seq: int, first: int, count: int, attempt: int = 1) -> int:
        self._dispatches += 1
        row = {"buffer_seq": seq, "first_index": first, "item_count": count, "attempt": attempt}
        more = {"dispatch_id": self._dispatches, "commit_id": self.commit_id, "alone": 0, "worker_pid": 4343}
        self.insert("dispatch", {**row, **more})
        return self._dispatches

    def answered(self, dispatch_id: int) -> None:
        sql = "UPDATE dispatch SET ended_commit = ?, ended_how = 'answered' WHERE dispatch_id = ?"
        self.change(sql, self.commit_id, dispatch_id)

    def result(
        self,
        seq: int,
        index: int,
        payload: str,
        dispatch_id: int | None,
        *,
        attempt: int = 1,
        success: int = 1,
    ) -> None:
        """`dispatch_id` None: it is given again."""
        self._answers += 1
        facts = {"answer_id": self._answers, "success": success}
        memo = dispatch_id is None
        where = {
            "commit_id": self.commit_id,
            "dispatch_id": dispatch_id,
            "buffer_seq": seq,
            "first_index": index,
        }
        more = {"item_count": 1, "recorded": 1, "attempt": attempt, "worker_pid": None if memo else 4343}
        durations = {"durations": "" if memo else "0000001500", "memo": int(memo)}
        self.insert("answer", {**facts, **where, **more, **durations})
        self.insert("result", {"item_key": key(seq, index), "payload": payload, "form": 0, **facts})
        self.change("UPDATE journal_commit SET results = results + 1 WHERE commit_id = ?", self.commit_id)
        counter = "succeeded" if success else "failed"
        self.change(f"UPDATE buffer SET {counter} = {counter} + 1 WHERE buffer_seq = ?", seq)

    def failure(self, item_key: int, attempt: int, kind: str, message: str, retry_at: int | None) -> None:
        row = {"item_key": item_key, "attempt": attempt, "kind": kind, "message": message}
        self.insert("failure", {**row, "commit_id": self.commit_id, "retry_at": retry_at})
        self.change("UPDATE journal_commit SET failures = failures + 1 WHERE commit_id = ?", self.commit_id)

    def retried(self, item_key: int) -> None:
        sql = "UPDATE failure SET retried_commit = ? WHERE item_key = ? AND retried_commit IS NULL"
        self.change(sql, self.commit_id, item_key)

    def spent(self, seq: int | None, number: int, unit: str, amount: float, **of: Any) -> None:
        """`of`: `dispatch_id`, `item_index`, `message_seq`, `attempt`, where it is not an item's first."""
        row = {"buffer_seq": seq, "number": number, "unit": unit, "amount": amount, "listener": "ask"}
        where = {"item_index": 0, "message_seq": None, "attempt": 1, "commit_id": self.commit_id}
        self.insert("spent", {**row, **where, **of})

    def ended(self, seq: int, how: str) -> None:
        cancelled = None if how == "all" else self.commit_id
        sql = "UPDATE buffer SET ended_commit = ?, cancelled_commit = ?, ended_how = ? WHERE buffer_seq = ?"
        self.change(sql, self.commit_id, cancelled, how, seq)

    def paused(self, seq: int, why: str) -> None:
        self.insert("pause", {"buffer_seq": seq, "paused_commit": self.commit_id, "why": why})

    def resumed(self, seq: int) -> None:
        sql = "UPDATE pause SET resumed_commit = ? WHERE buffer_seq = ? AND resumed_commit IS NULL"
        self.change(sql, self.commit_id, seq)

    def limit(self, cause: str, **now: Any) -> None:
        """It becomes this."""
        row = {"rate": "500/min", "running": 40, "allowed": None, "rests_until": 0, **now}
        self.insert("limit_change", {"name": "service", "commit_id": self.commit_id, "cause": cause, **row})
        sets = ", ".join(f"{name} = ?" for name in row)
        by_hand = {"hand": 1, "reset": 0}.get(cause)
        sql = f"UPDATE limit_state SET {sets}, by_hand = coalesce(?, by_hand) WHERE name = 'service'"
        self.change(sql, *row.values(), by_hand)


def make(journal: Path) -> Path:
    """Write it, closed cleanly."""
    with closing(open_writer(journal)) as connection:
        migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        writing = Writing(connection)
        _begin(writing)
        _first(writing)
        _ends(writing)
        _open_ones(writing)
        _messages(writing)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return journal


def _begin(writing: Writing) -> None:
    """Commit 1."""
    settings = {name: {"name": name, "limits": limits} for name, limits in LISTENERS.items()}
    row = {
        "run_id": 1,
        "pid": 4242,
        "app": "paced:bus",
        "version": "0.1.0",
        "started_at": STARTED_MS,
        "first_commit": 1,
    }
    writing.insert("run", {**row, "stopped_at": at_ms(LAST_COMMIT), "listeners": json.dumps(settings)})
    writing.commit()
    writing.insert("thread", {"thread_id": "t", "chain": "[]", "created_commit": 1, "changed_commit": 1})
    facts = {
        "name": "service", "declared": 1, "app_rate": "500/min", "app_running": 40, "adaptive": 1,
        "by_hand": 0, "rate": "500/min", "running": 40, "tokens": 8.0, "tokens_at": at_ms(1),
        "tokens_at_ns": 1, "not_begun": 0, "in_hand": 0, "rests_until": 0,
    }  # fmt: skip
    writing.insert("limit_state", facts)
    writing.limit("app")


def _first(writing: Writing) -> None:
    """Commits 2 to 10: a buffer with a budget, of which item 1 comes back and item 2 fails."""
    writing.commit()
    writing.buffer(FIRST, "ask", ["a", "b", "c", "d"], budget_of=FIRST)
    writing.budget(FIRST, "usd", 5.0)
    writing.commit()
    dispatch = writing.dispatch(FIRST, 0, 3)
    writing.commit()
    writing.spent(FIRST, 0, "usd", 0.25, dispatch_id=dispatch)
    writing.spent(FIRST, 0, "tokens", 812, dispatch_id=dispatch)
    writing.result(FIRST, 0, "A", dispatch)
    writing.insert("memo", {"memo_key": b"a", "item_key": key(FIRST, 0)})
    writing.failure(key(FIRST, 1), 1, "retry_after", "RetryAfter: 1 s", at_ms(5))
    writing.limit("rest", rests_until=at_ms(5))
    writing.failure(key(FIRST, 2), 1, "exception", "ValueError: no", None)
    writing.result(FIRST, 2, "<SystemError/>", dispatch, success=0)
    writing.answered(dispatch)
    writing.commit()
    writing.retried(key(FIRST, 1))
    dispatch = writing.dispatch(FIRST, 1, 1, attempt=2)
    writing.commit()
    writing.spent(FIRST, 0, "usd", 5.0, dispatch_id=dispatch, item_index=1, attempt=2)
    writing.result(FIRST, 1, "B", dispatch, attempt=2)
    writing.answered(dispatch)
    writing.paused(FIRST, "budget")
    writing.commit()
    writing.resumed(FIRST)
    writing.budget(FIRST, "usd", 5.0)
    writing.commit()
    dispatch = writing.dispatch(FIRST, 3, 1)
    writing.commit()
    writing.spent(FIRST, 0, "usd", 0.5, dispatch_id=dispatch, item_index=3)
    writing.commit()
    writing.result(FIRST, 3, "D", dispatch)
    writing.answered(dispatch)
    writing.ended(FIRST, "all")


def _ends(writing: Writing) -> None:
    """Commits 11 to 20: every other end."""
    writing.commit()
    writing.buffer(AGAIN, "ask", ["a", "x"], enough=1)
    writing.commit()
    writing.result(AGAIN, 0, "A", None)
    writing.ended(AGAIN, "enough")
    writing.commit()
    writing.buffer(FAILING, "free", ["x", "y"], max_failures=1)
    dispatch = writing.dispatch(FAILING, 0, 1)
    writing.commit()
    writing.failure(key(FAILING, 0), 1, "exception", "ValueError: no", None)
    writing.result(FAILING, 0, "<SystemError/>", dispatch, success=0)
    writing.answered(dispatch)
    writing.ended(FAILING, "max_failures")
    writing.commit()
    writing.buffer(LATE, "ask", ["x"], deadline_at=at_ms(17))
    writing.commit()
    writing.buffer(STOPPED, "ask", ["x"])
    writing.commit()
    writing.ended(LATE, "deadline")
    writing.commit()
    writing.ended(STOPPED, "cancelled")
    writing.commit()
    writing.limit("hand", rate="100/min")
    writing.commit()
    writing.limit("slower", rate="100/min", allowed=32.0, rests_until=FAR_MS)


def _open_ones(writing: Writing) -> None:
    """Commits 21 to 25: one that waits for its time, and one whose budget is spent, with one inside it."""
    writing.commit()
    writing.buffer(PATIENT, "free", ["x", "y"], not_before=FAR_MS, priority=7)
    writing.commit()
    writing.buffer(POOR, "ask", ["p", "q"], budget_of=POOR)
    writing.budget(POOR, "tokens", 10)
    dispatch = writing.dispatch(POOR, 0, 1)
    writing.commit()
    writing.spent(POOR, 0, "tokens", 4, dispatch_id=dispatch)
    writing.buffer(INNER, "ask", ["i"], thread="t/poor/0", budget_of=POOR)
    writing.result(POOR, 0, "P", dispatch)
    writing.answered(dispatch)
    writing.commit()
    dispatch = writing.dispatch(INNER, 0, 1)
    writing.commit()
    writing.spent(INNER, 0, "tokens", 6, dispatch_id=dispatch)
    writing.result(INNER, 0, "I", dispatch)
    writing.answered(dispatch)
    writing.ended(INNER, "all")
    writing.paused(POOR, "budget")


def _messages(writing: Writing) -> None:
    """Commits 26 to 31: a message on a thread of its own that is handled twice, because its worker died."""
    writing.commit()
    row = {
        "message_seq": 1, "message_id": "asked", "kind": "text", "from_id": "cli", "to_id": "ask",
        "thread_id": "talk", "payload": "hello", "form": 0, "created_commit": writing.commit_id,
    }  # fmt: skip
    writing.insert("message", row)
    chain = {"chain": "[]", "created_commit": 26, "changed_commit": 26}
    writing.insert("thread", {"thread_id": "talk", **chain})
    for _ in range(2):
        writing.commit()
        writing.change("UPDATE message SET delivered_commit = ?, worker_pid = 4343", writing.commit_id)
        writing.commit()
        writing.spent(None, 0, "usd", 0.125, dispatch_id=-1, message_seq=1)
    writing.commit()
    writing.change("UPDATE message SET settled_commit = ?", writing.commit_id)
