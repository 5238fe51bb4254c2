"""Following a buffer that was started: how far it is, its end, its results.

It works for anyone, also when nobody serves the journal any more. The client only says sooner that something
has happened.
"""

import importlib
import itertools
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from durable_bus.client.result_table import ResultTable, frame_of, import_arrow, import_extra
from durable_bus.errors import MalformedItem, NotFound, StorageFailed, UsageError
from durable_bus.payloads.messages import BufferComplete, Result
from durable_bus.payloads.results_document import results_document

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from durable_bus.client.client import Client

__all__ = [
    "EARLY_ENDS",
    "Buffer",
    "BufferStatus",
    "deadline_after",
    "ended_how",
    "status_of",
    "with_plain_item",
]


EARLY_ENDS = ("enough", "max_failures", "deadline")
"""How a buffer ends by its terms, before all its items have."""


def deadline_after(timeout: float | None) -> float | None:
    """When a time-out that begins now is over, by the monotonic clock; None: never. Raises UsageError for
    NaN, which would never be over either.
    """
    if timeout is None:
        return None
    if math.isnan(timeout):
        raise UsageError(f"timeout={timeout} is no number of seconds")
    return time.monotonic() + timeout


class BufferStatus(NamedTuple):
    """How far a buffer is, from the view `buffers`.

    `ended_how`: all, enough, max_failures, deadline, or cancelled; None: it has not ended.
    """

    buffer_id: str
    state: str
    paused: bool
    total: int
    completed: int
    successful: int
    failed: int
    pending: int
    ended_how: str | None


def status_of(row: dict[str, Any]) -> BufferStatus:
    """A row of the view `buffers`."""
    fields = {name: row[name] for name in BufferStatus._fields if name != "ended_how"}
    return BufferStatus(**{**fields, "paused": bool(row["paused"]), "ended_how": ended_how(row)})


def ended_how(row: dict[str, Any]) -> str | None:
    """Of a row of the view `buffers`, also where the journal is of an older version, which has no such
    column; of a pruned one that is not known there.
    """
    known: str | None = row.get("ended_how", {"complete": "all", "cancelled": "cancelled"}.get(row["state"]))
    return known


def with_plain_item(result: Result) -> Result:
    """A result that a reader has given with its item, with the item's value instead of its text and form; of
    one that is malformed, its text.
    """
    # By name: lxml is for those who read XML, and takes 20 ms.
    reading: Any = importlib.import_module("durable_bus.payloads.reading")
    text, form = result.item
    try:
        return result._replace(item=reading.plain_value(text, form))
    except MalformedItem:
        return result._replace(item=text)


class Buffer:
    """A buffer that was started. Everything here is read from the journal, so it works as often as one
    likes.
    """

    def __init__(self, client: "Client", buffer_id: str, buffer_seq: int, *, existed: bool) -> None:
        """By `Client.start`, `Client.retry` and `Client.buffer` only."""
        self._client = client
        self.buffer_id = buffer_id
        self._buffer_seq = buffer_seq
        self.existed = existed
        """It was in the journal before this call."""

    def __repr__(self) -> str:
        return f"<Buffer {self.buffer_id!r} in {str(self._client.journal)!r}>"

    def status(self) -> BufferStatus:
        """How far it is now. Raises NotFound when it was given up or dropped."""
        return status_of(self._client.reader().buffer(self.buffer_id))

    def wait(self, timeout: float | None = None) -> BufferComplete:
        """Wait until the buffer has ended. `timeout` in seconds; raises TimedOut, and SupervisorLost when a
        supervisor of our own has ended before.

        Its `results` are read from the journal when asked for; that raises NotFound when they were pruned.
        """
        deadline_s = deadline_after(timeout)
        self._client.wait_until(lambda: self._counts()[3], self.buffer_id, deadline_s)
        total, succeeded, _, _ = self._counts()
        return BufferComplete.reading(self.buffer_id, total, succeeded, self._read_results)

    def _counts(self) -> tuple[int, int, int, bool]:
        return self._client.reader().counts(self._buffer_seq)

    def _differs(self, seen: tuple[int, int, int, bool]) -> bool:
        return self._counts() != seen

    def _read_results(self) -> str:
        """Raises NotFound when they were pruned: nothing is missing from a document that cannot be written
        any more.
        """
        document = "".join(results_document(self.results(), self._counts()[0]))
        content = self._client.reader().content(self.buffer_id)
        if content is None or content.pruned:  # asked last: a buffer is marked before its results go
            raise NotFound(f"the results of {self.buffer_id} were pruned")
        return document

    def results(self, with_items: bool = False) -> Iterator[Result]:
        """Every result recorded so far, in item order; of a pruned buffer none. Goes on when the client is
        closed meanwhile.

        `with_items`: each has its item, as `Result.value` would give it; of an item that is malformed, its
        text. The pickles of a bus that pickles are loaded then: that is code.
        """
        results = itertools.chain.from_iterable(self._pages(with_items))
        return map(with_plain_item, results) if with_items else results

    def to_arrow(self, with_items: bool = False) -> "pa.Table":
        """The results recorded so far, as a table of Apache Arrow, in item order: what `--format parquet`
        writes. Where answers are JSON objects, it has a column a field.

        The columns: `index`, `success`; the fields of all answers in the order in which they are first seen;
        `payload` (the text of an answer that is no object, else null), `form`, `error`, `attempt`,
        `duration_ms`; `with_items`: `item`, its text.

        A field has the type that Arrow infers, and null where an answer lacks it; where types differ, it is
        JSON text. A field that has the name of another column gets `payload.` before it. Answers with more
        than 1,000 fields together stay as they are, in `payload`.

        Raises UsageError when pyarrow is missing: it comes with durable-bus[arrow].
        """
        arrow = import_arrow("Buffer.to_arrow()")
        table = ResultTable(itertools.chain.from_iterable(self._pages(with_items)), with_items=with_items)
        return arrow.Table.from_batches(table.batches(), table.schema)

    def to_pandas(self, with_items: bool = False) -> "pd.DataFrame":
        """The same as a data frame of pandas. Whole numbers and booleans that are null somewhere keep their
        kind, as Int64 and boolean.

        Raises UsageError when pandas or pyarrow is missing: they come with durable-bus[pandas].
        """
        pandas = import_extra("pandas", "pandas", "Buffer.to_pandas()")
        import_extra("pyarrow", "pandas", "Buffer.to_pandas()")
        return frame_of(self.to_arrow(with_items), pandas)

    def _pages(self, with_items: bool = False) -> Iterator[list[Result]]:
        after_index = -1
        while True:
            reader = self._client.reader()
            try:
                for page in reader.pages(self._buffer_seq, after_index, with_items=with_items):
                    yield page
                    after_index = page[-1].index
                return
            except StorageFailed:
                if not reader.closed:
                    raise

    def as_completed(self, timeout: float | None = None) -> Iterator[Result]:
        """Every result once, as they are recorded, until the buffer has ended. Raises as `wait` does."""
        deadline_s = deadline_after(timeout)
        after = 0
        while True:
            seen = self._counts()  # before the page: what is recorded between the two must end the waiting
            page, after = self._client.reader().results_after(self._buffer_seq, after)
            yield from page
            if not page:
                if seen[3]:
                    return
                self._client.wait_until(partial(self._differs, seen), None, deadline_s)
