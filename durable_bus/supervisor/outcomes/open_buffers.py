"""The buffers in flight: opening one, counting its results, giving items back to it.

What memory holds of an open buffer is how far the dispatcher has come with it, and a count of results that
the journal's rows decide. Everything else is read from the journal when asked for.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from durable_bus.supervisor.state import OpenBuffer, Range, State

if TYPE_CHECKING:
    from durable_bus.journal.buffers import BufferRow

__all__ = ["add", "count_results", "give_back", "replace"]


def add(
    state: State,
    row: "BufferRow",
    *,
    paused: bool = False,
    retry_at: int | None = None,
    recovered: bool = False,
) -> OpenBuffer:
    """A buffer that has just opened, or that a new run found open: from now on the dispatcher sees it.

    `recovered`: an earlier run has handed out some of it.
    """
    buffer = OpenBuffer(
        seq=row.buffer_seq,
        buffer_id=row.buffer_id,
        target=row.target,
        return_to=row.return_to,
        from_id=row.from_id,
        thread_id=row.thread_id,
        starter_thread_id=row.starter_thread_id,
        collect=bool(row.collect),
        total=row.item_count,
        recorded=row.succeeded + row.failed,
        failed=row.failed,
        cursor=row.low_water,
        retry_at=retry_at,
        recovered=recovered,
        paused=paused,
        passed_on=recovered,
    )
    state.buffers[buffer.seq] = buffer
    return buffer


def replace(state: State, buffer_seq: int, **changes: object) -> OpenBuffer:
    """The open buffer with these changes."""
    buffer = state.buffers[buffer_seq]._replace(**changes)  # type: ignore[arg-type]
    state.buffers[buffer_seq] = buffer
    return buffer


def count_results(state: State, buffer_seq: int, inserted: int, *, failed: int) -> OpenBuffer:
    """Count result rows that were really inserted. The buffer as it is now."""
    buffer = state.buffers[buffer_seq]
    return replace(state, buffer_seq, recorded=buffer.recorded + inserted, failed=buffer.failed + failed)


def give_back(state: State, buffer_seq: int, ranges: Iterable[Range]) -> None:
    """Ranges that are to be handed out again; nothing when the buffer is not open any more."""
    buffer = state.buffers.get(buffer_seq)
    if buffer is not None:
        replace(state, buffer_seq, returned=(*buffer.returned, *ranges))
