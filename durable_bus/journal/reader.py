"""Reads the journal for clients, the command line and replay: any number of times, by anyone.

Rows are read in pages, because a cursor in the middle of its rows keeps the write-ahead log from shrinking. A
user's loop that sleeps between two rows would make the log grow without end.
"""

import contextlib
import itertools
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from durable_bus.errors import NotFound
from durable_bus.journal.connection import TEXT_BYTES_MAX, open_reader, translated
from durable_bus.journal.formats import INDEX_BITS
from durable_bus.journal.paging import PAGE_CHARS
from durable_bus.journal.results import PAGE_ROWS, ResultPages, Run, error_text
from durable_bus.journal.statements import statements_of_its_version, threads_below
from durable_bus.payloads.forms import XML
from durable_bus.payloads.messages import Json, Pickled, Result, Text, Xml, as_said

__all__ = ["BufferContent", "JournalReader"]

_ANSWERS_MAX = 1_000
"""So many different answers are looked at to say by what items failed."""
_INDEX_MASK = (1 << INDEX_BITS) - 1

Answered = TypeVar("Answered", Result, Run)


class BufferContent(NamedTuple):
    """What a buffer was started with, and how far it is."""

    buffer_seq: int
    buffer_id: str
    target: str
    digest: str
    collect: bool
    return_to: str
    opened: bool
    sealed: bool
    """All its items have come. Only a stream is opened before."""
    ended: bool
    pruned: bool
    total: int
    succeeded: int
    failed: int
    is_retry: bool


