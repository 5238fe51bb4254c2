"""A journal whose supervisor is this process, as far as its lock says, with rows of limits, budgets and
terms.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import now_ms

from durable_bus.journal.journal import Journal
from durable_bus.journal.lock import JournalLock

__all__ = ["Paced", "served"]

_LIMIT: dict[str, Any] = {
    "declared": 1, "app_rate": "500/min", "app_running": 40, "adaptive": 0, "by_hand": 0, "rate": "500/min",
    "running": 40, "allowed": None, "tokens": 8.0, "tokens_at_ns": 0, "not_begun": 0, "in_hand": 0,
    "rests_until": 0,
}  # fmt: skip


class Paced:
    """Writes rows, a commit each."""

    def __init__(self, opened: Journal, listeners: dict[str, list[str]]) -> None:
        """`listeners`: the limits of each."""
        self._opened = opened
        self._buffers = 0
        settings = {name: {"name": name, "limits": limits} for name, limits in listeners.items()}
        with opened.commit(now_ms()):
            opened.start_run(1, "paced:bus", "0")
            opened.connection.execute("UPDATE run SET listeners = ?", (json.dumps(settings),))

    def execute(self, sql: str, *parameters: Any) -> None:
        with self._opened.commit(now_ms()):
            self._opened.connection.execute(sql, parameters)

    def buffer(self, buffer_id: str, items: int = 10, **columns: Any) -> int:
        """A buffer for `work` that is open, with so many items; its `buffer_seq`."""
        self._buffers += 1
        seq, newest = self._buffers, "(SELECT max(commit_id) FROM journal_commit)"
        row = {
            "buffer_seq": seq, "buffer_id": buffer_id, "target": "work", "return_to": "", "from_id": "cli",
            "thread_id": f"t/{buffer_id}", "starter_thread_id": "t", "collect": 1, "request_id": buffer_id,
            "digest": "d", "next_chunk": 1, "received": items, "total": items, "low_water": 0,
            "touched_at": now_ms(), **columns,
        }  # fmt: skip
        self.execute(
            f"INSERT INTO buffer ({', '.join(row)}, created_commit, opened_commit, sealed_commit)"
            f" VALUES ({', '.join('?' * len(row))}, {newest}, {newest}, {newest})",
            *row.values(),
        )
        return seq

    def end(self, buffer_seq: int, how: str) -> None:
        """It ends as it is."""
        cancelled = "NULL" if how == "all" else "(SELECT max(commit_id) FROM journal_commit)"
        self.execute(
            f"UPDATE buffer SET cancelled_commit = {cancelled}, ended_how = ?,"
            " ended_commit = (SELECT max(commit_id) FROM journal_commit) WHERE buffer_seq = ?",
            how,
            buffer_seq,
        )

    def limit(self, name: str, **columns: Any) -> None:
        """As it is at this moment, instead of what it was."""
        row = {**_LIMIT, "name": name, "tokens_at": now_ms(), **columns}
        names, places = ", ".join(row), ", ".join("?" * len(row))
        self.execute(f"INSERT OR REPLACE INTO limit_state ({names}) VALUES ({places})", *row.values())

    def budget(self, buffer_seq: int, unit: str, amount: float) -> None:
        self.execute("UPDATE buffer SET budget_of = buffer_seq WHERE buffer_seq = ?", buffer_seq)
        newest = "(SELECT max(commit_id) FROM journal_commit)"
        self.execute(
            f"INSERT INTO budget (buffer_seq, unit, amount, commit_id) VALUES (?, ?, ?, {newest})",
            buffer_seq,
            unit,
            amount,
        )

    def spend(self, buffer_seq: int, index: int, unit: str, amount: float, listener: str = "work") -> None:
        self.execute(
            "INSERT INTO spent (commit_id, dispatch_id, item_index, number, buffer_seq, listener, attempt,"
            " unit, amount) VALUES ((SELECT max(commit_id) FROM journal_commit), ?, ?, 0, ?, ?, 1, ?, ?)",
            buffer_seq,
            index,
            buffer_seq,
            listener,
            unit,
            amount,
        )

    def pause(self, buffer_seq: int, why: str) -> None:
        self.execute(
            "INSERT INTO pause (buffer_seq, paused_commit, why)"
            " VALUES (?, (SELECT max(commit_id) FROM journal_commit), ?)",
            buffer_seq,
            why,
        )

    def hand_out(self, buffer_seq: int, items: int) -> None:
        """The first items."""
        self.execute(
            "INSERT INTO dispatch (commit_id, buffer_seq, first_index, item_count, attempt, alone,"
            " worker_pid) VALUES ((SELECT max(commit_id) FROM journal_commit), ?, 0, ?, 1, 0, 7)",
            buffer_seq,
            items,
        )


@contextmanager
def served(path: Path, listeners: dict[str, list[str]] | None = None) -> Iterator[Paced]:
    """A new journal, with its lock held."""
    lock = JournalLock(path)
    opened = Journal.open(path)
    try:
        yield Paced(opened, {"work": ["openai"]} if listeners is None else listeners)
    finally:
        opened.close()
        lock.release()
