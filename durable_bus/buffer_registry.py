"""The buffers in flight: a window on the journal, with no second copy of items or results.

What memory holds of an open buffer is how far the dispatcher has come with it, and a count of results that
the journal's rows decide. Everything else is read from the journal when asked for.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from durable_bus.staged import Staged

if TYPE_CHECKING:
    import sqlite3

__all__ = ["BufferRegistry", "OpenBuffer", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Items to be handed out again, `count` from `first` on."""

    first: int
    count: int
    attempt: int
    alone: bool
    """They go to a worker that holds nothing else: a death has been near them, and the next one must tell
    whose it is.
    """


@dataclass(frozen=True, slots=True)
class OpenBuffer:
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

    @property
    def pending_count(self) -> int:
        return self.total - self.recorded

    @property
    def is_complete(self) -> bool:
        return self.recorded == self.total


class BufferRegistry:
    """Open buffers by `buffer_seq`, in the order they opened."""

    def __init__(self) -> None:
        self.buffers: Staged[int, OpenBuffer] = Staged()

    def create(self, row: "sqlite3.Row", *, paused: bool = False, recovered: bool = False) -> OpenBuffer:
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
        )
        self.buffers[buffer.seq] = buffer
        return buffer

    def get(self, buffer_seq: int) -> OpenBuffer | None:
        return self.buffers.get(buffer_seq)

    def record_results(self, buffer_seq: int, inserted: int, *, failed: int = 0) -> OpenBuffer | None:
        """Count result rows that were really inserted. The buffer as it is now, None when it is not open."""
        buffer = self.buffers.get(buffer_seq)
        if buffer is None or not inserted:
            return buffer
        buffer = replace(buffer, recorded=buffer.recorded + inserted, failed=buffer.failed + failed)
        self.buffers[buffer_seq] = buffer
        return buffer

    def give_back(self, buffer_seq: int, ranges: list[Range]) -> None:
        """Ranges that are to be handed out again; nothing when the buffer is not open any more."""
        buffer = self.buffers.get(buffer_seq)
        if buffer is not None and ranges:
            self.buffers[buffer_seq] = replace(buffer, returned=buffer.returned + tuple(ranges))

    def remove(self, buffer_seq: int) -> OpenBuffer | None:
        return self.buffers.pop(buffer_seq)

    def list_active(self) -> list[OpenBuffer]:
        return self.buffers.values()
