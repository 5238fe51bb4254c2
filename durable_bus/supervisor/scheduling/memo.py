"""Memos: an item that is equal to one that its listener has answered before gets that answer. Nothing runs.

A memo is a row that leads from a digest (listener, memo text, form, payload) to the item with the answer. It
is written in the commit that records that answer, and looked up as items are about to be handed out: at the
last moment, so that the answer to one of two equal items in a buffer serves the other. While an equal item is
in a worker's hands, others wait for it; if it does not succeed they run as ever.
"""

import hashlib
from collections import Counter
from typing import NamedTuple

from durable_bus.journal.fresh_items import ItemBatch
from durable_bus.payloads.forms import form_of_each
from durable_bus.payloads.packing import split
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Lease, OpenBuffer, Range
from durable_bus.supervisor.outcomes import collector
from durable_bus.supervisor.scheduling.pacing import Gates
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Segment

__all__ = ["LOOKS_MAX", "LOOK_ITEMS_MAX", "Memos", "ToRun", "release", "remember"]

LOOK_ITEMS_MAX = 500
"""How many items are looked up at once."""
LOOKS_MAX = 2_000
"""How many items a turn looks at without finding one that is to run."""
_LOOK_COSTS = 20
"""A look costs as much as so many items do, whatever is in it."""
HELD_MAX = 10_000
"""So many ranges of a buffer may wait for equal items; then nothing more is taken of it for a while."""


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


def release(context: Context, gates: Gates) -> None:
    """Items that have waited for an equal one go on: it is in nobody's hands any more. If it has succeeded
    all of them do, to get its answer. Else one of each buffer does, and the others wait for that: all of them
    at once would be looked at anew each time that one fails. But all of them when the newest code has another
    memo text, or none: by that they are equal to other items, and nobody comes to have one by the old text.
    """
    state = context.state
    freed = _freed(context, gates) if state.held_equal else []
    if not freed:
        return
    answers = context.journal.work.memos([*{state.held_equal[key][0] for key in freed}])
    one_of: set[tuple[int, bytes]] = set()
    returned: dict[int, list[Range]] = {}
    for buffer_seq, back in freed:
        digest, text = state.held_equal[buffer_seq, back]
        newest = (state.listeners or {}).get(state.buffers[buffer_seq].target)
        goes_alone = digest not in answers and newest is not None and newest.memo == text
        if goes_alone and (buffer_seq, digest) in one_of:
            continue
        state.held_equal.discard((buffer_seq, back))
        if goes_alone:
            one_of.add((buffer_seq, digest))
            if back.item_count > 1:
                rest = back._replace(first=back.first + 1, item_count=back.item_count - 1)
                state.held_equal[buffer_seq, rest] = (digest, text)
            back = back._replace(item_count=1)
        _join(returned.setdefault(buffer_seq, [*state.buffers[buffer_seq].returned]), back)
    for buffer_seq, ranges in returned.items():
        state.buffers.change(buffer_seq, returned=tuple(ranges))


def _freed(context: Context, gates: Gates) -> list[tuple[int, Range]]:
    """What waits for an equal item that is in nobody's hands, of buffers that may go on."""
    state, now_ms = context.state, context.journal.now_ms
    in_hand = _in_hand(state)
    freed = sorted(key for key, (digest, _) in state.held_equal.items() if digest not in in_hand)
    buffers = [state.buffers[seq] for seq in dict.fromkeys(seq for seq, _ in freed)]
    going_on = {one.seq for one in buffers if one.may_go_on(now_ms) and gates.free(one.target)}
    return [key for key in freed if key[0] in going_on]


def _join(ranges: list[Range], back: Range) -> None:
    """Neighbours go back as one range: thousands that wait for the same answer cost no more than one. Parts
    of what must be alone stay parts.
    """
    last = ranges[-1] if ranges and not back.alone else None
    if last is not None and back == last._replace(first=_end(last), item_count=back.item_count):
        ranges[-1] = last._replace(item_count=last.item_count + back.item_count)
    else:
        ranges.append(back)


def _end(one: Range) -> int:
    return one.first + one.item_count


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
        self._held = Counter(buffer_seq for buffer_seq, _ in context.state.held_equal)
        """How many ranges of each buffer wait."""
        self.looks = 0
        """What it has cost to look at items that are not to run, in items."""

    def is_full(self, buffer: OpenBuffer) -> bool:
        """Too much of a buffer waits for equal items to look at what has not waited yet."""
        return self._held[buffer.seq] >= HELD_MAX and not buffer.returned

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
        held: list[list[int]] = []
        for position, digest in enumerate(digests):
            if digest in answers:
                _append(given, position)
            elif digest in self._in_hand or digest in here:
                if held and held[-1][-1] == position - 1 and digests[position - 1] == digest:
                    held[-1].append(position)
                else:
                    held.append([position])
            else:
                here.add(digest)
                _append(to_run, position)
        self.looks += _LOOK_COSTS + len(digests) - sum(map(len, to_run))
        for positions in given:
            if buffer_seq in state.buffers:  # or what was given before has ended it
                sources = [answers[digests[position]] for position in positions]
                collector.give_again(
                    self._context, buffer_seq, found.first + positions[0], sources, found.attempt
                )
        if buffer_seq not in state.buffers:
            return []
        for positions in held:
            waits_by = (digests[positions[0]], settings.memo or "")
            state.held_equal[buffer_seq, _part(found, positions)] = waits_by
        self._held[buffer_seq] += len(held)
        return [
            ToRun(_part(found, positions), tuple(digests[positions[0] : positions[-1] + 1]))
            for positions in to_run
        ]

    def taken(self, digests: tuple[bytes, ...]) -> None:
        """These are in a worker's hands now."""
        assert self._in_hand is not None
        self._in_hand.update(digests)


def _part(found: Range, positions: list[int]) -> Range:
    """Neighbouring positions of a range."""
    return found._replace(first=found.first + positions[0], item_count=len(positions))


def _append(ranges: list[list[int]], position: int) -> None:
    if ranges and ranges[-1][-1] + 1 == position:
        ranges[-1].append(position)
    else:
        ranges.append([position])
