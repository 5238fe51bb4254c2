"""Reading the journal: clients, the command line and replay. Any number of times, by anyone, in pages.

In pages, because a half-read cursor pins the write-ahead log: a user's loop that sleeps inside would make it
grow without end.
"""

import contextlib
import gc
import itertools
import json
import operator
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import NotFound
from durable_bus.journal.connection import TEXT_BYTES_MAX, open_reader, translated
from durable_bus.journal.formats import INDEX_BITS, milliseconds
from durable_bus.journal.paging import PAGE_CHARS, fitting
from durable_bus.journal.statements import Statements, threads_below
from durable_bus.payloads.messages import Result, Text, Xml

__all__ = ["BufferContent", "BufferFacts", "JournalReader"]

PAGE_ROWS = 500
"""A page fits the cache of a core: 2.9 µs a result of 316 characters, and 3.6 with 5,000 rows."""
RESULTS_TOGETHER_MAX, CHARS_TOGETHER_MAX = 32_000, 4 * PAGE_CHARS
"""At most about so many results are made before one is given away, see `JournalReader.pages`."""
PACKED_ROWS_MIN, PACKED_ROWS_MAX = 32, 2_000
"""So many results of one answer are read as one text: 1.3 µs a result, and 2.1 as rows."""
_LINES_FIRST = 8
_ANSWERS_MAX = 1_000
"""So many different answers are looked at to say by what items failed."""
_INDEX_MASK = (1 << INDEX_BITS) - 1
_KNOWN_ANSWERS_MAX = 64
_FACTS = operator.itemgetter(2)


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
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, TEXT_BYTES_MAX)
        # In SQL, so that the lines that SQLite writes say the same as Results. Rows with a failure never ask.
        self.connection.create_function("error_text", 1, _error_text, deterministic=True)
        self._statements = Statements(self.connection, "reader.sql")
        self._lock = threading.Lock()
        self.closed = False

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One thread at a time: a cursor that another one executes anew gives it that one's rows."""
        with self._lock, translated(self.path):
            yield

    def close(self) -> None:
        with self._lock:
            self.closed = True
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

    def absent_listeners(self, listeners: Iterable[str], limit: int) -> list[dict[str, Any]]:
        """Names that messages wait for and that are neither of these listeners nor a mailbox: `name`, and
        how many `messages`.
        """
        return self.rows("absent_listeners", listeners=json.dumps(list(listeners)), limit=limit)

    def waited_for_by_items_of(self, thread_id: str, names: list[str]) -> str | None:
        """Which of these names a message waits for on the thread of an item of the buffer with this thread,
        or of a buffer nested in it. The messages of these threads are gone through until one does.
        """
        below = threads_below(thread_id)
        row = self.row("waited_for_by_items_of", names=json.dumps(names), **below)
        return None if row is None else str(row["name"])

    def failed_because(self, buffer_seq: int, limit: int = 10) -> list[dict[str, Any]]:
        """How many items of a buffer failed by what: kind, reason, items; the most frequent first.

        The kind is the failure's, the code of a SystemError, or the name of another element; the reason is
        the class of an exception or the first words.
        """
        first_key, last_key = self._keys(buffer_seq)
        reasons: Counter[tuple[str, str]] = Counter()
        for row in self.rows("failed_because", first_key=first_key, last_key=last_key):
            reasons[row["kind"], row["reason"]] += row["items"]
        if reasons.total() < self.counts(buffer_seq)[2]:
            for row in self.rows("failed_answers", buffer_seq=buffer_seq, limit=_ANSWERS_MAX):
                reasons[_kind_and_reason(row["payload"], row["error"])] += row["items"]
        frequent = sorted(reasons.items(), key=lambda counted: (-counted[1], counted[0]))[:limit]
        return [{"kind": kind, "reason": reason, "items": items} for (kind, reason), items in frequent]

    def unsuccessful_items(self, content: BufferContent) -> Iterator[Text | Xml]:
        """Failed and missing items of an ended buffer, in their order and as they were given."""
        first_key, last_key = self._keys(content.buffer_seq)
        after_key = first_key - 1
        while True:
            with self._reading():
                page = self._statements.some(
                    "unsuccessful_items", PAGE_CHARS, after_key=after_key, last_key=last_key, limit=PAGE_ROWS
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
        limit = _LINES_FIRST
        while True:
            with self._reading():
                try:
                    row = self._statements.one(
                        "result_lines",
                        after_key=after_key,
                        last_key=last_key,
                        limit=limit,
                        success_max=0 if failed_only else 1,
                    )
                except sqlite3.DataError:  # longer than TEXT_BYTES_MAX
                    if limit == 1:
                        raise
                    limit = max(1, limit // 8)
                    continue
            if row is None or row[1] is None:
                return
            lines, after_key = row
            yield lines + "\n"
            limit = min(fitting(limit, len(lines), PAGE_CHARS), PAGE_ROWS)

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
        # Not a generator of results: 0.02 us each.
        return itertools.chain.from_iterable(self.pages(buffer_seq))

    def pages(self, buffer_seq: int, after_index: int = -1) -> Iterator[list[Result]]:
        """The same, after the item with this index, as they are read: a few first, then more and more.

        Where `_gc_paused` cannot spare the garbage collector that, it looks at what somebody keeps of a page,
        and after ten pages at all of it once more, which is cold memory then. With pages of one answer's
        2,000, 200,000 results of 90 characters took 0.78 µs each, and 0.93 for the first time in a process;
        with these 0.66 and 0.78.
        """
        answers = _Answers(self._statements, buffer_seq)
        first_key, _ = self._keys(buffer_seq)
        wanted = 1
        while True:
            page: list[Result] = []
            answers.chars = 0
            with self._reading(), _gc_paused():
                while len(page) < wanted and answers.chars < CHARS_TOGETHER_MAX:
                    more = answers.page(first_key + after_index)
                    if not more:
                        break
                    page += more
                    after_index = more[-1].index
            if not page:
                return
            yield page
            wanted = min(2 * len(page), RESULTS_TOGETHER_MAX)

    def results_after(self, buffer_seq: int, after_answer: int) -> tuple[list[Result], int]:
        """Results in the order they were recorded, after the answer with this id: one page, and the id to go
        on from.
        """
        answers = _Answers(self._statements, buffer_seq)
        results: list[Result] = []
        chars = 0
        with self._reading():
            for (answer_id,) in self._statements.all(
                "answers_after", after=after_answer, buffer_seq=buffer_seq, limit=20
            ):
                page = answers.results_of(answer_id)
                results += page
                after_answer = answer_id
                chars += sum(len(result.payload) for result in page)
                if chars >= PAGE_CHARS:
                    break
        return results, after_answer


class _Answer(NamedTuple):
    """What the results of an answer have in common, and how long each took in ms; empty when not measured."""

    first_index: int
    item_count: int
    is_whole: bool
    """It was the first to answer each of its items: all their results are its own."""
    attempt: int
    milliseconds: list[float]


class _Answers:
    """Turns rows of `result` into Results. Consecutive rows mostly share an answer, which is looked up
    once.
    """

    def __init__(self, statements: Statements, buffer_seq: int) -> None:
        self._statements = statements
        self._buffer_seq = buffer_seq
        self._base = buffer_seq << INDEX_BITS
        self._known: dict[int, _Answer] = {}
        self.chars = 0
        """How long the payloads were that were read."""

    def page(self, after_key: int) -> list[Result]:
        """The results that come next in item order; none when there are no more."""
        span = {"after_key": after_key, "last_key": self._base + _INDEX_MASK}
        row = self._statements.one("next_result", **span)
        if row is None:
            return []
        key, answer_id = row
        answer = self._answer(answer_id)
        end_key = min(self._base + answer.first_index + answer.item_count, key + PACKED_ROWS_MAX)
        packed = self._packed(answer_id, key, end_key)
        if packed is not None:
            return packed
        return self._of_rows(self._statements.some("results_page", PAGE_CHARS, **span, limit=PAGE_ROWS))

    def results_of(self, answer_id: int) -> list[Result]:
        """The results that an answer was the first to give."""
        answer = self._answer(answer_id)
        first_key = self._base + answer.first_index
        span = {"first_key": first_key, "end_key": first_key + answer.item_count}
        packed = self._packed(answer_id, **span)
        if packed is not None:
            return packed
        return self._of_rows(self._statements.all("results_of_answer", answer_id=answer_id, **span))

    def _packed(self, answer_id: int, first_key: int, end_key: int) -> list[Result] | None:
        """The results of a range, if there are many and all are this answer's. None otherwise."""
        if end_key - first_key < PACKED_ROWS_MIN or not self._answer(answer_id).is_whole:
            return None
        row = self._statements.one("results_packed", first_key=first_key, end_key=end_key)
        assert row is not None
        text, success, is_xml = row
        payloads = text.split("\0") if text else []
        if len(payloads) != end_key - first_key:
            return None
        self.chars += len(text)
        indexes = range(first_key - self._base, end_key - self._base)
        return self._alike(answer_id, bool(success), bool(is_xml), indexes, payloads)

    def _of_rows(self, rows: list[tuple[int, str, int]]) -> list[Result]:
        """Of rows (index, payload, facts): see `results_page`."""
        results: list[Result] = []
        for facts, group in itertools.groupby(rows, _FACTS):
            indexes, payloads, _ = zip(*group, strict=True)
            self.chars += sum(map(len, payloads))
            results += self._alike(facts >> 2, bool(facts & 2), bool(facts & 1), indexes, payloads)
        return results

    def _alike(
        self, answer_id: int, success: bool, is_xml: bool, indexes: Sequence[int], payloads: Sequence[str]
    ) -> list[Result]:
        # By columns, so that nearly all of it happens in C: 0.9 µs a result, and 1.8 row by row.
        answer = self._answer(answer_id)
        milliseconds: Iterable[float] = itertools.repeat(0.0)
        if answer.milliseconds:
            first, last = indexes[0] - answer.first_index, indexes[-1] - answer.first_index
            milliseconds = answer.milliseconds[first : last + 1]
            if last - first >= len(indexes):
                milliseconds = [answer.milliseconds[index - answer.first_index] for index in indexes]
        errors: Iterable[str | None] = itertools.repeat(None)
        if not success:
            errors = [
                self._error(index, answer.attempt, payload)
                for index, payload in zip(indexes, payloads, strict=True)
            ]
        fields = zip(  # not strict: what is the same for all of them never ends
            indexes,
            itertools.repeat(success),
            payloads,
            itertools.repeat(is_xml),
            errors,
            itertools.repeat(answer.attempt),
            milliseconds,
        )
        with _gc_paused():
            # Past Result's own __new__, which is Python.
            return list(map(tuple.__new__, itertools.repeat(Result), fields))

    def _answer(self, answer_id: int) -> _Answer:
        known = self._known.get(answer_id)
        if known is None:
            row = self._statements.one("answer", answer_id=answer_id)
            assert row is not None
            if len(self._known) >= _KNOWN_ANSWERS_MAX:
                self._known.clear()
            first_index, item_count, is_whole, attempt, durations = row
            known = _Answer(first_index, item_count, bool(is_whole), attempt, milliseconds(durations))
            self._known[answer_id] = known
        return known

    def _error(self, index: int, attempt: int, payload: str) -> str:
        text = self._statements.value("failure_of", item_key=self._base + index, attempt=attempt)
        return _error_text(payload) if text is None else str(text)


def _error_text(payload: str) -> str:
    from durable_bus.payloads.xml import error_text  # lxml costs 20 ms of a start, and few have such rows

    return error_text(payload)


def _kind_and_reason(payload: str, error: str) -> tuple[str, str]:
    """Of what was answered as a failure, and what that says in one line."""
    from durable_bus.payloads.xml import payload_kind

    kind = payload_kind(payload, is_xml=True) or "answer"
    if kind == "SystemError":
        kind, _, error = error.partition(": ")
    return kind, error.partition(":")[0]


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """For the milliseconds in which much is made and nothing is garbage.

    Python 3.11 looks for garbage after every 700 new objects, and ever more often among all the others: that
    took a third of the time to read 200,000 results. Later versions wait for the end of such a call by
    themselves.

    In the end what was made counts as old, without a look at it: to freeze and unfreeze only moves it there.
    The looks at young and at middle-aged results took a fifth of the time to read 200,000: 1.05 µs each, and
    0.88 now (Python 3.11); 0.91 and 0.69 (3.13). Not where somebody has frozen something that is to stay so.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() == 0:
                gc.freeze()
                gc.unfreeze()
            gc.enable()
