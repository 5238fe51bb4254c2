"""What may start when: limits, rests, budgets, priorities and deadlines, watched as work leaves and begins.

A limit is watched over all runs, by the clock that nobody sets. Its windows begin anew when its rate changes,
or which listeners go by it: what had left before then is nobody's to bound.
"""

from collections import Counter
from typing import TYPE_CHECKING

from durable_bus.payloads.rates import burst, starts_per_s
from durable_bus.supervisor.entries import Lease, OpenBuffer
from durable_bus.supervisor.scheduling.limits import GATHER_S
from durable_bus.supervisor.scheduling.turns import AGE_S, PRIORITY_MAX
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Failed
from durable_bus.wire.work import Answers, Work, WorkItems
from simulation.records import INDEX_BITS, Violation

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["PaceRules"]

_ROUNDING_NS = 2_000_000
"""Rests are journaled in whole milliseconds."""


class _Windows:
    """All windows of a limit's begins at once: the largest excess over its rate takes one look at each."""

    def __init__(self, rate: str | None, since_ns: int) -> None:
        self.rate = rate
        self.since_ns = since_ns
        self._per_s = None if rate is None else starts_per_s(rate)
        self._times_ns: list[int] = []
        self._count = 0
        self._lowest = 0.0

    def begins(self, name: str, now_ns: int) -> None:
        if self._per_s is None:
            return
        if self._times_ns and now_ns < self._times_ns[-1]:
            # It was stopped when it had said so, and others have begun since: all are counted again.
            times_ns = sorted([*self._times_ns, now_ns])
            self._times_ns, self._count, self._lowest = [], 0, 0.0
            for at_ns in times_ns:
                self.begins(name, at_ns)
            return
        self._times_ns.append(now_ns)
        ahead = self._count - self._per_s * (now_ns - self.since_ns) / 1e9
        self._lowest = min(self._lowest, ahead) if self._count else ahead
        self._count += 1
        # A worker may be stopped for half a second when it has said that it begins, and begin then. The
        # bucket holds half a second's worth: so the contract holds all the same, but for rates below 2/s.
        if ahead - self._lowest + 1 > burst(self._per_s) + self._per_s / 2 + 0.001:
            raise Violation(f"under limit {name} of {self.rate} more have begun than a window may have")


