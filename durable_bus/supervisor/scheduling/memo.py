"""Memos: an item that is equal to one that its listener has answered before gets that answer. Nothing runs.

A memo is a row that leads from a digest (listener, memo text, form, payload) to the item with the answer. It
is written in the commit that records that answer, and looked up as items are about to be handed out: at the
last moment, so that the answer to one of two equal items in a buffer serves the other. While an equal item is
in a worker's hands, others wait for it; if it does not succeed they run as ever.
"""

import hashlib
from typing import NamedTuple

from durable_bus.journal.fresh_items import ItemBatch
from durable_bus.payloads.forms import form_of_each
from durable_bus.payloads.packing import split
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.outcomes import collector
from durable_bus.supervisor.state import ItemLease, Lease, Range, State
from durable_bus.wire.parts import Segment

__all__ = ["LOOKS_MAX", "LOOK_ITEMS_MAX", "Memos", "ToRun", "is_full", "release", "remember"]

LOOK_ITEMS_MAX = 500
"""How many items are looked up at once."""
LOOKS_MAX = 2_000
"""How many items a turn looks at without finding one that is to run."""
HELD_MAX = 10_000
"""So many ranges may wait for equal items; then nothing more is taken of buffers with memos for a while."""


class ToRun(NamedTuple):
    """Neighbouring items of a range that are to run, and the digest of each."""

    range: Range
    digests: tuple[bytes, ...]


def _digests(settings: ListenerSettings, items: ItemBatch) -> list[bytes]:
    """16 bytes for each item: BLAKE2b (RFC 7693) of listener, memo text, form and payload."""
    start = hashlib.blake2b(f"{settings.name}\0{settings.memo}\0".encode(), digest_size=16)
    found = []
    payloads = split(items.payloads)
    for form, payload in zip(form_of_each(items.forms, len(payloads)), payloads, strict=True):
        one = start.copy()
        one.update(b"%d\0" % form)
        one.update(payload)
        found.append(one.digest())
    return found


def _in_hand(state: State) -> set[bytes]:
    """The digests of what is in workers' hands."""
    return {
        lease.memo[position]
        for lease in state.leases.values()
        if isinstance(lease, ItemLease) and lease.memo
        for position in lease.open_positions()
    }


def is_full(state: State) -> bool:
    return len(state.held_equal) >= HELD_MAX


def release(state: State) -> None:
    """Items that have waited for an equal one go on: it is in nobody's hands any more."""
    if state.held_equal:
        in_hand = _in_hand(state)
        for key, digest in [*state.held_equal.items()]:
            if digest not in in_hand:
                state.held_equal.discard(key)
                buffer_seq, back = key
                state.give_back(buffer_seq, [back])


def remember(context: Context, lease: Lease | None, segment: Segment) -> None:
    """A worker has answered items: those that succeeded are answers for equal ones."""
    if isinstance(lease, ItemLease) and lease.memo and segment.success:
        at = segment.first - lease.first
        context.journal.work.remember(lease.buffer_seq, segment.first, lease.memo[at : at + segment.count])


class Memos:
    """What one turn's planning looks up."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._in_hand: set[bytes] | None = None
        self.looks = 0
        """At how many items it has looked that are not to run."""

    def sort_out(
        self, buffer_seq: int, settings: ListenerSettings, found: Range, items: ItemBatch
    ) -> list[ToRun]:
        """Answer the items of a range that have an answer, and let those wait whose equal is in somebody's
        hands. What is left is to run.
        """
        state = self._context.state
        if self._in_hand is None:
            self._in_hand = _in_hand(state)
        digests = _digests(settings, items)
        answers = self._context.journal.work.memos(digests)
        here: set[bytes] = set()
        to_run: list[list[int]] = []
        given: list[list[int]] = []
        for position, digest in enumerate(digests):
            if digest in answers:
                _append(given, position)
            elif digest in self._in_hand or digest in here:
                back = found._replace(first=found.first + position, item_count=1)
                state.held_equal[buffer_seq, back] = digest
            else:
                here.add(digest)
                _append(to_run, position)
        self.looks += len(digests) - sum(map(len, to_run))
        for positions in given:
            if buffer_seq in state.buffers:  # or what was given before has ended it
                sources = [answers[digests[position]] for position in positions]
                collector.give_again(
                    self._context, buffer_seq, found.first + positions[0], sources, found.attempt
                )
        if buffer_seq not in state.buffers:
            return []
        return [
            ToRun(
                found._replace(first=found.first + positions[0], item_count=len(positions)),
                tuple(digests[positions[0] : positions[-1] + 1]),
            )
            for positions in to_run
        ]

    def taken(self, digests: tuple[bytes, ...]) -> None:
        """These are in a worker's hands now."""
        assert self._in_hand is not None
        self._in_hand.update(digests)


def _append(ranges: list[list[int]], position: int) -> None:
    if ranges and ranges[-1][-1] + 1 == position:
        ranges[-1].append(position)
    else:
        ranges.append([position])
