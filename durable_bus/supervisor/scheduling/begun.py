"""How far the items of a buffer have been handed out, and where a start of tomorrow begins to look."""

from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, OpenBuffer
from durable_bus.supervisor.state import State

__all__ = ["begun_ranges", "note_low_water"]


def begun_ranges(state: State, buffer: OpenBuffer) -> list[tuple[int, int]]:
    """What of a buffer somebody holds, or was given back: ranges (first, count)."""
    held = [
        (lease.first, lease.item_count)
        for lease in state.leases.values()
        if isinstance(lease, ItemLease) and lease.buffer_seq == buffer.seq
    ]
    waiting = [back for seq, back in state.held_equal if seq == buffer.seq]
    return held + [(back.first, back.item_count) for back in [*buffer.returned, *waiting]]


def note_low_water(context: Context) -> None:
    """Journal how far each buffer is done without a gap; a start begins its scan there. Late is harmless."""
    for buffer in context.state.buffers.values():
        if buffer.retry_at is None:
            firsts = [first for first, _ in begun_ranges(context.state, buffer)]
            context.journal.buffers.set_low_water(buffer.seq, min([*firsts, buffer.cursor]))
