"""What a page of metrics says of a journal: sums over all of it, by listener. Read-only.

Counters are made of rows, and a counter must not fall: a monitoring system takes a fall for a restart, and
counts all that is left once more. What the row of a buffer counts stays when the buffer is pruned. Its
answers, dispatches and failures go. So in a journal of which something was pruned these count from the last
midnight (UTC) on: they fall once a day, to nothing, which is what such a system expects of a restart.
"""

import json
import sqlite3
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import JournalError
from durable_bus.journal.connection import open_reader, translated
from durable_bus.journal.formats import DURATION_DIGITS
from durable_bus.journal.statements import statements_of_its_version

__all__ = ["DURATION_BOUNDS_US", "WAIT_BOUNDS_MS", "Histogram", "Measured", "measure"]

DURATION_BOUNDS_US = (
    100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 30_000_000,
    60_000_000, 300_000_000, 1_800_000_000,
)  # fmt: skip
WAIT_BOUNDS_MS = (
    10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000, 21_600_000,
    86_400_000,
)  # fmt: skip
_DAY_MS = 24 * 3600 * 1000
_PAGE_ROWS = 200
_PAGE_ROWS_MAX = 25_600
_PAGE_CHARS = 500_000


class Histogram:
    """How many values are up to each bound, how many there are, and their sum; in one unit."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def add(self, value: int, times: int) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add_all(self, values: list[int]) -> None:
        """1,000,000 that differ take 0.3 s, looked up one by one 0.6 s."""
        values.sort()
        below = 0
        for position, bound in enumerate(self.bounds):
            up_to = bisect_right(values, bound, below)
            self._counts[position] += up_to - below
            below = up_to
        self._counts[-1] += len(values) - below
        self.sum += sum(values)

    @property
    def cumulative(self) -> list[int]:
        """One for each bound, and the last one for all values."""
        return list(accumulate(self._counts))


class Measured(NamedTuple):
    """All that the rows say. `listeners`, `limits`: names, those of the app and those that rows have."""

    listeners: set[str]
    limits: set[str]
    items: Counter[tuple[str, str]]
    """By listener and outcome: `succeeded`, `failed`, `missing`."""
    attempts: Counter[tuple[str, str]]
    """By listener and result: `succeeded`, `failed`, `forwarded`, and the kinds of failures."""
    items_now: Counter[tuple[str, str]]
    """By listener and state: `receiving`, `waiting`, `in_flight`, `forwarded`."""
    oldest_waiting_ms: dict[str, int]
    """By listener."""
    buffers: Counter[str]
    """By state, as in the view `buffers`."""
    durations_us: Histogram
    waits_ms: Histogram
    rested_ms: dict[str, int]
    """By limit."""
    journal_bytes: dict[str, int]
    """`journal` and `wal`."""
    sqlite_version: str


def measure(path: str | Path, now_ms: int) -> Measured:
    """Raises NotFound when there is no journal, else a JournalError."""
    path = Path(path)
    connection = open_reader(path)
    try:
        with translated(path):
            return _Measuring(connection, now_ms).all(path)
    finally:
        connection.close()


class _Measuring:
    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self._statements = statements_of_its_version(connection, "metrics.sql", "commits.sql")
        self._now_ms = now_ms
        self._after_commit = self._counts_from()

    def _counts_from(self) -> int:
        """What is made of rows that a prune deletes counts what was recorded after this commit; 0: all."""
        if not self._statements.value("metrics_is_pruned"):
            return 0
        midnight_ms = self._now_ms - self._now_ms % _DAY_MS
        return int(self._statements.value("last_commit_before", before_ms=midnight_ms))

    def _rows(self, name: str) -> list[Any]:
        return self._statements.rows(name, now_ms=self._now_ms, after_commit=self._after_commit)

    def all(self, path: Path) -> Measured:
        items, buffers, now = Counter[tuple[str, str]](), Counter[str](), Counter[tuple[str, str]]()
        for row in self._rows("metrics_buffers"):
            buffers[row["state"]] += row["buffers"]
            now[row["listener"], "receiving"] += row["receiving"]
            for outcome in ("succeeded", "failed", "missing"):
                items[row["listener"], outcome] += row[outcome]
        oldest_ms = {}
        for row in self._rows("metrics_open_items"):
            listener = row["listener"]
            now[listener, "in_flight"] = row["in_flight"]
            now[listener, "forwarded"] = row["forwarded"]
            now[listener, "waiting"] = max(0, row["pending"] - row["in_flight"] - row["forwarded"])
            if row["waiting_since"] is not None:
                oldest_ms[listener] = self._now_ms - row["waiting_since"]
        app = self._rows("metrics_app")[0]
        rested_ms = {row["limit"]: row["rested_ms"] for row in self._rows("metrics_rests")}
        return Measured(
            listeners={listener for listener, _ in items} | {*json.loads(app["listeners"] or "{}")},
            limits={*rested_ms, *json.loads(app["limits"] or "[]")},
            items=items,
            attempts=self._attempts(),
            items_now=now,
            oldest_waiting_ms=oldest_ms,
            buffers=buffers,
            durations_us=self._durations(),
            waits_ms=self._waits(),
            rested_ms=rested_ms,
            journal_bytes={"journal": _size_bytes(path), "wal": _size_bytes(Path(f"{path}-wal"))},
            sqlite_version=sqlite3.sqlite_version,
        )

    def _attempts(self) -> Counter[tuple[str, str]]:
        answered = Counter[tuple[int, int]]()
        for page in self._pages("metrics_answers", "metrics_last_answer"):
            for buffer_seq, success, items in page:
                answered[buffer_seq, success] += items
        targets: dict[int, str] = {}
        for page in self._pages("metrics_targets", "metrics_last_buffer"):
            targets.update(page)
        attempts = Counter[tuple[str, str]]()
        for (buffer_seq, success), items in answered.items():
            if buffer_seq not in targets:
                continue  # of a damaged journal: `check` says so
            attempts[targets[buffer_seq], "succeeded" if success else "failed"] += items
        for row in self._rows("metrics_failures"):
            attempts[row["listener"], row["kind"]] += row["failures"]
            # Left is what handlers have answered themselves.
            answered_failed = attempts[row["listener"], "failed"] - row["last_ones"]
            attempts[row["listener"], "failed"] = max(0, answered_failed)
        for row in self._rows("metrics_forwarded"):
            attempts[row["listener"], "forwarded"] += row["items"]
        return attempts

    def _durations(self) -> Histogram:
        histogram = Histogram(DURATION_BOUNDS_US)
        for ((text,),) in self._pages("metrics_durations", "metrics_last_answer"):
            # In pieces, as numbers take ten times the room of their digits.
            for begin in range(0, len(text or ""), _PAGE_CHARS):
                piece = text[begin : begin + _PAGE_CHARS].encode()
                fields = struct.unpack(f"{DURATION_DIGITS}s" * (len(piece) // DURATION_DIGITS), piece)
                histogram.add_all([*map(int, fields)])
        return histogram

    def _waits(self) -> Histogram:
        histogram = Histogram(WAIT_BOUNDS_MS)
        for page in self._pages("metrics_waits", "metrics_last_dispatch"):
            for waited_ms, items in page:
                histogram.add(waited_ms, items)
        return histogram

    def _pages(self, name: str, last: str) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a statement for one range of keys after the other. Ranges grow while their rows are
        small: an answer may hold the durations of one item, or of 2,000.
        """
        after_id, last_id, rows = 0, self._statements.value(last) or 0, _PAGE_ROWS
        while after_id < last_id:
            span = {"after_id": after_id, "last_id": min(after_id + rows, last_id)}
            page = self._statements.all(name, after_commit=self._after_commit, **span)
            yield page
            after_id += rows
            chars = len(page[0][0]) if page and isinstance(page[0][0], str) else 0
            if chars > 2 * _PAGE_CHARS:
                rows = max(1, rows // 2)
            elif chars <= _PAGE_CHARS:
                rows = min(rows * 2, _PAGE_ROWS_MAX)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise JournalError(f"cannot look at {path}: {error.strerror}") from error
