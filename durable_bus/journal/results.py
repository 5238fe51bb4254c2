"""Makes Results of the rows of a buffer, in pages.

An answer is a range of results that a worker sent together, mostly up to 2,000. If it was the first for each
of its items, its results are alike but for their payloads, and are read as one text: 0.8 µs a result instead
of 2.4. All others are read row by row.
"""

import contextlib
import gc
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from durable_bus.journal.formats import INDEX_BITS, milliseconds
from durable_bus.journal.paging import PAGE_CHARS
from durable_bus.journal.statements import Statements
from durable_bus.payloads.forms import FORM_NAMES, XML, form_of_each
from durable_bus.payloads.messages import Result

__all__ = ["PAGE_ROWS", "ResultPages", "Run", "error_text", "run_of"]

PAGE_ROWS = 500
"""A page of rows fits the cache of a core: 2.9 µs a result of 316 characters, and 3.6 with 5,000 rows."""
_WHOLE_ROWS_MIN, _WHOLE_ROWS_MAX = 32, 2_000
"""So many results of one answer are read as one text, and at most so many are a page."""
_NO_LIMIT = 1 << 62
_ITEM_COLUMN = 7
"""Of `results_page`: the item's payload."""


class Run(NamedTuple):
    """Results of neighbouring items, alike in their form: a third of the time that a Result each takes."""

    first_index: int
    payloads: list[str]
    form: int
    failed: Result | None = None
    """It is one failure, and this is it; else these are successes."""


def run_of(result: Result) -> Run:
    """One result as a run."""
    form = FORM_NAMES.index(result.form)
    return Run(result.index, [result.payload], form, None if result.success else result)


class _Answer(NamedTuple):
    """An answer, and the first result after those that were read."""

    next_key: int
    answer_id: int
    first_index: int
    end_index: int
    is_whole: bool
    """It was the first to answer each of its items, with success: all their results are its own."""
    attempt: int
    durations: str


