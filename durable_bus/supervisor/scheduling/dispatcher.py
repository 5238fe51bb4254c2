"""What goes to which worker next: whose turn it is, which range, and what comes back.

Open buffers take turns by batch. A batch aims at 40 ms of wall time, with many workers at up to 80; a worker
has about two of them in hand, so that it never waits for a commit. What a dead or withdrawn worker had not
answered is given back to its buffer as ranges. All of it is memory over the journal: after a crash it is
built again from the buffers' rows.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from durable_bus.journal.paging import fitting
from durable_bus.supervisor.outcomes.buffers import BufferRegistry, OpenBuffer, Range
from durable_bus.supervisor.ports import ORDINAL_MAX
from durable_bus.supervisor.scheduling import rules as scheduling
from durable_bus.supervisor.scheduling.batch_size import Paces
from durable_bus.supervisor.scheduling.leases import Hand, InHand, contiguous
from durable_bus.supervisor.staged import Staged
from durable_bus.wire.framing import encode
from durable_bus.wire.protocol import WorkItems

if TYPE_CHECKING:
    from durable_bus.journal.fresh_items import ItemBatch
    from durable_bus.journal.journal import Journal
    from durable_bus.journal.work import Retry

__all__ = ["BATCH_BYTES_MAX", "Dispatcher"]

BATCH_BYTES_MAX = 1024 * 1024
NEW_AHEAD_OF = 1_000
"""Whoever has waited for so many batches of others goes ahead of a new buffer."""
SCAN_ITEMS_MAX = 50_000
"""How many rows one step of a recovery scan may look at."""


def _may_get(hand: Hand) -> bool:
    return not (hand.listeners is None or hand.leaving or hand.withdrawn or hand.exclusive)


class Dispatcher:
    """Plans what is handed out, inside a commit; keeps account of what is in hand."""

    def __init__(
        self, journal: "Journal", registry: BufferRegistry, items_per_worker_max: int | None = None
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._items_per_worker_max = items_per_worker_max
        self.hands: Staged[int, Hand] = Staged()
        self.in_hand: Staged[int, InHand] = Staged()
        self.paces = Paces()
        self.given: set[int] = set()
        """Workers that were given something in this turn."""
        self._begun: dict[int, int] = {}
        """How much each worker had begun of what it was given, when this turn was planned."""
        self._shares: dict[int, int] = {}
        """How much one worker may get of each buffer in this round of a plan."""
        self._grants = 0
        """How many batches were handed out in this run: what turns are counted by."""
        self.alone_listeners: set[str] = set()
        """Listeners to which a message must go alone; set by the post before each plan."""
        self.may_replace = True
        """A fresh worker could take the place of one that was given as many items as it may run. Set by the
        workforce: not while the app cannot be imported.
        """
        self.scan_unfinished = False
        """A recovery scan stopped at its limit: there may be work although nobody got any."""

    # Handing out

    def room(self, hand: Hand) -> int:
        """How much a worker may still be given before it is replaced by a fresh one. While nothing can
        replace it, that is no limit: a worn-out worker is better than none.
        """
        if self._items_per_worker_max is None or not self.may_replace:
            return ORDINAL_MAX
        return max(0, self._items_per_worker_max - hand.next_ordinal)

    def plan(self, now_ms: int, started: Callable[[int], int]) -> list[tuple[int, bytes]]:
        """Journal the next dispatches; the frames to send to workers after the commit. `started`: what the
        slot of a worker says.
        """
        frames: list[tuple[int, bytes]] = []
        self.scan_unfinished = False
        waiting = [b.seq for b in self._in_turn() if self._may_have_work(b, now_ms)]
        if not waiting:
            return frames
        self.paces.wall_us = scheduling.batch_wall_us(len(self.hands))
        self._begun = {hand.worker_id: hand.begun(started(hand.worker_id)) for hand in self.hands.values()}
        reserved = self._reserved()
        served = True
        while waiting and served:
            served = False
            self._shares.clear()
            targets = {self._registry.buffers[seq].target for seq in waiting}
            for hand in sorted((hand for hand in self.hands.values() if _may_get(hand)), key=self._load):
                only_alone = hand.worker_id == reserved
                found = self._serve_first(hand, waiting, targets, now_ms, only_alone=only_alone)
                if found is not None:
                    position, frame = found
                    frames.append((hand.worker_id, frame))
                    waiting = waiting[position + 1 :] + waiting[: position + 1]
                    served = True
            buffers = [self._registry.get(seq) for seq in waiting]
            waiting = [b.seq for b in buffers if b and self._may_have_work(b, now_ms)]
        return frames

    def _in_turn(self) -> list[OpenBuffer]:
        """Open buffers, those first whose last batch went out longest ago.

        The first batch of a new one goes ahead of others' next. But not ahead of one that has waited for
        `NEW_AHEAD_OF` batches: an endless flood of new ones does not keep the others out.
        """
        new = max(0, self._grants - NEW_AHEAD_OF)
        return sorted(self._registry.list_active(), key=lambda buffer: buffer.granted or new)

    def _load(self, hand: Hand) -> int:
        """How much a worker has to do. What it has begun and not reported yet may be done: a sync worker says
        so at the end of a batch, and its slot says it now. Async items are begun long before they end.
        """
        if hand.is_async:
            return hand.unanswered
        return min(hand.unanswered, hand.next_ordinal - self._begun[hand.worker_id] + 1)

    def _share(self, buffer: OpenBuffer, concurrency: int) -> int:
        """The most that one worker gets at once of a buffer's rest; in one round the same for all."""
        if buffer.seq not in self._shares:
            able = sum(
                1
                for hand in self.hands.values()
                if _may_get(hand) and buffer.target in (hand.listeners or {})
            )
            item_us = self.paces.item_us(buffer.target)
            self._shares[buffer.seq] = scheduling.share_of(buffer.rest, able, item_us, concurrency)
        return self._shares[buffer.seq]

    @staticmethod
    def _may_have_work(buffer: OpenBuffer, now_ms: int) -> bool:
        if buffer.paused:
            return False
        due = buffer.retry_at is not None and buffer.retry_at <= now_ms
        return bool(buffer.returned) or due or buffer.cursor < buffer.total

    def _reserved(self) -> int | None:
        """The worker that is kept free for something that must be alone, when there is such a thing.

        Without it, a worker that always has the next batch in hand would never come to it.
        """
        wanted = {
            buffer.target
            for buffer in self._registry.list_active()
            if not buffer.paused and any(candidate.alone for candidate in buffer.returned)
        } | self.alone_listeners
        able = [
            hand
            for hand in self.hands.values()
            if _may_get(hand) and self.room(hand) and wanted & (hand.listeners or {}).keys()
        ]
        return min(able, key=lambda hand: hand.unanswered).worker_id if able else None

    def _serve_first(
        self, hand: Hand, waiting: list[int], targets: set[str], now_ms: int, *, only_alone: bool
    ) -> tuple[int, bytes] | None:
        """Give `hand` a range of the first buffer in turn that has something for it: its position, and the
        frame. Once it has no room for a listener's items, later buffers of that listener wait like the first.
        """
        room = self.room(hand)
        listeners = hand.listeners or {}
        open_to = targets & listeners.keys() if room else set()
        for position, seq in enumerate(waiting):
            if not open_to:
                break
            buffer = self._registry.get(seq)
            if buffer is None or buffer.target not in open_to:
                continue
            if only_alone and not any(candidate.alone for candidate in buffer.returned):
                continue
            batch = self._fitting_batch(hand, buffer, listeners[buffer.target].concurrency)
            if not batch:
                open_to.discard(buffer.target)
                continue
            found = self._next_range(
                buffer,
                min(batch, room),
                now_ms,
                may_be_alone=hand.unanswered == 0,
                must_be_alone=only_alone,
            )
            if found is not None:
                return position, self._hand_out(hand, seq, found)
        return None

    def _fitting_batch(self, hand: Hand, buffer: OpenBuffer, concurrency: int) -> int:
        """How many items of this buffer a worker should get now; 0 when it holds enough."""
        batch = min(self.paces.batch_items(buffer.target, concurrency), buffer.fitting)
        share = self._share(buffer, concurrency)
        item_us, wall_us = self.paces.item_us(buffer.target), self.paces.wall_us
        in_hand = scheduling.in_hand_items(batch, share, item_us, concurrency, wall_us)
        batch = min(batch, share)
        return 0 if hand.unanswered and self._load(hand) + batch > in_hand else batch

    def _hand_out(self, hand: Hand, buffer_seq: int, found: Range) -> bytes:
        found, items = self._packed(buffer_seq, found)
        buffer = self._registry.buffers[buffer_seq]
        dispatch_id = self._journal.work.dispatch(
            buffer_seq, found.first, found.item_count, found.attempt, found.alone, hand.pid
        )
        self._grants += 1
        self._registry.buffers[buffer_seq] = buffer._replace(granted=self._grants)
        self.hold(
            hand,
            InHand(
                dispatch_id=dispatch_id,
                worker_id=hand.worker_id,
                buffer_seq=buffer_seq,
                listener=buffer.target,
                first=found.first,
                item_count=found.item_count,
                attempt=found.attempt,
                alone=found.alone,
                first_ordinal=hand.next_ordinal,
            ),
        )
        work = WorkItems(
            dispatch=dispatch_id,
            buffer=buffer_seq,
            buffer_id=buffer.buffer_id,
            thread=buffer.thread_id,
            listener=buffer.target,
            first=found.first,
            attempt=found.attempt,
            ordinal=hand.next_ordinal,
            forms=json.loads(items.forms),
        )
        return encode(work, items.payloads)

    def hold(self, hand: Hand, given: InHand) -> None:
        """A worker is given a dispatch or a message."""
        self.in_hand[given.dispatch_id] = given
        self.given.add(hand.worker_id)
        self.hands[hand.worker_id] = hand._replace(
            unanswered=hand.unanswered + given.item_count,
            messages=hand.messages + (1 if given.message_seq else 0),
            next_ordinal=hand.next_ordinal + given.item_count,
            held=(*hand.held, given.dispatch_id),
            exclusive=given.alone,
        )

    def _packed(self, buffer_seq: int, found: Range) -> "tuple[Range, ItemBatch]":
        """A range and its items, or as many from its beginning on as fit into a batch; the rest is given
        back.
        """
        buffers, keep = self._journal.buffers, found.item_count
        items = buffers.batch(buffer_seq, found.first, keep)
        while items is None or (len(items.payloads) > BATCH_BYTES_MAX and keep > 1):
            # With room to spare: each look takes as long as what it looks at.
            keep = (
                max(1, keep // 8)
                if items is None
                else fitting(keep, 2 * len(items.payloads), BATCH_BYTES_MAX)
            )
            items = buffers.batch(buffer_seq, found.first, keep)
        assert items.count == keep, "the journal lacks items of an open buffer"
        if keep < found.item_count:
            rest = found._replace(first=found.first + keep, item_count=found.item_count - keep)
            self._registry.give_back(buffer_seq, [rest])
        self._registry.buffers[buffer_seq] = self._registry.buffers[buffer_seq]._replace(
            fitting=fitting(keep, len(items.payloads), BATCH_BYTES_MAX)
        )
        return found._replace(item_count=keep), items

    def _next_range(
        self, buffer: OpenBuffer, limit: int, now_ms: int, *, may_be_alone: bool, must_be_alone: bool
    ) -> Range | None:
        """Take the next range of a buffer: what came back, then failed items that are due, then what was
        never out.
        """
        for position, candidate in enumerate(buffer.returned):
            if (candidate.alone and not may_be_alone) or (must_be_alone and not candidate.alone):
                continue
            rest = buffer.returned[:position] + buffer.returned[position + 1 :]
            if candidate.item_count > limit and not candidate.alone:
                rest += (
                    candidate._replace(
                        first=candidate.first + limit, item_count=candidate.item_count - limit
                    ),
                )
                candidate = candidate._replace(item_count=limit)
            left = self._without_outcome(buffer.seq, candidate)
            buffer = buffer._replace(returned=rest + tuple(left[1:]))
            self._registry.buffers[buffer.seq] = buffer
            if left:
                return left[0]
            return self._next_range(
                buffer, limit, now_ms, may_be_alone=may_be_alone, must_be_alone=must_be_alone
            )
        if must_be_alone:
            return None
        if buffer.retry_at is not None and buffer.retry_at <= now_ms:
            found = self._next_retry(buffer, limit, now_ms)
            if found is not None:
                return found
            buffer = self._registry.buffers[buffer.seq]
        if buffer.cursor >= buffer.total:
            return None
        if buffer.recovered:
            return self._next_recovered(buffer, limit, may_be_alone=may_be_alone)
        count = min(limit, buffer.total - buffer.cursor)
        self._registry.buffers[buffer.seq] = buffer._replace(cursor=buffer.cursor + count)
        return Range(buffer.cursor, count, 1, alone=False)

    def _without_outcome(self, buffer_seq: int, given_back: Range) -> list[Range]:
        """What of a range that came back is still to be done: an answer may have come after a failure."""
        end = given_back.first + given_back.item_count
        rows = self._journal.buffers.outstanding(buffer_seq, given_back.first, end, given_back.item_count)
        return [
            given_back._replace(first=first, item_count=count)
            for first, count in contiguous([index for index, _ in rows])
        ]

    def _next_retry(self, buffer: OpenBuffer, limit: int, now_ms: int) -> Range | None:
        due = self._journal.work.due_retries(buffer.seq, now_ms, limit)
        taken: list[Retry] = []
        for retry in due:
            last = taken[-1] if taken else None
            if not retry.has_outcome:
                if last and (retry.index, retry.failures) != (last.index + 1, last.failures):
                    break
                taken.append(retry)
            self._journal.work.mark_retried(retry.failure_id)
        self._registry.buffers[buffer.seq] = buffer._replace(
            retry_at=self._journal.work.next_retry_at(buffer.seq)
        )
        return Range(taken[0].index, len(taken), taken[0].failures + 1, alone=False) if taken else None

    def _next_recovered(self, buffer: OpenBuffer, limit: int, *, may_be_alone: bool) -> Range | None:
        """The next items without an outcome, in a buffer that an earlier run worked on. The scan only goes
        forward.
        """
        window_end = min(buffer.total, buffer.cursor + SCAN_ITEMS_MAX)
        out = self._out_from_cursor(buffer)
        rows = self._journal.buffers.outstanding(buffer.seq, buffer.cursor, window_end, limit + len(out))
        rows = [row for row in rows if row[0] not in out]
        if not rows:
            self._registry.buffers[buffer.seq] = buffer._replace(cursor=window_end)
            self.scan_unfinished = self.scan_unfinished or window_end < buffer.total
            return None
        first, failures = rows[0]
        alone = failures > 0 and self._journal.work.item_attempts(buffer.seq, first).lost_at_all
        if alone and not may_be_alone:
            # Somebody who holds nothing will take it; it must not hold up the scan until then.
            given = Range(first, 1, failures + 1, alone=True)
            self._registry.buffers[buffer.seq] = buffer._replace(
                cursor=first + 1, returned=(*buffer.returned, given)
            )
            self.scan_unfinished = True
            return None
        count = 1
        while not alone and count < min(limit, len(rows)) and rows[count] == (first + count, failures):
            count += 1
        self._registry.buffers[buffer.seq] = buffer._replace(cursor=first + count)
        return Range(first, count, failures + 1, alone)

    def _out_from_cursor(self, buffer: OpenBuffer) -> set[int]:
        """Items from the cursor on that are in hand (a retry, which does not wait for the scan) or were given
        back.
        """
        held = [(one.first, one.item_count) for one in self.in_hand.values() if one.buffer_seq == buffer.seq]
        held += [(back.first, back.item_count) for back in buffer.returned]
        return {index for first, count in held for index in range(max(first, buffer.cursor), first + count)}

    # Coming back

    def answered(self, dispatch_id: int, first: int, count: int) -> InHand | None:
        """`count` answers from index `first` on have come. What was in hand, None when it is not any more."""
        held = self.in_hand.get(dispatch_id)
        if held is None:
            return None
        mask = ((1 << count) - 1) << (first - held.first)
        answered = held.answered | (mask & held.all_answered)
        fewer = answered.bit_count() - held.answered.bit_count()
        self._set_held(held, held._replace(answered=answered), fewer)
        return held

    def _set_held(self, before: InHand, after: InHand, fewer: int) -> None:
        hand = self.hands.get(before.worker_id)
        done = after.answered == after.all_answered
        if done:
            self.in_hand.pop(before.dispatch_id)
            if before.buffer_seq:
                how = "answered" if after.item_count else "returned"
                self._journal.work.end_dispatch(before.dispatch_id, how)
        else:
            self.in_hand[before.dispatch_id] = after
        if hand is not None:
            self.hands[hand.worker_id] = hand._replace(
                unanswered=hand.unanswered - fewer,
                messages=hand.messages - (1 if done and before.message_seq else 0),
                held=tuple(one for one in hand.held if one != before.dispatch_id) if done else hand.held,
                exclusive=hand.exclusive and not (done and before.alone),
            )

    def held_by(self, worker_id: int) -> list[InHand]:
        """What a worker holds, in the order it was given."""
        hand = self.hands.get(worker_id)
        return [self.in_hand[dispatch_id] for dispatch_id in hand.held] if hand else []

    def take_back(self, worker_id: int, from_ordinal: int, end_ordinal: int = ORDINAL_MAX) -> list[InHand]:
        """What a worker holds from an ordinal on, up to another, and will not start, goes back to its buffer.

        Returns the messages among it, which their own lane takes back.
        """
        messages = []
        for held in self.held_by(worker_id):
            keep = min(max(from_ordinal - held.first_ordinal, 0), held.item_count)
            if keep == held.item_count or held.first_ordinal >= end_ordinal:
                continue
            back = [position for position in held.open_positions() if position >= keep]
            self._give_back(held, back, alone=held.alone)
            shortened = held._replace(item_count=keep, answered=held.answered & ((1 << keep) - 1))
            if held.buffer_seq == 0:
                messages.append(held)
            elif keep:
                self._journal.work.shorten_dispatch(held.dispatch_id, held.first + keep)
            self._set_held(held, shortened, fewer=len(back))
        return messages

    def _give_back(self, held: InHand, positions: list[int], *, alone: bool) -> None:
        if held.buffer_seq:
            ranges = [
                Range(held.first + first, count, held.attempt, alone)
                for first, count in contiguous(positions)
            ]
            self._registry.give_back(held.buffer_seq, ranges)

    def worker_gone(self, worker_id: int, started: int) -> tuple[list[tuple[InHand, int]], list[InHand]]:
        """A worker is gone: give back what it had not started, and take it out of account.

        Returns the suspects, what it had started and not answered, as (in hand, position), and the messages
        it had not started. The caller charges a single suspect, or gives several back with `quarantine`.
        """
        messages: list[InHand] = []
        suspects: list[tuple[InHand, int]] = []
        for held in self.held_by(worker_id):
            opened = held.open_positions()
            suspects += [(held, position) for position in opened if held.first_ordinal + position < started]
            fresh = [position for position in opened if held.first_ordinal + position >= started]
            self._give_back(held, fresh, alone=False)
            self.in_hand.pop(held.dispatch_id)
            if held.buffer_seq:
                self._journal.work.end_dispatch(held.dispatch_id, "died")
            elif fresh:
                messages.append(held)
        self.hands.pop(worker_id)
        return suspects, messages

    def quarantine(self, suspects: list[tuple[InHand, int]]) -> None:
        """Nobody is charged: they go out again in two halves, each to a worker that holds nothing else.

        A death among them then halves the circle again, until it is one item's: nine deaths find one among
        500, and the innocent ones are not run one by one meanwhile.
        """
        half = (len(suspects) + 1) // 2
        for held in {id(held): held for held, _ in suspects}.values():
            positions = [position for of, position in suspects if of is held]
            for first in range(0, len(positions), half):
                self._give_back(held, positions[first : first + half], alone=True)

    def note_low_water(self) -> None:
        """Journal how far each buffer is done without a gap; a start begins its scan there. Late is
        harmless.
        """
        held = self.in_hand.values()
        for buffer in self._registry.list_active():
            if buffer.retry_at is None:
                firsts = [in_hand.first for in_hand in held if in_hand.buffer_seq == buffer.seq]
                firsts += [back.first for back in buffer.returned]
                self._journal.buffers.set_low_water(buffer.seq, min([*firsts, buffer.cursor]))

    def commit(self) -> None:
        self.hands.commit()
        self.in_hand.commit()
        self._registry.buffers.commit()

    def rollback(self) -> None:
        self.hands.rollback()
        self.in_hand.rollback()
        self._registry.buffers.rollback()