class JournalReader:
    """A read-only view of a journal, for any number of threads. Raises NotFound, else a JournalError."""

    def __init__(self, path: str | Path, connection: sqlite3.Connection | None = None) -> None:
        """`connection`: the writer's, for a reader in the same process."""
        self.path = Path(path)
        self.connection = open_reader(path) if connection is None else connection
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, TEXT_BYTES_MAX)
        with translated(path):
            self._statements = statements_of_its_version(self.connection, "reader.sql")
        self.lock = threading.Lock()
        """Held while SQLite is asked."""
        self.closed = False

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One thread at a time: two threads would get rows of one another's statement."""
        with self.lock, translated(self.path):
            yield

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.connection.close()

    def close_parents(self) -> None:
        """In a forked child, before it opens its own: SQLite believes that it holds the file's lock, which no
        child inherits, and that another connection of the process needs none then. What a thread of the
        parent was busy with cannot be closed.
        """
        if not self.lock.locked():
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

    def buffer_seq(self, buffer_id: str) -> int:
        """The key of a buffer, by which its results are read. Raises NotFound."""
        content = self.content(buffer_id)
        if content is None:
            raise NotFound(f"no buffer {buffer_id!r} in {self.path}")
        return content.buffer_seq

    def content(self, buffer_id: str) -> BufferContent | None:
        row = self.row("buffer_content", buffer_id=buffer_id)
        if row is None:
            return None
        flags = ("collect", "opened", "sealed", "ended", "pruned", "is_retry")
        return BufferContent(**{**row, **{name: bool(row[name]) for name in flags}})

    def kept(self, buffer_id: str) -> BufferContent:
        """The same, of a buffer whose results are there. Raises NotFound for none, and for a pruned one."""
        content = self.content(buffer_id)
        if content is None:
            raise NotFound(f"no buffer {buffer_id!r:.120} in {self.path}")
        if content.pruned:
            raise NotFound(f"the items and results of {buffer_id} were pruned")
        return content

    def open_buffers(self, limit: int = 1_000) -> list[dict[str, Any]]:
        """Rows of the view `buffers` that are receiving or open, in the order they came."""
        return self.rows("open_buffers", limit=limit)

    def absent_listeners(self, listeners: Iterable[str], limit: int) -> list[dict[str, Any]]:
        """Names that messages wait for, neither these listeners nor mailboxes: `name`, `messages`."""
        return self.rows("absent_listeners", listeners=json.dumps(list(listeners)), limit=limit)

    def waited_for_by_items_of(self, thread_id: str, names: list[str]) -> str | None:
        """Which of these names a message waits for on the thread of an item of the buffer with this thread,
        or of a buffer nested in it. The messages of these threads are gone through until one does.
        """
        below = threads_below(thread_id)
        row = self.row("waited_for_by_items_of", names=json.dumps(names), **below)
        return None if row is None else str(row["name"])

    def failed_because(self, buffer_seq: int, limit: int = 10) -> list[dict[str, Any]]:
        """How many items of a buffer failed by what: kind (the failure's, the code of a SystemError, or the
        name of another element), reason (an exception's class or the first words), items; most first.
        """
        first_key, last_key = self._keys(buffer_seq)
        reasons: Counter[tuple[str, str]] = Counter()
        for row in self.rows("failed_because", first_key=first_key, last_key=last_key):
            reasons[row["kind"], row["reason"]] += row["items"]
        if reasons.total() < self.counts(buffer_seq)[2]:
            for row in self.rows("failed_answers", buffer_seq=buffer_seq, limit=_ANSWERS_MAX):
                reasons[_kind_and_reason(row["payload"])] += row["items"]
        frequent = sorted(reasons.items(), key=lambda counted: (-counted[1], counted[0]))[:limit]
        return [{"kind": kind, "reason": reason, "items": items} for (kind, reason), items in frequent]

    def items(self, buffer_seq: int) -> Iterator[Text | Xml | Json | Pickled]:
        """The items of a buffer as they were given, in their order."""
        for page in self._pages_of_items("items_page", buffer_seq):
            for _, payload, form in page:
                yield as_said(payload, form, is_compact=True)

    def unsuccessful_items(
        self, content: BufferContent, indexes: Container[int] | None = None
    ) -> Iterator[Text | Xml | Json | Pickled]:
        """Failed and missing items of an ended buffer, in their order and as they were given. `indexes`: only
        these of them.
        """
        for page in self._pages_of_items("unsuccessful_items", content.buffer_seq):
            for item_key, payload, form in page:
                if indexes is None or item_key & _INDEX_MASK in indexes:
                    yield as_said(payload, form, is_compact=True)

    def failed_items(self, buffer_seq: int) -> Iterator[tuple[int, str, str]]:
        """Failed items of a buffer, in their order: index, kind and message of what their last attempt failed
        by. One whose last attempt a handler has answered with an error has no such failure, and is not among
        them.
        """
        for page in self._pages_of_items("failed_items_page", buffer_seq):
            for item_key, message, kind in page:
                yield item_key & _INDEX_MASK, kind, message

    def item_payloads(self, buffer_seq: int) -> Iterator[tuple[str, int]]:
        """The items of a buffer in their order: each as its text and the number of its form."""
        return itertools.chain.from_iterable(
            [(payload, form) for _, payload, form in page]
            for page in self._pages_of_items("items_page", buffer_seq)
        )

    def _pages_of_items(self, name: str, buffer_seq: int) -> Iterator[list[tuple[Any, ...]]]:
        first_key, last_key = self._keys(buffer_seq)
        after_key = first_key - 1
        while True:
            with self._reading():
                page = self._statements.some(
                    name, PAGE_CHARS, after_key=after_key, last_key=last_key, limit=PAGE_ROWS
                )
            if not page:
                return
            after_key = page[-1][0]
            yield page

    def buffers(self) -> Iterator[dict[str, Any]]:
        """Every row of the view `buffers`, in the order they were started."""
        after_seq = 0
        while page := self.rows("buffers_page", after_seq=after_seq, limit=PAGE_ROWS):
            yield from page
            after_seq = page[-1]["buffer_seq"]

    def limits(self) -> list[dict[str, Any]]:
        """Every row of the view `limits`; none of a journal that is older than limits."""
        return self.rows("limits")

    def spending(self, buffer_id: str | None = None) -> list[dict[str, Any]]:
        """What was spent, by buffer, listener and unit: `buffer_id` (None: on messages that belong to none),
        `listener`, `unit`, `amount`, and `times` that a handler said so. Raises NotFound for no such buffer.
        """
        if buffer_id is None:
            return self.rows("spending")
        return self.rows("spending_of_buffer", buffer_seq=self.buffer_seq(buffer_id))

    def budget(self, buffer_id: str) -> list[dict[str, Any]]:
        """What this buffer spends of, by `unit`: whose budget it is (`buffer_id`), how much may be spent
        (`amount`), and what was spent of it by all who do. Empty without one. Raises NotFound.
        """
        return self.rows("budget", buffer_seq=self.buffer_seq(buffer_id))

    def failures(self, buffer_seq: int) -> Iterator[tuple[Any, ...]]:
        """Failed attempts at the items of a buffer, in item order: index, attempt, kind, message, traceback,
        and when it was recorded, ms since the epoch.
        """
        first_key, last_key = self._keys(buffer_seq)
        after_key, after_id = first_key - 1, 0
        while True:
            with self._reading():
                span = {"after_key": after_key, "after_id": after_id, "last_key": last_key}
                page = self._statements.some("failures_page", PAGE_CHARS, limit=PAGE_ROWS, **span)
            if not page:
                return
            after_key, after_id = page[-1][0], page[-1][2]
            for item_key, message, _, attempt, kind, *more in page:
                yield (item_key & _INDEX_MASK, attempt, kind, message, *more)

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
        return row[0], row[1], row[2], bool(row[3])

    def results(
        self, buffer_seq: int, *, failed_only: bool = False, with_items: bool = False
    ) -> Iterator[Result]:
        """Every result recorded so far, in item order. `with_items`: `Result.item` is a pair of the item's
        payload and the number of its form.
        """
        # Not a generator of results: 0.02 us each.
        pages = self.pages(buffer_seq, failed_only=failed_only, with_items=with_items)
        return itertools.chain.from_iterable(pages)

    def pages(
        self,
        buffer_seq: int,
        after_index: int = -1,
        *,
        failed_only: bool = False,
        with_items: bool = False,
    ) -> Iterator[list[Result]]:
        """The same in pages, after the item with this index."""
        pages = ResultPages(self._statements, buffer_seq, failed_only=failed_only, with_items=with_items)
        while True:
            with self._reading():
                page = pages.page(after_index)
            if not page:
                return
            yield page
            after_index = page[-1].index

    def newest_answer(self, buffer_seq: int) -> int:
        """The id of the answer that was recorded last in a buffer, to go on from; 0 when there is none."""
        with self._reading():
            return self._statements.value("newest_answer", buffer_seq=buffer_seq) or 0

    def traceback_of(self, buffer_seq: int, index: int) -> str:
        """That of the last failed attempt at an item; empty where there is none."""
        with self._reading():
            key = (buffer_seq << INDEX_BITS) + index
            return self._statements.value("traceback_of", item_key=key) or ""

    def results_after(
        self, buffer_seq: int, after_answer: int, *, with_items: bool = False
    ) -> tuple[list[Result], int]:
        """A page of results in the order of recording, after an answer's id; and the id to go on from."""
        pages = ResultPages(self._statements, buffer_seq, with_items=with_items)
        return self._after(buffer_seq, after_answer, pages.of_answer, lambda result: len(result.payload))

    def runs_after(self, buffer_seq: int, after_answer: int) -> tuple[list[Run], int]:
        """The same as runs, for who only wants what was answered."""
        pages = ResultPages(self._statements, buffer_seq)
        return self._after(
            buffer_seq, after_answer, pages.runs_of_answer, lambda run: sum(map(len, run.payloads))
        )

    def _after(
        self,
        buffer_seq: int,
        after_answer: int,
        of_answer: Callable[[int], list[Answered]],
        chars_of: Callable[[Answered], int],
    ) -> tuple[list[Answered], int]:
        """What the answers after this one have given, as far as a page goes; and the last of them."""
        found: list[Answered] = []
        chars = 0
        with self._reading():
            span = {"after": after_answer, "buffer_seq": buffer_seq, "limit": 20}
            for (answer_id,) in self._statements.all("answers_after", **span):
                page = of_answer(answer_id)
                found += page
                after_answer = answer_id
                chars += sum(map(chars_of, page))
                if chars >= PAGE_CHARS:
                    break
        return found, after_answer


def _kind_and_reason(payload: str) -> tuple[str, str]:
    """Of what was answered as a failure, and what that says in one line."""
    from durable_bus.payloads.xml_reading import payload_kind

    kind, error = payload_kind(payload, XML) or "answer", error_text(payload)
    if kind == "SystemError":
        kind, _, error = error.partition(": ")
    return kind, error.partition(":")[0]