class ResultPages:
    """Reads the results of one buffer, a page at a time."""

    def __init__(
        self, statements: Statements, buffer_seq: int, *, failed_only: bool = False, with_items: bool = False
    ) -> None:
        """`with_items`: each Result has its item, as a pair of the payload and the number of its form."""
        self._statements = statements
        self._base = buffer_seq << INDEX_BITS
        self._last_key = self._base + (1 << INDEX_BITS) - 1
        self._success_max = 0 if failed_only else 1
        self._with_items = with_items

    def page(self, after_index: int) -> list[Result]:
        """The results that come next in item order; none when there are no more."""
        after_key = self._base + after_index
        row = None
        if self._success_max:
            row = self._statements.one("next_answer", after_key=after_key, last_key=self._last_key)
        with _gc_paused():
            return (row and self._whole(_Answer(*row), _WHOLE_ROWS_MAX)) or self._rows(
                PAGE_CHARS, after_key=after_key, last_key=self._last_key, answer_id=None, limit=PAGE_ROWS
            )

    def of_answer(self, answer_id: int) -> list[Result]:
        """The results that an answer was the first to give."""
        row = self._statements.one("answer", answer_id=answer_id)
        assert row is not None
        answer = _Answer(*row)
        last_key = self._base + answer.end_index - 1
        with _gc_paused():
            return self._whole(answer, answer.end_index) or self._rows(
                _NO_LIMIT, after_key=answer.next_key - 1, last_key=last_key, answer_id=answer_id, limit=-1
            )

    def runs_of_answer(self, answer_id: int) -> list[Run]:
        """The same as runs: one, of an answer that was the first to each of its items; else one a result."""
        row = self._statements.one("answer", answer_id=answer_id)
        assert row is not None
        run = self._packed(_Answer(*row), _NO_LIMIT)
        return list(map(run_of, self.of_answer(answer_id))) if run is None else [run]

    def _packed(self, answer: _Answer, rows_max: int) -> Run | None:
        """The payloads of an answer from `next_key` on; None where they must be read row by row."""
        first_index = answer.next_key - self._base
        end_index = min(answer.end_index, first_index + rows_max)
        if not answer.is_whole or end_index - first_index < _WHOLE_ROWS_MIN:
            return None
        row = self._statements.one(
            "results_packed", first_key=answer.next_key, end_key=self._base + end_index
        )
        assert row is not None
        text, form = row
        payloads = text.split("\0") if text else []
        return Run(first_index, payloads, form) if len(payloads) == end_index - first_index else None

    def _whole(self, answer: _Answer, rows_max: int) -> list[Result]:
        """The results of an answer from `next_key` on; none where they must be read row by row."""
        run = self._packed(answer, rows_max)
        if run is None:
            return []
        first_index, payloads, form, _ = run
        end_index = first_index + len(payloads)
        keys = {"first_key": answer.next_key, "end_key": self._base + end_index}
        items: Iterable[tuple[str, int] | None] = itertools.repeat(None)
        if self._with_items:
            items = found = self._items(**keys)
            if len(found) != len(payloads):
                return []
        times: Iterable[float] = itertools.repeat(0.0)
        if answer.durations:
            times = milliseconds(answer.durations)[first_index - answer.first_index :]
        # Each column is one iterator, so that nearly all of it happens in C: 0.9 µs a result, and 1.8 in a
        # loop. Not strict: what is the same for all of them never ends.
        fields = zip(
            range(first_index, end_index),
            itertools.repeat(True),
            payloads,
            itertools.repeat(form == XML),
            itertools.repeat(None),
            itertools.repeat(answer.attempt),
            times,
            itertools.repeat(FORM_NAMES[form]),
            items,
        )
        return list(map(tuple.__new__, itertools.repeat(Result), fields))

    def _items(self, **keys: int) -> list[tuple[str, int]]:
        """The items of a range; none where they are too long together, or are being deleted."""
        try:
            row = self._statements.one("items_packed", **keys)
        except sqlite3.DataError:
            return []
        assert row is not None
        text, lowest_form, highest_form = row
        payloads = text.split("\0") if text is not None else []
        digits = str(lowest_form)
        if lowest_form != highest_form:
            digits = self._statements.value("item_forms", **keys)
        try:
            return list(zip(payloads, form_of_each(digits, len(payloads)), strict=True)) if payloads else []
        except ValueError:
            return []  # some were deleted between the two statements

    def _rows(self, chars_max: int, **span: Any) -> list[Result]:
        span |= {"success_max": self._success_max, "with_items": self._with_items}
        rows = self._statements.some("results_page", chars_max, also=_ITEM_COLUMN, **span)
        return [
            Result(
                index,
                success == 1,
                payload,
                form == XML,
                error_text(payload) if error is None and not success else error,
                attempt,
                duration_ms,
                FORM_NAMES[form],
                None if item_form is None else (item, item_form),
            )
            for index, payload, success, form, error, attempt, duration_ms, item, item_form in rows
        ]


def error_text(payload: str) -> str:
    """The one line inside a SystemError or Huh."""
    from durable_bus.payloads import xml_reading  # lxml costs 20 ms of a start, and few have such rows

    return xml_reading.error_text(payload)


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """Stop the garbage collector for the milliseconds in which many objects are made and none is garbage.

    Python 3.11 collects after every 700 new objects: with that, 200,000 results take 1.19 µs each; 0.82 with
    the collector stopped. Then freeze and unfreeze move what was made to the oldest generation, so that it is
    not looked at again soon: 0.70. Not where somebody has frozen something that is to stay frozen.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not _is_frozen():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


_seen_frozen = False


def _is_frozen() -> bool:
    """Whether somebody has frozen objects. Python counts them one by one: 1.1 ms a page where a command has
    frozen what it imports, a tenth of a `run` of 200,000 items. What is frozen stays so: seen once is enough.
    """
    global _seen_frozen
    _seen_frozen = _seen_frozen or gc.get_freeze_count() > 0
    return _seen_frozen
