"""The buffers in flight: a window on the journal, with no second copy of items or results.

What memory holds of an open buffer is how far the dispatcher has come with it, and a count of results that
the journal's rows decide. Everything else is read from the journal when asked for.

`create, get, record_result(s), remove, list_active`, and what a buffer says of itself, are the names of the
in-memory registry that this one stands in for; there, the results were in it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from durable_bus.journal.reader import JournalReader
from durable_bus.supervisor.staged import Staged

if TYPE_CHECKING:
    from durable_bus.journal.buffers import BufferRow
    from durable_bus.journal.journal import Journal
    from durable_bus.payloads.messages import Result

__all__ = ["BufferRegistry", "OpenBuffer", "Range"]


class Range(NamedTuple):
    """Items to be handed out again, `item_count` from `first` on."""

    first: int
    item_count: int
    attempt: int
    alone: bool
    """They go to a worker that holds nothing else: a death has been near them, and the next one must tell
    whose it is.
    """


class OpenBuffer(NamedTuple):
    """A buffer between its opening and its end."""

    seq: int
    buffer_id: str
    target: str
    return_to: str
    from_id: str
    thread_id: str
    starter_thread_id: str
    collect: bool
    total: int
    recorded: int
    """Items that have a result: as many as rows were inserted."""
    failed: int
    cursor: int
    """Never handed out in this run from here on."""
    recovered: bool
    """An earlier run may have handed out anything from the cursor on: look before dispatching."""
    returned: tuple[Range, ...] = ()
    retry_at: int | None = None
    """When the next failed item is due again, ms since the epoch."""
    paused: bool = False
    passed_on: bool = False
    """Items of it may have been passed on by their handlers: what those answer later is not their outcome."""
    fitting: int = 1 << 32
    """How many items the next batch may hold, by the length of those in the last one."""

    granted: int = 0
    """When its last batch went out, by the count of batches in this run."""

    journal: "Journal | None" = None

    @property
    def rest(self) -> int:
        """Items that nobody has in hand, as far as is known without looking at rows."""
        return self.total - self.cursor + sum(back.item_count for back in self.returned)

    @property
    def total_items(self) -> int:
        return self.total

    @property
    def completed_count(self) -> int:
        return self.recorded

    @property
    def successful_count(self) -> int:
        return self.recorded - self.failed

    @property
    def pending_count(self) -> int:
        return self.total - self.recorded

    @property
    def is_complete(self) -> bool:
        return self.recorded == self.total

    def get_ordered_results(self) -> "Iterator[Result]":
        """The results so far in item order, read from the journal page by page as they are asked for."""
        assert self.journal is not None, "a buffer of a registry"
        reader = JournalReader(self.journal.path, self.journal.connection)
        return reader.results(self.seq)


class BufferRegistry:
    """Open buffers by `buffer_seq`, in the order they opened."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self.buffers: Staged[int, OpenBuffer] = Staged()

    def create(self, row: "BufferRow", *, paused: bool = False, recovered: bool = False) -> OpenBuffer:
        """A buffer that has just opened, or that a new run found open."""
        buffer = OpenBuffer(
            seq=row["buffer_seq"],
            buffer_id=row["buffer_id"],
            target=row["target"],
            return_to=row["return_to"],
            from_id=row["from_id"],
            thread_id=row["thread_id"],
            starter_thread_id=row["starter_thread_id"],
            collect=bool(row["collect"]),
            total=row["total"],
            recorded=row["succeeded"] + row["failed"],
            failed=row["failed"],
            cursor=row["low_water"],
            recovered=recovered,
            paused=paused,
            passed_on=recovered,
            journal=self._journal,
        )
        self.buffers[buffer.seq] = buffer
        return buffer

    def get(self, buffer_seq: int) -> OpenBuffer | None:
        """The buffer, None when it is not open (any more)."""
        return self.buffers.get(buffer_seq)

    def record_result(self, buffer_seq: int, *, success: bool) -> OpenBuffer | None:
        """Count one result row that was really inserted. The buffer as it is now, None when it is not
        open.
        """
        return self.record_results(buffer_seq, 1, failed=0 if success else 1)

    def record_results(self, buffer_seq: int, inserted: int, *, failed: int = 0) -> OpenBuffer | None:
        """Count result rows that were really inserted. The buffer as it is now, None when it is not open."""
        buffer = self.buffers.get(buffer_seq)
        if buffer is None or not inserted:
            return buffer
        buffer = buffer._replace(recorded=buffer.recorded + inserted, failed=buffer.failed + failed)
        self.buffers[buffer_seq] = buffer
        return buffer

    def give_back(self, buffer_seq: int, ranges: list[Range]) -> None:
        """Ranges that are to be handed out again; nothing when the buffer is not open any more."""
        buffer = self.buffers.get(buffer_seq)
        if buffer is not None and ranges:
            self.buffers[buffer_seq] = buffer._replace(returned=buffer.returned + tuple(ranges))

    def remove(self, buffer_seq: int) -> OpenBuffer | None:
        return self.buffers.pop(buffer_seq)

    def list_active(self) -> list[OpenBuffer]:
        return self.buffers.values()
