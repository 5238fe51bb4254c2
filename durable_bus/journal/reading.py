"""Reading the journal: clients, the command line and replay. Any number of times, by anyone, in pages.

In pages, because a half-read cursor pins the write-ahead log: a user's loop that sleeps inside would make it
grow without end.
"""

import contextlib
import functools
import itertools
import operator
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import NotFound
from durable_bus.journal.connection import open_reader, translated
from durable_bus.journal.statements import Statements
from durable_bus.messages import Result, Text, Xml

__all__ = ["BufferContent", "BufferFacts", "JournalReader"]

PAGE_ROWS = 500
"""A page fits the cache of a core: 2.9 µs a result of 316 characters, and 3.6 with 5,000 rows."""
INDEX_BITS = 32
_INDEX_MASK = (1 << INDEX_BITS) - 1
_FACTS = operator.itemgetter(2)
_new_result: Callable[[tuple[Any, ...]], Result] = functools.partial(tuple.__new__, Result)


class BufferFacts(NamedTuple):
    """What a reader keeps of a buffer to find its rows."""

    buffer_seq: int
    total: int


class BufferContent(NamedTuple):
    """What a buffer was started with, and how far it is."""

    buffer_seq: int
    buffer_id: str
    target: str
    digest: str
    collect: bool
    return_to: str
    opened: bool
    ended: bool
    pruned: bool
    total: int
    succeeded: int
    failed: int
    is_retry: bool


class JournalReader:
    """A read-only view of one journal, for any number of threads. Raises NotFound when there is none, else a
    JournalError.
    """

    def __init__(self, path: str | Path, connection: sqlite3.Connection | None = None) -> None:
        """`connection`: the writer's, for who is in its process and needs no second one."""
        self.path = Path(path)
        self.connection = open_reader(path) if connection is None else connection
        self._statements = Statements(self.connection, "reading.sql")
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One thread at a time: a cursor that another one executes anew gives it that one's rows."""
        with self._lock, translated(self.path):
            yield

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named statement, as dicts."""
        with self._reading():
            return [dict(row) for row in self._statements.rows(name, **parameters)]

    def row(self, name: str, **parameters: Any) -> dict[str, Any] | None:
        rows = self.rows(name, **parameters)
        return rows[0] if rows else None

    def buffer(self, buffer_id: str) -> dict[str, Any]:
        """The buffer's row of the view `buffers`. Raises NotFound."""
        row = self.row("buffer", buffer_id=buffer_id)
        if row is None:
            raise NotFound(f"no buffer {buffer_id!r} in {self.path}")
        return row

    def facts(self, buffer_id: str) -> BufferFacts:
        row = self.row("buffer_facts", buffer_id=buffer_id)
        if row is None:
            raise NotFound(f"no buffer {buffer_id!r} in {self.path}")
        return BufferFacts(row["buffer_seq"], row["total"] or 0)

    def content(self, buffer_id: str) -> BufferContent | None:
        row = self.row("buffer_content", buffer_id=buffer_id)
        if row is None:
            return None
        flags = {name: bool(row[name]) for name in ("collect", "opened", "ended", "pruned", "is_retry")}
        return BufferContent(**{**row, **flags})

    def open_buffers(self, limit: int = 1_000) -> list[dict[str, Any]]:
        """Rows of the view `buffers` that are receiving or open, in the order they came."""
        return self.rows("open_buffers", limit=limit)

    def failed_because(self, buffer_seq: int, limit: int = 10) -> list[dict[str, Any]]:
        """How many items of a buffer failed by what: kind, reason, items; the most frequent first."""
        first_key, last_key = self._keys(buffer_seq)
        return self.rows("failed_because", first_key=first_key, last_key=last_key, limit=limit)

    def unsuccessful_items(self, content: BufferContent) -> Iterator[Text | Xml]:
        """Failed and missing items of an ended buffer, in their order and as they were given."""
        first_key, last_key = self._keys(content.buffer_seq)
        after_key = first_key - 1
        while True:
            with self._reading():
                page = self._statements.all(
                    "unsuccessful_items", after_key=after_key, last_key=last_key, limit=PAGE_ROWS
                )
            if not page:
                return
            after_key = page[-1][0]
            for _, payload, is_xml in page:
                yield Xml(payload) if is_xml else Text(payload)

    def result_lines(self, buffer_seq: int, *, failed_only: bool = False) -> Iterator[str]:
        """Results recorded so far as JSON, a line each, in item order: a page of them at a time.

        SQLite writes the JSON: 280,000 lines/s of two million, where json.dumps of a Result makes 88,000.
        """
        first_key, last_key = self._keys(buffer_seq)
        after_key = first_key - 1
        while True:
            with self._reading():
                row = self._statements.one(
                    "result_lines",
                    after_key=after_key,
                    last_key=last_key,
                    limit=PAGE_ROWS,
                    success_max=0 if failed_only else 1,
                )
            if row is None or row[1] is None:
                return
            yield row[0] + "\n"
            after_key = row[1]

    @staticmethod
    def _keys(buffer_seq: int) -> tuple[int, int]:
        """The first and the last key that an item of this buffer may have."""
        first_key = buffer_seq << INDEX_BITS
        return first_key, first_key + _INDEX_MASK

    def counts(self, buffer_seq: int) -> tuple[int, int, int, bool]:
        """(total, succeeded, failed, ended) of a buffer, cheap enough to ask many times a second."""
        with self._reading():
            row = self._statements.one("buffer_counts", buffer_seq=buffer_seq)
        if row is None:
            raise NotFound(f"a buffer has vanished from {self.path}")
        return row[0] or 0, row[1], row[2], bool(row[3])

    def results(self, buffer_seq: int) -> Iterator[Result]:
        """Every result recorded so far, in item order."""
        answers = _Answers(self._statements)
        after_key = (buffer_seq << INDEX_BITS) - 1
        last_key = (buffer_seq << INDEX_BITS) + _INDEX_MASK
        while True:
            with self._reading():
                page = self._statements.all(
                    "results_page", after_key=after_key, last_key=last_key, limit=PAGE_ROWS
                )
                results = answers.results(buffer_seq, page)
            if not page:
                return
            after_key = (buffer_seq << INDEX_BITS) + page[-1][0]
            yield from results

    def results_after(self, buffer_seq: int, after_answer: int) -> tuple[list[Result], int]:
        """Results in the order they were recorded, after the answer with this id: one page, and the id to go
        on from.
        """
        answers = _Answers(self._statements)
        results: list[Result] = []
        base = buffer_seq << INDEX_BITS
        with self._reading():
            for answer_id, first, count, *facts in self._statements.all(
                "answers_after", after=after_answer, buffer_seq=buffer_seq, limit=20
            ):
                answers.know(answer_id, first, *facts)
                rows = self._statements.all(
                    "results_of_answer",
                    first_key=base + first,
                    end_key=base + first + count,
                    answer_id=answer_id,
                )
                results += answers.results(buffer_seq, rows)
                after_answer = answer_id
        return results, after_answer


