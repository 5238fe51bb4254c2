"""What a trace of a buffer is made of: its life, the runs it has lived through, and what was handed out and
came back, in the order of commits.

All is read in pages, so memory stays flat, and nobody who writes slowly holds the write-ahead log back. What
is committed after the reading began is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import NotFound
from durable_bus.journal.connection import open_reader, translated
from durable_bus.journal.formats import INDEX_BITS
from durable_bus.journal.paging import PAGE_CHARS
from durable_bus.journal.statements import statements_of_its_version

__all__ = ["Answer", "Dispatch", "FailedAttempt", "TracedBuffer"]

_PAGE_ROWS = 500


class Dispatch(NamedTuple):
    """A range of items that a worker was handed. Times are milliseconds since the epoch."""

    dispatch_id: int
    engine: str | None
    commit_id: int
    sent_ms: int
    run_id: int
    first_index: int
    item_count: int
    attempt: int
    worker_pid: int
    ended_commit: int | None
    ended_ms: int | None
    ended_how: str | None


class Answer(NamedTuple):
    """A range of answers that came together."""

    answer_id: int
    durations: str
    commit_id: int
    at_ms: int
    run_id: int
    dispatch_id: int | None
    first_index: int
    item_count: int
    recorded: int
    success: int
    attempt: int
    worker_pid: int | None
    place: str | None
    memo: int


class FailedAttempt(NamedTuple):
    """An attempt at an item that failed."""

    failure_id: int
    message: str
    commit_id: int
    at_ms: int
    run_id: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    attempt: int
    kind: str
    place: str | None


class TracedBuffer:
    """Reads one buffer. Raises NotFound for none and for a pruned one, else as `open_reader` does."""

    def __init__(self, path: Path, buffer_id: str) -> None:
        self.path = path
        self._connection = open_reader(path)
        try:
            with translated(path):
                self._statements = statements_of_its_version(self._connection, "trace.sql")
                newest = self._statements.one("newest")
            self.until_commit, self.until_ms = newest or (0, 0)
            self._buffer_id = buffer_id
            self.life = self._kept()
            self._span = {"buffer_seq": self.life["buffer_seq"], "until_commit": self.until_commit}
            first_key = self.life["buffer_seq"] << INDEX_BITS
            self._keys = {"first_key": first_key, "last_key": first_key + (1 << INDEX_BITS) - 1}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "TracedBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kept(self) -> dict[str, Any]:
        rows = self._rows("life", buffer_id=self._buffer_id)
        if not rows:
            raise NotFound(f"no buffer {self._buffer_id!r:.120} in {self.path}")
        if rows[0]["pruned"]:
            raise NotFound(f"the items and results of {self._buffer_id} were pruned")
        return rows[0]

    def refuse_pruned(self) -> None:
        """At the end: what was pruned meanwhile was not all read. Raises NotFound."""
        self._kept()

    def _rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        with translated(self.path):
            return [dict(row) for row in self._statements.rows(name, **parameters)]

    def runs(self) -> list[dict[str, Any]]:
        """The supervisors' runs from its start to its end, or until now."""
        return self._rows("runs", first_run=self.life["first_run"], last_run=self.life["last_run"])

    def pauses(self) -> list[dict[str, Any]]:
        return self._rows("pauses", buffer_seq=self.life["buffer_seq"])

    def dispatches(self) -> Iterator[Dispatch]:
        """In the order of their ids: what was taken back comes when it was, and was sent earlier."""
        (span,) = self._rows("dispatch_span", buffer_seq=self.life["buffer_seq"])
        if span["first_id"] is not None:
            rows = self._pages("dispatches_page", span["first_id"] - 1, last_id=span["last_id"], **self._span)
            yield from map(Dispatch._make, rows)

    def answers(self) -> Iterator[Answer]:
        after_id = 0
        while True:
            with translated(self.path):
                page = self._statements.some(
                    "answers_page", PAGE_CHARS, after_id=after_id, limit=_PAGE_ROWS, **self._span
                )
            if not page:
                return
            yield from map(Answer._make, page)
            after_id = page[-1][0]

    def recorded_by(self, answer: Answer) -> set[int]:
        """The items that this answer was the first for."""
        first_key = self._keys["first_key"] + answer.first_index
        keys = {"first_key": first_key, "end_key": first_key + answer.item_count}
        with translated(self.path):
            rows = self._statements.all("recorded", answer_id=answer.answer_id, **keys)
        return {index for (index,) in rows}

    def failures(self) -> Iterator[FailedAttempt]:
        with translated(self.path):
            first_id = self._statements.value("first_failure", **self._keys)
        if first_id is not None:
            until = {"until_commit": self.until_commit}
            rows = self._pages("attempts_failed_page", first_id - 1, **self._keys, **until)
            yield from map(FailedAttempt._make, rows)

    def _pages(self, name: str, after_id: int, **parameters: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement whose first column counts up."""
        while True:
            with translated(self.path):
                page = self._statements.all(name, after_id=after_id, limit=_PAGE_ROWS, **parameters)
            yield from page
            if len(page) < _PAGE_ROWS:
                return
            after_id = page[-1][0]
