"""Hands items to workers. What goes to whom is decided by `turns` and `rules`; here it is read, journaled,
and queued to be sent after the commit.

Open buffers take turns by batch. A batch aims at 40 ms, at up to 80 with many workers or for one job; a
worker has about two of them in hand, so that it never waits for a commit.
"""

from collections import Counter
from collections.abc import Collection

from durable_bus.journal.fresh_items import ItemBatch
from durable_bus.journal.paging import fitting
from durable_bus.journal.work import Retry
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, OpenBuffer, Range, Worker
from durable_bus.supervisor.scheduling import leases, memo, recall, rules, turns
from durable_bus.supervisor.scheduling.begun import begun_ranges
from durable_bus.supervisor.scheduling.leases import contiguous
from durable_bus.supervisor.scheduling.pacing import Gates
from durable_bus.wire.framing import encode
from durable_bus.wire.work import WorkItems

__all__ = ["BATCH_BYTES_MAX", "plan_items"]

BATCH_BYTES_MAX = 1024 * 1024
SCAN_ITEMS_MAX = 50_000
"""How many rows one step of a recovery scan may look at."""


def plan_items(context: Context, now_ms: int, gates: Gates, alone_listeners: Collection[str] = ()) -> None:
    """Hand out what there is to whom has room, as far as limits let it."""
    state, now_s = context.state, context.now_s()
    state.plan_unfinished = False
    buffers = [buffer for buffer in state.buffers.values() if buffer.may_have_work(now_ms)]
    # First of all: a thousand buffers that wait for a limit cost no more than this look.
    may_start = {target: gates.free(target) > 0 for target in {buffer.target for buffer in buffers}}
    buffers = [buffer for buffer in buffers if may_start[buffer.target]]
    if buffers:
        levels = {buffer.seq: turns.level_of(buffer, now_s) for buffer in buffers}
        gates.share(Counter((levels[buffer.seq], buffer.target) for buffer in buffers))
        waiting = turns.in_turn(buffers, levels, state.grants)
        _Round(context, now_ms, gates, levels).hand_out(waiting, alone_listeners)


