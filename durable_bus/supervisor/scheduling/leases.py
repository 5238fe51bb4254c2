"""What workers have in hand: a worker as the dispatcher sees it, and each range of items or message it holds.

Values, never changed in place: what a turn decides about them counts when its commit has happened
(`staged.Staged`).
"""

from typing import NamedTuple

from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.ports import ORDINAL_MAX

__all__ = ["Hand", "InHand", "contiguous"]


class Hand(NamedTuple):
    """A worker as the dispatcher sees it."""

    worker_id: int
    pid: int
    listeners: dict[str, ListenerSettings] | None = None
    """Its table, by name; None until it has reported it. Never changed in place."""
    is_async: bool = False
    """Some of its listeners are."""
    unanswered: int = 0
    messages: int = 0
    """How many of `unanswered` are messages."""
    next_ordinal: int = 0
    held: tuple[int, ...] = ()
    """The ids of the dispatches and messages that it holds, in the order it was given them."""
    exclusive: bool = False
    """It holds a range that must be alone."""
    limit: int = ORDINAL_MAX
    """Told to start nothing from this ordinal on; gets nothing until it has said that it has come to it."""
    taken: int = ORDINAL_MAX
    """The limit under which what it has not started was given back."""
    discarded_to: int = 0
    """Of what comes before this ordinal nothing is left in its pipe: it has started it, or thrown it away."""
    leaving: bool = False
    """Never gets anything again."""

    @property
    def withdrawn(self) -> bool:
        return self.limit != ORDINAL_MAX

    def begun(self, started: int) -> int:
        """How much of what it was given it has begun, or will not begin; `started` is what its slot says."""
        return max(started, self.discarded_to)


class InHand(NamedTuple):
    """A range that a worker holds: a dispatch of items, or one message."""

    dispatch_id: int
    worker_id: int
    buffer_seq: int
    listener: str
    first: int
    item_count: int
    attempt: int
    alone: bool
    first_ordinal: int
    answered: int = 0
    """Bit i: the item at `first + i` was answered. A set and not a counter: an answer that comes twice counts
    once.
    """
    message_seq: int = 0
    """For a message (then the buffer is 0 and the count 1)."""

    @property
    def all_answered(self) -> int:
        return (1 << self.item_count) - 1

    def first_open_position(self) -> int | None:
        """The first position that was not answered yet, None when all were."""
        lowest_open_bit = ~self.answered & (self.answered + 1)
        position = lowest_open_bit.bit_length() - 1
        return position if position < self.item_count else None

    def open_positions(self) -> list[int]:
        """Positions that were not answered yet."""
        return [position for position in range(self.item_count) if not self.answered >> position & 1]


def contiguous(indexes: list[int]) -> list[tuple[int, int]]:
    """Sorted indexes as ranges (first, count)."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and ranges[-1][0] + ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((index, 1))
    return ranges