class _Answers:
    """Turns rows of `result` into Results. Consecutive rows mostly share an answer, which is looked up
    once.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._known: dict[int, tuple[int, int, str]] = {}

    def know(self, answer_id: int, first_index: int, attempt: int, durations: str) -> None:
        self._known[answer_id] = (first_index, attempt, durations)

    def results(self, buffer_seq: int, rows: list[tuple[int, str, int]]) -> list[Result]:
        """Of rows (index, payload, facts): facts are the answer's id, success and form in one number, alike
        in most neighbours. A column costs 0.1 µs a row.
        """
        # By columns, so that nearly all of it happens in C: 0.9 µs a result, and 1.8 row by row.
        results: list[Result] = []
        for facts, group in itertools.groupby(rows, _FACTS):
            indexes, payloads, _ = zip(*group, strict=True)
            answer_id, success, is_xml = facts >> 2, bool(facts & 2), bool(facts & 1)
            first, attempt, durations = self._answer(answer_id)
            milliseconds: Iterable[float] = itertools.repeat(0.0)
            if durations:
                starts = [(index - first) * 10 for index in indexes]
                milliseconds = [int(durations[start : start + 10]) / 1000 for start in starts]
            errors: Iterable[str | None] = itertools.repeat(None)
            if not success:
                errors = [
                    self._error(buffer_seq, index, attempt, payload)
                    for index, payload in zip(indexes, payloads, strict=True)
                ]
            fields = zip(  # not strict: what is the same for all of them never ends
                indexes,
                itertools.repeat(success),
                payloads,
                itertools.repeat(is_xml),
                errors,
                itertools.repeat(attempt),
                milliseconds,
            )
            results.extend(map(_new_result, fields))
        return results

    def _answer(self, answer_id: int) -> tuple[int, int, str]:
        known = self._known.get(answer_id)
        if known is None:
            row = self._statements.one("answer", answer_id=answer_id)
            assert row is not None
            if len(self._known) > 1_000:
                self._known.clear()
            known = self._known[answer_id] = (row[0], row[1], row[2])
        return known

    def _error(self, buffer_seq: int, index: int, attempt: int, payload: str) -> str:
        text = self._statements.value(
            "failure_of", item_key=(buffer_seq << INDEX_BITS) + index, attempt=attempt
        )
        return payload if text is None else str(text)