class _Round:
    """The hand-outs of one turn."""

    def __init__(self, context: Context, now_ms: int, gates: Gates, levels: dict[int, int]) -> None:
        self._context = context
        self._state = state = context.state
        self._now_ms = now_ms
        self._now_s = context.now_s()
        self._gates = gates
        self._memos = memo.Memos(context)
        self._unseen: dict[str, int] = {}
        """By listener the level of a buffer that was not looked through: what is less urgent waits."""
        self._levels = levels
        self._has_urgent = len({buffer.priority for buffer in state.buffers.values()}) > 1
        self._wall_us = rules.batch_wall_us(
            len(state.workers),
            at_engine=context.config.engine is not None,
            one_job=context.config.one_job,
        )
        self._begun = {
            one.worker_id: one.begun(context.slot(one.worker_id).started) for one in self._workers()
        }
        self._shares: dict[int, int] = {}
        """How much one worker may get of each buffer, while each worker is asked once."""

    def _workers(self) -> list[Worker]:
        return [worker for worker in self._state.workers.values() if worker.gets_items]

    def hand_out(self, waiting: list[int], alone_listeners: Collection[str]) -> None:
        """A batch to each worker in turn, until nobody wants more of these buffers."""
        with_room = [worker for worker in self._workers() if self._context.room(worker)]
        reserved = turns.reserved(with_room, self._gates.not_at_rest(), alone_listeners)
        served = True
        while waiting and served:
            served = False
            self._shares.clear()
            targets = {self._state.buffers[seq].target for seq in waiting}
            for worker in sorted((one for one in self._workers() if one.may_get), key=self._load):
                open_to = targets & (worker.listeners or {}).keys()
                only_alone = worker.worker_id == reserved
                position = self._serve_first(worker, waiting, open_to, only_alone=only_alone)
                if position is not None:
                    waiting = turns.behind_its_level(waiting, position, self._levels)
                    served = True
            # One may have ended: by a memo its last items were answered.
            buffers = [self._state.buffers[seq] for seq in waiting if seq in self._state.buffers]
            waiting = [buffer.seq for buffer in buffers if buffer.may_have_work(self._now_ms)]

    def _load(self, worker: Worker) -> int:
        return turns.load_of(worker, self._begun[worker.worker_id])

    def _share(self, buffer: OpenBuffer, concurrency: int) -> int:
        """The most that one worker gets at once of a buffer's rest, the same for all in turn."""
        if buffer.seq not in self._shares:
            able = turns.able_to_get(self._workers(), buffer.target)
            item_us = self._state.item_us.get(buffer.target)
            self._shares[buffer.seq] = rules.share_of(buffer.rest, able, item_us, concurrency)
        return self._shares[buffer.seq]

    def _serve_first(
        self, worker: Worker, waiting: list[int], open_to: set[str], *, only_alone: bool
    ) -> int | None:
        """Give a worker a range of the first buffer in turn that has something for it; that buffer's place.

        `open_to`: the listeners it has. Once it has no room for a listener's items, later buffers of that
        listener wait like the first.
        """
        room, lowest = self._context.room(worker), -turns.PRIORITY_MAX
        for position, seq in enumerate(waiting):
            if not open_to or not room:
                return None
            buffer = self._state.buffers.get(seq)
            settings = None if buffer is None else worker.settings(buffer.target)
            if buffer is None or settings is None or buffer.target not in open_to:
                continue
            if only_alone and not any(candidate.alone for candidate in buffer.returned):
                continue
            if self._levels[seq] < lowest:
                return None
            if self._levels[seq] < self._unseen.get(buffer.target, lowest):
                continue
            most = min(self._most(worker, buffer, settings.concurrency), room)
            free = self._gates.free(buffer.target)
            if not most or not free:
                if free and self._has_urgent and worker.next_ordinal > self._begun[worker.worker_id]:
                    lowest = self._levels[seq]  # it would take back what is less urgent, when it has room
                open_to.discard(buffer.target)
                continue
            most = min(most, self._gates.free(buffer.target, seq))
            if not most:
                continue  # it has had its share of what its limits let through; others may have theirs
            begun = self._begun[worker.worker_id]
            if self._has_urgent and recall.preempts(self._context, worker, begun, buffer.priority):
                return None
            found = self._next_to_run(worker, seq, settings, most, must_be_alone=only_alone)
            if found is not None:
                self._note_batch(buffer.target, settings.concurrency)
                self._hand_out(worker, seq, *found)
                return position
        return None

    def _batch(self, listener: str, concurrency: int) -> int:
        state = self._state
        item_us = state.item_us.get(listener)
        return rules.batch_items(state.last_batch.get(listener), item_us, concurrency, self._wall_us)

    def _note_batch(self, listener: str, concurrency: int) -> None:
        """A batch goes out: the next one of this listener may be larger."""
        state = self._state
        if listener in state.item_us:
            state.last_batch = {**state.last_batch, listener: self._batch(listener, concurrency)}

    def _most(self, worker: Worker, buffer: OpenBuffer, concurrency: int) -> int:
        """How many items of this buffer a worker should get now; 0 when it holds enough."""
        batch = min(self._batch(buffer.target, concurrency), buffer.fitting)
        share = self._share(buffer, concurrency)
        if worker.places:
            if len(worker.held) >= worker.places:
                return 0
            concurrency *= worker.places
        elif buffer.regained is not None:
            batch = rules.regained_items(batch, self._load(worker), buffer.regained, concurrency)
        if buffer.budget_of is not None or self._gates.has_slots(buffer.target):
            # What is in hand counts: no more than run at once.
            return min(max(0, concurrency - self._in_hand_of(worker, buffer)), batch, share)
        batch = min(batch, share)
        if worker.places:
            return batch
        item_us = self._state.item_us.get(buffer.target)
        in_hand = rules.in_hand_items(batch, share, item_us, concurrency, self._wall_us)
        return 0 if worker.unanswered and self._load(worker) + batch > in_hand else batch

    def _most_alone(self, worker: Worker, seq: int, concurrency: int) -> int:
        """How much of what must be alone a worker may get: nothing when it holds something, else all of it,
        as a smaller circle of suspects takes longer to search. But no more than limits and budgets let it.
        """
        if worker.unanswered:
            return 0
        buffer = self._state.buffers[seq]
        free = self._gates.free(buffer.target, seq)
        counts = buffer.budget_of is not None or self._gates.has_slots(buffer.target)
        return min(free, concurrency) if counts else free

    def _in_hand_of(self, worker: Worker, buffer: OpenBuffer) -> int:
        """How much a worker holds of the listener's items."""
        held = self._state.held_by(worker)
        return sum(lease.open_count for lease in held if lease.listener == buffer.target)

    def _next_to_run(
        self, worker: Worker, seq: int, settings: ListenerSettings, most: int, *, must_be_alone: bool
    ) -> tuple[Range, ItemBatch, tuple[bytes, ...]] | None:
        """The next range that is to run, its items and, for a listener with a memo, their digests. Of such a
        one more and more is looked at until something is: an answer that is there takes no worker.
        """
        memos, has_memo = self._memos, settings.memo is not None and self._context.config.uses_memos
        most_alone = self._most_alone(worker, seq, settings.concurrency)
        look = most
        while buffer := self._state.buffers.get(seq):
            if has_memo and memos.is_full(buffer):
                return None
            found = self._next_range(seq, look, most_alone=most_alone, must_be_alone=must_be_alone)
            if found is None:
                break
            found, items = self._packed(seq, found)
            if not has_memo:
                return found, items, ()
            runs = memos.sort_out(seq, settings, found, items)
            if runs:
                first, digests = runs[0]
                keep = min(most, first.item_count)
                rest = first._replace(first=first.first + keep, item_count=first.item_count - keep)
                self._state.give_back(seq, [rest] * (rest.item_count > 0) + [run.range for run in runs[1:]])
                if keep != found.item_count:
                    first, items = self._packed(seq, first._replace(item_count=keep))
                memos.taken(digests[: first.item_count])
                return first, items, digests[: first.item_count]
            if memos.looks >= memo.LOOKS_MAX:
                self._state.plan_unfinished = True
                self._unseen.setdefault(settings.name, self._levels[seq])
                return None
            look = min(4 * look, memo.LOOK_ITEMS_MAX)
        # What it is kept free for has its answer, which was its buffer's last, perhaps.
        if must_be_alone and memos.looks:
            self._state.plan_unfinished = True
        return None

    def _hand_out(
        self, worker: Worker, buffer_seq: int, found: Range, items: ItemBatch, digests: tuple[bytes, ...]
    ) -> None:
        self._state.grants += 1
        buffer = self._state.buffers.change(
            buffer_seq, granted=self._state.grants, waits_since_s=self._now_s, level=self._levels[buffer_seq]
        )
        self._gates.take(buffer.target, found.item_count, buffer_seq)
        dispatch_id = self._context.journal.work.dispatch(
            buffer_seq,
            found.first,
            found.item_count,
            found.attempt,
            found.alone,
            worker.pid,
            worker.engine or None,
        )
        lease = ItemLease(
            lease_id=dispatch_id,
            worker_id=worker.worker_id,
            listener=buffer.target,
            attempt=found.attempt,
            alone=found.alone,
            first_ordinal=worker.next_ordinal,
            item_count=found.item_count,
            buffer_seq=buffer_seq,
            first=found.first,
            memo=digests,
        )
        leases.give(self._state, worker, lease)
        work = WorkItems(
            dispatch=dispatch_id,
            buffer=buffer_seq,
            buffer_id=buffer.buffer_id,
            thread=buffer.thread_id,
            listener=buffer.target,
            first=found.first,
            attempt=found.attempt,
            ordinal=worker.next_ordinal,
            forms=items.forms,
            traceparent=buffer.traceparent,
        )
        self._context.outbox.to_worker(worker.worker_id, encode(work, items.payloads))

    def _packed(self, buffer_seq: int, found: Range) -> tuple[Range, ItemBatch]:
        """A range and its items, as far as they fit into a batch; the rest is given back."""
        buffers, keep = self._context.journal.buffers, found.item_count
        items = buffers.batch(buffer_seq, found.first, keep)
        while items is None or (len(items.payloads) > BATCH_BYTES_MAX and keep > 1):
            # With room to spare: each look takes as long as what it looks at.
            if items is None:
                keep = max(1, keep // 8)
            else:
                keep = fitting(keep, 2 * len(items.payloads), BATCH_BYTES_MAX)
            items = buffers.batch(buffer_seq, found.first, keep)
        assert items.count == keep, "the journal lacks items of an open buffer"
        if keep < found.item_count:
            rest = found._replace(first=found.first + keep, item_count=found.item_count - keep)
            self._state.give_back(buffer_seq, [rest])
        fits = fitting(keep, len(items.payloads), BATCH_BYTES_MAX)
        self._state.buffers.change(buffer_seq, fitting=fits)
        return found._replace(item_count=keep), items

    # The next range of a buffer

    def _next_range(
        self, buffer_seq: int, most: int, *, most_alone: int, must_be_alone: bool
    ) -> Range | None:
        """Take the next range: what came back, then failed items that are due, then what is new.

        `most_alone`: of what must be alone; 0 where the worker holds something.
        """
        may_be_alone = most_alone > 0
        table = self._state.buffers
        while taken := turns.take_returned(
            table[buffer_seq],
            most,
            may_be_alone=may_be_alone,
            must_be_alone=must_be_alone,
            most_alone=most_alone,
        ):
            table[buffer_seq] = taken.buffer
            left = self._without_outcome(buffer_seq, taken.range)
            if left:
                self._state.give_back(buffer_seq, left[1:])
                return left[0]
            self._state.plan_unfinished = True  # others may have waited for it, or somebody be kept free
        buffer = table[buffer_seq]
        if must_be_alone:
            return None
        if buffer.retry_at is not None and buffer.retry_at <= self._now_ms:
            found = self._next_retry(buffer, most)
            if found is not None:
                return found
            buffer = table[buffer_seq]
        if buffer.cursor < buffer.recovered_to:
            found = self._next_recovered(buffer, most, may_be_alone=may_be_alone)
            buffer = table[buffer_seq]
            if found is not None or buffer.cursor < buffer.recovered_to:
                return found  # else what is new follows at once, ahead of who is less urgent
        new = turns.take_new(buffer, most)
        if new is None:
            return None
        table[buffer_seq] = new.buffer
        return new.range

    def _without_outcome(self, buffer_seq: int, back: Range) -> list[Range]:
        """What of a range that came back is still to be done: an answer may have come after a failure."""
        end = back.first + back.item_count
        rows = self._context.journal.buffers.outstanding(buffer_seq, back.first, end, back.item_count)
        left = contiguous([index for index, _ in rows])
        return [back._replace(first=first, item_count=count) for first, count in left]

    def _next_retry(self, buffer: OpenBuffer, most: int) -> Range | None:
        work = self._context.journal.work
        taken: list[Retry] = []
        for retry in work.due_retries(buffer.seq, self._now_ms, most):
            last = taken[-1] if taken else None
            if not retry.has_outcome:
                if last and (retry.index, retry.failures) != (last.index + 1, last.failures):
                    break
                taken.append(retry)
            work.mark_retried(retry.failure_id)
        self._state.buffers.change(buffer.seq, retry_at=work.next_retry_at(buffer.seq))
        return Range(taken[0].index, len(taken), taken[0].failures + 1, alone=False) if taken else None

    def _next_recovered(self, buffer: OpenBuffer, most: int, *, may_be_alone: bool) -> Range | None:
        """The next items without an outcome, in a buffer of an earlier run. The scan only goes forward."""
        journal = self._context.journal
        window_end = min(buffer.recovered_to, buffer.cursor + SCAN_ITEMS_MAX)
        out = self._out_from_cursor(buffer)
        rows = journal.buffers.outstanding(buffer.seq, buffer.cursor, window_end, most + len(out))
        rows = [row for row in rows if row[0] not in out]
        if not rows:
            self._state.buffers.change(buffer.seq, cursor=window_end)
            self._state.plan_unfinished = self._state.plan_unfinished or window_end < buffer.total
            return None
        first, failures = rows[0]
        alone = failures > 0 and journal.work.item_attempts(buffer.seq, first).lost_at_all
        if alone and not may_be_alone:
            # Somebody who holds nothing will take it; it must not hold up the scan until then.
            self._state.give_back(buffer.seq, [Range(first, 1, failures + 1, alone=True)])
            self._state.buffers.change(buffer.seq, cursor=first + 1)
            self._state.plan_unfinished = True
            return None
        count = 1
        while not alone and count < min(most, len(rows)) and rows[count] == (first + count, failures):
            count += 1
        self._state.buffers.change(buffer.seq, cursor=first + count)
        return Range(first, count, failures + 1, alone)

    def _out_from_cursor(self, buffer: OpenBuffer) -> set[int]:
        """Items from the cursor on that somebody holds (retries do not wait for it) or that came back."""
        return {
            index
            for first, count in begun_ranges(self._state, buffer)
            for index in range(max(first, buffer.cursor), first + count)
        }
