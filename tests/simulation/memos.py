"""What is given again: the recorded success of an equal item, and nothing else. What may be, is.

Items are equal that have the same listener, memo text, form and payload. The memo text is that of the code in
the worker to which an item goes.
"""

import random
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from durable_bus.supervisor.entries import ItemLease, OpenBuffer
from durable_bus.supervisor.scheduling import limits, memo, pacing
from durable_bus.supervisor.scheduling.limits import Held
from durable_bus.supervisor.state import State
from durable_bus.wire.work import Work, WorkItems
from simulation.records import INDEX_BITS, Answer, Content, Violation

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["MemoRules"]


class Equal(NamedTuple):
    """Items that have the same are equal."""

    listener: str
    memo: str
    form: int
    text: str


class MemoRules:
    """Over all runs of a supervisor."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.rng = random.Random(f"equal {machine.seed}")
        """What chooses which items are equal: schedules without memos are what they are without it."""
        self._memo_of: dict[int, str] = {}
        """The memo text of each dispatch to a worker that has one."""
        self._contents: dict[int, Content] = {}
        self._sources: dict[Equal, set[Answer]] = {}
        """What is recorded of their own handlers' answers."""
        self._remembered: set[Equal] = set()
        """Of which one was recorded that counts: there is no need to run an equal item."""
        self._last_answer_id = 0
        self._given_now: set[int] = set()
        """Items that were given an answer since the last turn."""
        self.given_again = 0

    @property
    def _state(self) -> State:
        assert self._machine.supervisor is not None
        return self._machine.supervisor.state

    def _equal(self, memo: str, buffer_seq: int, index: int) -> Equal:
        if buffer_seq not in self._contents:
            self._contents[buffer_seq] = self._machine.model.content(buffer_seq)
        content = self._contents[buffer_seq]
        return Equal(content.target, memo, content.forms[index], content.texts[index])

    def _in_hand(self) -> Counter[Equal]:
        """What is in workers' hands, as far as it was sent."""
        return Counter(
            self._equal(self._memo_of[lease.lease_id], lease.buffer_seq, lease.first + position)
            for lease in self._state.leases.values()
            if isinstance(lease, ItemLease) and lease.lease_id in self._memo_of
            for position in lease.open_positions()
        )

    def is_full(self, buffer: OpenBuffer) -> bool:
        """Of a buffer so much waits for equal items that nothing more is taken of it."""
        return sum(seq == buffer.seq for seq, _ in self._state.held_equal) >= memo.HELD_MAX

    def sent(self, work: Work, count: int, worker_id: int) -> None:
        """Items leave for a worker: none has an answer, and of equal ones one is in hand at a time."""
        settings = self._machine.pool.workers[worker_id].listeners.get(work.listener)
        if settings is None or settings.memo is None or not isinstance(work, WorkItems):
            return
        self._memo_of[work.dispatch] = settings.memo
        sent = [self._equal(settings.memo, work.buffer, work.first + position) for position in range(count)]
        in_hand = self._in_hand()
        for equal in sent:
            if equal in self._remembered:
                raise Violation(f"{work} was sent, and there is an answer to an equal one: {equal}")
            if in_hand[equal] > 1:
                raise Violation(f"{work} was sent while an equal item is in hand: {equal}")

    def committed(self) -> None:
        """New successes on disk: handlers' are answers for others, the rest is what others have got."""
        rows = self._machine.model.query(_SUCCESSES, self._last_answer_id)
        for key, text, form, answer_id, dispatch_id, was_given, is_source, is_late in rows:
            self._last_answer_id = max(answer_id, self._last_answer_id)
            buffer_seq, index, answer = key >> INDEX_BITS, key & 0xFFFFFFFF, Answer(text, True, form)
            if was_given:
                self._was_given(key, answer)
            elif is_source and dispatch_id in self._memo_of:
                equal = self._equal(self._memo_of[dispatch_id], buffer_seq, index)
                self._sources.setdefault(equal, set()).add(answer)
                if not is_late:
                    self._remembered.add(equal)

    def _was_given(self, key: int, answer: Answer) -> None:
        """An item has the answer of an equal one that was there before, and nobody runs it."""
        model, item = self._machine.model, f"item {key & 0xFFFFFFFF} of buffer {key >> INDEX_BITS}"
        tables = [worker.listeners for worker in self._machine.pool.workers.values()]
        target = model.content(key >> INDEX_BITS).target
        texts = {table[target].memo for table in tables if target in table} - {None}
        found = [self._equal(memo, key >> INDEX_BITS, key & 0xFFFFFFFF) for memo in texts if memo is not None]
        if not any(answer in self._sources.get(equal, ()) for equal in found):
            raise Violation(f"{item} was given {answer}, which no equal one had got")
        last = model.executions.get(key)
        if last is not None and last.state not in ("gone", "failed"):
            raise Violation(f"{item} was given an answer while it is {last.state}")
        model.given.setdefault(key, set()).add(answer)
        self._given_now.add(key)
        self.given_again += 1

    def look(self) -> None:
        """After a turn: who waits for an equal item waits for one that is in hand, or for its buffer to go
        on, and is nowhere else.
        """
        given, self._given_now = self._given_now, set()
        if self._machine.supervisor is None or self._state.stopping or self._state.storage_full:
            return
        state = self._state
        if not state.leases:
            given = set()  # nobody has anything to say: no turn need follow in which who waits for it goes on
        in_hand = self._in_hand() if state.held_equal else Counter()
        held = [
            (buffer_seq, index)
            for buffer_seq, back in state.held_equal
            for index in range(back.first, back.first + back.item_count)
        ]
        for buffer_seq, index in held:
            item = f"item {index} of buffer {buffer_seq}"
            buffer = state.buffers.get(buffer_seq)
            if buffer is None:
                raise Violation(f"{item} waits for an equal one, and its buffer has ended")
            if not self._is_held(index, buffer, in_hand, given) and self._goes_on(buffer):
                raise Violation(f"{item} waits for an equal one, and nobody has one")
            elsewhere = [(one.first, one.item_count) for one in buffer.returned] + [
                (one.first + position, 1)
                for one in state.leases.values()
                if isinstance(one, ItemLease) and one.buffer_seq == buffer_seq
                for position in one.open_positions()
            ]
            if any(first <= index < first + count for first, count in elsewhere):
                raise Violation(f"{item} waits for an equal one, and is to be run, too")
            if index >= max(buffer.cursor, buffer.recovered_to):
                raise Violation(f"{item} waits for an equal one, and is new")
        if len(set(held)) < len(held):
            raise Violation(f"an item waits twice for an equal one: {[*state.held_equal]}")

    def _is_held(self, index: int, buffer: OpenBuffer, in_hand: Counter[Equal], given: set[int]) -> bool:
        """An equal item is in hand, or was looked at in this turn and comes back to the same buffer. During a
        reload that one may have been `given` an answer in this very turn, by the memo text of the other code.
        """
        equals = {self._equal(memo, buffer.seq, index) for memo in {*self._memo_of.values()}}
        back = [back.first + position for back in buffer.returned for position in range(back.item_count)]
        back += [key & 0xFFFFFFFF for key in given if key >> INDEX_BITS == buffer.seq]
        looked_at = (self._equal(equal.memo, buffer.seq, one) for equal in equals for one in back)
        return any(equal in in_hand for equal in equals) or any(equal in equals for equal in looked_at)

    def _goes_on(self, buffer: OpenBuffer) -> bool:
        """Somebody who waits could have been handed out when the equal one came to nothing: the turn that saw
        it is over, and none follows at once.
        """
        assert self._machine.supervisor is not None
        state, context = self._state, self._machine.supervisor.context
        if state.plan_unfinished:
            return False
        names = pacing.names_for(state, buffer.target)
        held = pacing._held(state) if names else {}
        free = [limits.free(state.limits[name], held.get(name, Held()), context.now_s()) for name in names]
        is_limited = 0 in free or (names and state.pace_at_s is not None)
        return buffer.may_go_on(context.journal.now_ms) and not is_limited


_SUCCESSES = """
    SELECT r.item_key, r.payload, r.form, a.answer_id, a.dispatch_id, a.memo,
        d.dispatch_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = r.item_key),
        d.ended_commit < a.commit_id + (d.ended_how = 'died') OR EXISTS (
            SELECT 1 FROM failure f WHERE f.item_key = r.item_key AND f.attempt = a.attempt
        )
    FROM answer a
    JOIN result r ON r.answer_id = a.answer_id AND r.item_key BETWEEN (a.buffer_seq << 32) + a.first_index
        AND (a.buffer_seq << 32) + a.first_index + a.item_count - 1
    LEFT JOIN dispatch d ON d.dispatch_id = a.dispatch_id
    WHERE a.answer_id > ? AND a.success = 1 ORDER BY a.answer_id, r.item_key"""
