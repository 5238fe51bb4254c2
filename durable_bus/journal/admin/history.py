"""The past of a journal: its runs and crashes, and how every buffer stood after any commit."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from durable_bus.errors import NotFound, UsageError
from durable_bus.journal.connection import open_reader, transaction, translated
from durable_bus.journal.statements import statements_of_its_version

__all__ = ["History"]


_ENDS = ("completed", "cancelled", "ended_by_enough", "ended_by_max_failures", "ended_by_deadline")
_COUNTED = ("opened", *_ENDS, "pruned", "workers_died", "came_back")
"""What is counted of a run: buffers, workers, and how often RetryAfter was raised."""


class History:
    """Read-only; each method sees one state of the journal. Raises as `open_reader` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_reader(path)
        with translated(path):
            self._statements = statements_of_its_version(self._connection, "history.sql")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        with translated(self.path):
            return [dict(row) for row in self._statements.rows(name, **parameters)]

    def runs(self, *, served: bool) -> list[dict[str, Any]]:
        """Every run with what happened in it. `ended`: `clean`, `crashed`, or `running` while served."""
        with self._one_state():
            runs = self._rows("runs")
            by_id = {run["run_id"]: run for run in runs}
            newest = max(by_id, default=0)
            for run in runs:
                alive = served and run["run_id"] == newest and run["stopped_at"] is None
                run["ended"] = "running" if alive else "crashed" if run["stopped_at"] is None else "clean"
                first, last = run["first_commit"], run["last_commit"]
                run |= self._rows("recorded_between", first_commit=first, last_commit=last)[0]
                run |= dict.fromkeys(_COUNTED, 0)
                run["interrupted"] = []
            for row in self._rows("buffer_events"):
                by_id[row["run_id"]][row["what"]] = row["buffers"]
            for row in self._rows("worker_deaths"):
                by_id[row["run_id"]]["workers_died"] = row["workers"]
            for row in self._rows("came_back"):
                by_id[row["run_id"]]["came_back"] = row["times"]
            for row in self._rows("interrupted"):
                run = by_id[row.pop("run_id")]
                if not (row.pop("in_flight") and run["ended"] == "running"):
                    run["interrupted"].append(row)
            return runs

    def commit_of(self, moment: str) -> int:
        """The commit that a number or a time names. A time is ISO 8601, UTC unless it says otherwise.

        Raises NotFound when there was none yet, UsageError for anything else.
        """
        newest = self._value("newest_commit") or 0
        if moment.isdecimal():
            if int(moment) > newest:
                raise NotFound(f"there is no commit {moment} yet: the newest of {self.path} is {newest}")
            return int(moment)
        try:
            time = datetime.fromisoformat(moment)
        except ValueError:
            raise UsageError(
                f"{moment!r:.60} is neither a commit's number nor a time such as 2026-01-31T12:00:00.500Z"
            ) from None
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        commit_id = self._value("last_commit_until", time_ms=int(time.timestamp() * 1000))
        if commit_id is None:
            raise NotFound(f"nothing had happened at {moment}: the journal begins later")
        return int(commit_id)

    def at(self, commit_id: int) -> dict[str, Any]:
        """Every buffer as it was after a commit: the columns of the view `buffers` that can be known of then,
        and `in_flight`, items in somebody's hands. Beside them `limits`, as they were, and `spending` until
        then, by buffer and unit.
        """
        with self._one_state():
            newest = self._value("newest_commit") or 0
            (commit,) = self._rows("commit", commit_id=commit_id) or [{"run_id": None, "committed_at": None}]
            buffers = self._rows("buffers_at", commit_id=commit_id)
            limits = self._rows("limits_at", commit_id=commit_id)
            spending = self._rows("spending_at", commit_id=commit_id)
        for row in buffers:
            known = row["successful"] is not None
            row["paused"] = bool(row["paused"])
            row["completed"] = row["successful"] + row["failed"] if known else None
            row["pending"] = (
                0 if row["state"] != "open" else row["total"] - row["completed"] if known else None
            )
        for row in limits:
            row["by_hand"] = bool(row["by_hand"])
        then = {"buffers": buffers, "limits": limits, "spending": spending}
        return {"commit": commit_id, "newest_commit": newest, **commit, **then}

    def open_work(self) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Open buffers, each with what it waits for, and how many unsettled messages each listener has."""
        with self._one_state():
            messages = {row["to_id"]: row["messages"] for row in self._rows("unsettled_messages")}
            return self._rows("open_work"), messages

    @contextlib.contextmanager
    def _one_state(self) -> Iterator[None]:
        """Several statements see the same state of the journal."""
        with translated(self.path), transaction(self._connection, "DEFERRED"):
            yield

    def _value(self, name: str, **parameters: Any) -> Any:
        with translated(self.path):
            return self._statements.value(name, **parameters)