class PaceRules:
    """Over all runs of a supervisor."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._windows: dict[str, _Windows] = {}
        self._limits_of: dict[str, tuple[str, ...]] = {}
        """By listener, as the newest code has it."""
        self._left: dict[int, tuple[int, tuple[str, ...]]] = {}
        """When each dispatch was sent last, and the limits it went by."""
        self._rests: dict[str, tuple[int, int]] = {}
        """Until when limits rest, and by how much the wall clock had been set then."""
        self._raised: list[tuple[Failed, int]] = []
        """RetryAfters that were handed in since the last commit, and when."""
        self._spent: list[tuple[int, int, int, str, float]] = []
        """What is to be recorded with the next commit."""
        self._told: set[tuple[int, int, int, str]] = set()
        """What was handed in of items, by dispatch, index, number and unit."""
        self._last_spent_id = self._last_failure_id = 0
        self._waits_since_ns: dict[int, int] = {}
        """Of each open buffer when its last batch was sent, or it was first seen, in this run."""
        self._served: set[int] = set()
        """Buffers of which something was sent in this turn."""
        self._has_turned = False
        """This run has been through a turn since its start."""
        self.finals: set[int] = set()
        """Items whose handlers have raised what is not retried."""

    @property
    def _state(self) -> State:
        assert self._machine.supervisor is not None
        return self._machine.supervisor.state

    @property
    def _now_ns(self) -> int:
        return self._machine.world.now_ns

    # What leaves, and what begins

    def sent(self, work: Work, worker_id: int) -> None:
        """Work leaves for a worker; memory is what its commit has made it."""
        self._notice_changes()
        names = self._names(work.listener)
        self._left[work.dispatch] = (self._now_ns, names)
        for name in names:
            self._limit_lets_through(name, work)
        if isinstance(work, WorkItems) and work.buffer in self._state.buffers:
            buffer = self._state.buffers[work.buffer]
            self._fits_into_its_slots(buffer, worker_id)
            self._is_in_turn(buffer, work)
            self._served.add(work.buffer)

    def _names(self, listener: str) -> tuple[str, ...]:
        settings = (self._state.listeners or {}).get(listener)
        return () if settings is None else tuple(one for one in settings.limits if one in self._state.limits)

    def _notice_changes(self) -> None:
        """Somebody has set a limit, or the newest code has others."""
        state = self._state
        if state.listeners is None:
            return  # nothing is handed out before a worker has said what there is
        limits_of = {listener: self._names(listener) for listener in state.listeners}
        if limits_of != self._limits_of:
            self._limits_of = limits_of
            self._windows.clear()
        for name, limit in state.limits.items():
            if name not in self._windows or self._windows[name].rate != limit.rate:
                self._windows[name] = _Windows(limit.rate, self._now_ns)

    def _limit_lets_through(self, name: str, work: Work) -> None:
        limit, leases = self._state.limits[name], self._state.leases.values()
        in_hand = sum(lease.open_count for lease in leases if name in self._names(lease.listener))
        allowed = limit.running if limit.allowed is None else max(1, int(limit.allowed))
        if allowed is not None and in_hand > allowed:
            raise Violation(f"{in_hand} are in hand under limit {name} of {allowed} when {work} is sent")
        until_ns, _ = self._rests.get(name, (0, 0))
        if self._now_ns < until_ns - _ROUNDING_NS:
            rests_s = (until_ns - self._now_ns) / 1e9
            raise Violation(f"{work} was sent while its limit {name} rests for {rests_s:.3f} s more")

    def _fits_into_its_slots(self, buffer: OpenBuffer, worker_id: int) -> None:
        """Of a buffer with a budget a worker holds no more than it runs: so much may be spent too much."""
        worker = self._state.workers.get(worker_id)
        settings = None if worker is None else worker.settings(buffer.target)
        if buffer.budget_of is None or worker is None or settings is None:
            return
        held = sum(
            one.open_count
            for one in self._state.held_by(worker)
            if one.listener == buffer.target and self._has_budget(one)
        )
        if held > settings.concurrency * max(1, worker.places):
            raise Violation(f"worker {worker_id} holds {held} of {buffer.buffer_id}, which has a budget")

    def _has_budget(self, lease: Lease) -> bool:
        buffer = self._state.buffers.get(getattr(lease, "buffer_seq", 0))
        return buffer is not None and buffer.budget_of is not None

    def _is_in_turn(self, buffer: OpenBuffer, work: WorkItems) -> None:
        """Where something of a buffer was handed out, none of the same listener that is more urgent, whatever
        this one had gained by waiting, has anything new left in that turn. Nothing is said of listeners with
        limits, as buffers share those in equal parts, nor of buffers of which enough waits for equal items,
        nor of what must be alone.
        """
        lease, now_ns = self._state.leases.get(work.dispatch), self._now_ns
        if self._names(buffer.target) or lease is None or lease.alone:
            return
        waited_s = (now_ns - self._waits_since_ns.get(buffer.seq, now_ns)) / 1e9 + 0.1
        level = min(PRIORITY_MAX, buffer.priority + int(waited_s / AGE_S))
        for other in self._state.buffers.values():
            if self._machine.memos.is_full(other):
                continue
            if other.priority > level and other.target == buffer.target and self.has_new(other):
                raise Violation(f"{work} was sent, and {other.buffer_id}, which is more urgent, waits")

    def has_new(self, buffer: OpenBuffer) -> bool:
        """It has items that were never handed out and may be now."""
        assert self._machine.supervisor is not None
        not_yet = (buffer.not_before or 0) > self._machine.supervisor.context.journal.now_ms
        return not (buffer.paused or not_yet) and buffer.recovered_to <= buffer.cursor < buffer.total

    def begun(self, work: Work, at_ns: int | None = None) -> None:
        """Something of it begins to run, or has begun at another time."""
        left_ns, names = self._left[work.dispatch]
        for name in names:
            windows = self._windows.get(name)
            if windows is not None and windows.since_ns <= left_ns:
                windows.begins(name, self._now_ns if at_ns is None else at_ns)

    # What comes in

    def hands_in(self, answers: Answers) -> None:
        """A frame of answers is about to be looked at."""
        for failed in answers.failed:
            if failed.after_s is not None:
                self._raised.append((failed, self._now_ns))
                self._machine.rules.befell()  # what has not begun under its limit comes back
            elif failed.final and failed.dispatch in self._machine.model.buffer_of_dispatch:
                self.finals.add(self._key(failed))
        for spent in answers.spent:
            for unit, amount in spent.amounts.items():
                name = (spent.dispatch, spent.index, spent.number, unit)
                if spent.dispatch < 0 or name not in self._told:
                    self._spent.append((*name, amount))
                    self._told.add(name)

    def _key(self, failed: Failed) -> int:
        if failed.dispatch < 0:
            return failed.dispatch
        return (self._machine.model.buffer_of_dispatch[failed.dispatch] << INDEX_BITS) + failed.index

    def committed(self) -> None:
        """What was handed in before this moment is on disk: all that was spent, each amount once."""
        query = self._machine.model.query
        rows = query(
            "SELECT spent_id, dispatch_id, item_index, number, unit, amount FROM spent WHERE spent_id > ?",
            self._last_spent_id,
        )
        self._last_spent_id = max((row[0] for row in rows), default=self._last_spent_id)
        found, spent = Counter(row[1:] for row in rows), Counter(self._spent)
        if found != spent:
            raise Violation(
                f"spent were {spent - found} beside what is on disk, on disk is also {found - spent}"
            )
        self._spent.clear()
        if self._raised:
            sql = (
                "SELECT failure_id, coalesce(item_key, -message_seq) FROM failure"
                " WHERE kind = 'retry_after' AND failure_id > ?"
            )
            rows = query(sql, self._last_failure_id)
            self._last_failure_id = max((row[0] for row in rows), default=self._last_failure_id)
            recorded = {key for _, key in rows}
            declared = self._state.limits  # one that today's app does not have cannot rest
            for failed, at_ns in self._raised:
                if failed.limit in declared and failed.after_s is not None and self._key(failed) in recorded:
                    until_ns = max(
                        self._rests.get(failed.limit, (0, 0))[0], at_ns + int(failed.after_s * 1e9)
                    )
                    self._rests[failed.limit] = (until_ns, self._machine.world.wall_jumps_ms)
            self._raised.clear()

    def supervisor_died(self) -> None:
        """What it had taken in and not committed is lost."""
        self._spent.clear()
        self._raised.clear()
        self._waits_since_ns.clear()
        self._served.clear()

    def starts(self) -> None:
        """What a new run knows of rests the wall clock says: set forward meanwhile, it ends them earlier."""
        jumps_ms = self._machine.world.wall_jumps_ms
        self._has_turned = False
        self._rests = {
            name: (until_ns - max(0, jumps_ms - before_ms) * 1_000_000, jumps_ms)
            for name, (until_ns, before_ms) in self._rests.items()
        }

    # Turn by turn

    def waits(self, timeout_s: float) -> None:
        """The supervisor is about to wait: not beyond a deadline."""
        state, now_ms = self._state, self._machine.clock.now_ms()
        if state.stopping or state.storage_full:
            return
        for buffer in state.buffers.values():
            if (
                buffer.deadline_at is not None
                and timeout_s > max(0, buffer.deadline_at - now_ms) / 1000 + 0.002
            ):
                raise Violation(
                    f"the supervisor waits for {timeout_s:.3f} s, beyond the deadline of {buffer}"
                )

        for buffer in state.buffers.values():
            wait_s = self._begins_in_s(buffer, now_ms)
            if wait_s is not None and timeout_s > wait_s + 0.002 and wait_s > 0:
                raise Violation(
                    f"the supervisor waits for {timeout_s:.3f} s, and {buffer} for {wait_s:.3f} s"
                )

    def _begins_in_s(self, buffer: OpenBuffer, now_ms: int) -> float | None:
        """In how many seconds something new of a buffer may be handed out for which a worker idles now; None:
        that is not a matter of time. 0: it may be now, which is no matter of waiting (`SchedulingRules`).
        """
        state, now_s = self._state, self._now_ns / 1e9
        has_new = not buffer.paused and buffer.recovered_to <= buffer.cursor < buffer.total
        idle = [
            one for one in state.workers.values() if one.gets_items and one.may_get and not one.unanswered
        ]
        alone = any(back.alone for other in state.buffers.values() for back in other.returned)
        if alone or not has_new or self._machine.memos.is_full(buffer):
            return None
        if not any(one.settings(buffer.target) for one in idle):
            return None
        waits_s = [((buffer.not_before or 0) - now_ms) / 1000]
        for name in self._names(buffer.target):
            limit, leases = state.limits[name], state.leases.values()
            if any(name in self._names(lease.listener) for lease in leases):
                return None  # who holds something will say how it goes on
            waits_s += [limit.rests_until_s - now_s, limit.handed_out_s + GATHER_S - now_s]
            if limit.per_s is not None:
                waits_s.append((1 - limit.tokens_now(now_s)) / limit.per_s)
        return max(0.0, *waits_s)

    def look(self) -> None:
        """After a turn."""
        if self._machine.supervisor is None:
            return
        self._notice_changes()
        state, now_ms = self._state, self._machine.supervisor.context.journal.now_ms
        for buffer in state.buffers.values():
            if buffer.seq in self._served or buffer.seq not in self._waits_since_ns:
                self._waits_since_ns[buffer.seq] = self._now_ns
            overdue = buffer.deadline_at is not None and buffer.deadline_at <= now_ms
            if overdue and self._has_turned and not state.storage_full:
                raise Violation(f"{buffer.buffer_id} is open after a turn that was over its deadline")

        self._served.clear()
        self._has_turned = True

    def check(self) -> None:
        """Who has failed for good had no attempt left, and somebody has wanted each cancel."""
        model = self._machine.model
        for key, listener, charged in model.query(_FAILED_FOR_GOOD):
            if charged < model.attempts[listener] and key not in self.finals and not self._machine.has_lost:
                raise Violation(f"item {key & 0xFFFFFFFF} of {listener} failed after {charged} attempts")
        for buffer_id, within in model.query(_CANCELLED):
            if not within and buffer_id not in model.told.cancelling:
                raise Violation(f"{buffer_id} was cancelled by nobody")


_FAILED_FOR_GOOD = """
    SELECT r.item_key, b.target, (
        SELECT count(*) FROM failure f WHERE f.item_key = r.item_key AND f.kind IN ('exception', 'timeout')
    )
    FROM result r JOIN buffer b ON b.buffer_seq = r.item_key >> 32 JOIN answer a USING (answer_id)
    JOIN failure last ON last.item_key = r.item_key AND last.attempt = a.attempt
    WHERE r.success = 0 AND last.kind IN ('exception', 'timeout')
        AND r.payload LIKE '<SystemError><code>' || last.kind || '</code>%'
        AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = r.item_key)"""
_CANCELLED = """
    SELECT buffer_id, EXISTS (
        SELECT 1 FROM buffer o WHERE o.cancelled_commit = b.cancelled_commit AND o.buffer_seq <> b.buffer_seq
            AND substr(b.thread_id, 1, length(o.thread_id) + 1) = o.thread_id || '/'
    ) FROM buffer b WHERE ended_how = 'cancelled'"""
