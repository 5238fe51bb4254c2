"""What may start when, by the app's limits: `limits` says it, here it is remembered, journaled and carried
out.

Three looks a turn. Before anything is taken in, what has begun is charged (`look`). While the turn is
planned, `Gates` says how much of each listener may be handed out. In the end `settle` writes what has
changed, so that the next run goes on from there, and says when to look again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from durable_bus.errors import RETRY_AFTER_S_MAX, UsageError
from durable_bus.journal.pace import LimitRow
from durable_bus.payloads.rates import burst, starts_per_s
from durable_bus.payloads.settings import LimitSettings
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import OpenBuffer
from durable_bus.supervisor.scheduling import limits, recall
from durable_bus.supervisor.scheduling.limits import Held, Limit
from durable_bus.supervisor.state import State
from durable_bus.wire.slot import ORDINAL_MAX

__all__ = [
    "Gates",
    "declare",
    "load",
    "look",
    "names_for",
    "rest",
    "set_by_hand",
    "settle",
    "succeeded",
    "timed_out",
]

_REST_AGAIN_MS = 1_000
"""Of a rest that grows by less than this no other row is written."""


def names_for(state: State, listener: str) -> tuple[str, ...]:
    """The limits of a listener, in the newest code."""
    settings = (state.listeners or {}).get(listener)
    return () if settings is None else tuple(name for name in settings.limits if name in state.limits)


# ---- where limits come from


def load(context: Context) -> None:
    """At a start: go on where the last run was."""
    for row in context.journal.pace.limits():
        context.state.limits[row.name] = _of_row(context, row)


def _of_row(context: Context, row: LimitRow) -> Limit:
    now_s, now_ms = context.now_s(), context.journal.now_ms
    elapsed_s = (now_ms - row.tokens_at) / 1000
    ticked_s = now_s - row.tokens_at_ns / 1e9
    if ticked_s >= 0:  # else the machine has started anew since
        elapsed_s = min(elapsed_s, ticked_s)
    rests_s = max(0.0, (row.rests_until - now_ms) / 1000)
    limit = Limit(
        LimitSettings(row.name, row.app_rate, row.app_running, bool(row.adaptive)),
        row.rate,
        row.running,
        declared=bool(row.declared),
        by_hand=bool(row.by_hand),
        allowed=row.allowed,
        rests_until_s=now_s + min(rests_s, RETRY_AFTER_S_MAX) if rests_s else 0.0,
        rests_until_ms=row.rests_until if rests_s else 0,
        written=(row.in_hand, row.not_begun),
    )
    return limits.restarted(limit, row.tokens, row.not_begun, elapsed_s, now_s)


def declare(context: Context, declared: dict[str, LimitSettings]) -> None:
    """The app's limits, as a worker with the newest code has reported them."""
    table, now_s = context.state.limits, context.now_s()
    if not table:  # nobody has looked so far: what has begun by now is charged to none
        for worker in [*context.state.workers.values()]:
            context.state.workers.change(worker.worker_id, counted_to=context.slot(worker.worker_id).started)
    for name, limit in [*table.items()]:
        if name not in declared and limit.declared:
            table[name] = replace(limit, declared=False)
            _note(context, replace(limit, rate=None, running=None), "app")
            _write(context, name, Held())
    for name, settings in declared.items():
        before = table.get(name)
        if before is not None and before.declared and before.settings == settings:
            continue
        limit = before or Limit(settings, settings.rate, settings.running, at_s=now_s)
        limit = replace(limit, settings=settings, declared=True)
        goes_by = limit if limit.by_hand else settings
        limit = _with(limit, goes_by.rate, goes_by.running, now_s)
        if before is None and limit.per_s is not None:
            limit = replace(limit, tokens=burst(limit.per_s))
        table[name] = limit
        if before is None or not before.declared or before.settings != settings:
            _note(context, limit, "app")
        _write(context, name, Held(*limit.written))


def _with(limit: Limit, rate: str | None, running: int | None, now_s: float) -> Limit:
    """It goes by another rate and number from now on; its bucket is as full as it was."""
    tokens = limit.tokens_now(now_s)
    allowed = None
    if limit.settings.adaptive and running is not None:
        allowed = float(running) if limit.allowed is None else min(limit.allowed, float(running))
    return replace(limit, rate=rate, running=running, allowed=allowed, tokens=tokens, at_s=now_s)


def set_by_hand(context: Context, name: str, rate: str | None, running: int | None, *, reset: bool) -> Limit:
    """Change a limit while it runs, until it is reset. Raises UsageError."""
    table, now_s = context.state.limits, context.now_s()
    before = table.get(name)
    if before is None or not before.declared:
        known = ", ".join(sorted(one for one, limit in table.items() if limit.declared)) or "none"
        raise UsageError(f"the app has no limit {name!r:.120}; its limits are: {known}")
    if reset:
        rate, running = before.settings.rate, before.settings.running
    else:
        if rate is not None:
            starts_per_s(rate)
        rate = before.rate if rate is None else rate
        running = before.running if running is None else running
    limit = replace(_with(before, rate, running, now_s), by_hand=not reset)
    table[name] = limit
    _note(context, limit, "reset" if reset else "hand")
    _write(context, name, Held(*limit.written))
    return limit


# ---- what happens to them


def look(context: Context) -> None:
    """Charge what has begun since the last look. Comes before anything that workers have said is taken in:
    what they have answered has begun, and is still in their hands then.
    """
    state = context.state
    if not state.limits:
        return
    begun: dict[str, int] = {}
    for worker in [*state.workers.values()]:
        started = context.slot(worker.worker_id).started
        if started <= worker.counted_to:
            continue
        for lease in state.held_by(worker):
            names = names_for(state, lease.listener)
            first = max(lease.first_ordinal, worker.counted_to)
            count = min(lease.first_ordinal + lease.item_count, started) - first
            if count > 0:
                for name in names:
                    begun[name] = begun.get(name, 0) + count
        state.workers.change(worker.worker_id, counted_to=started)
    now_s = context.now_s()
    for name, count in begun.items():
        state.limits[name] = limits.charged(state.limits[name], count, now_s)


def _held(state: State) -> dict[str, Held]:
    """How much workers hold under each limit. What has begun since the last look counts as not begun: it is
    charged at the next.
    """
    held: dict[str, Held] = {}
    for lease in state.leases.values():
        names = names_for(state, lease.listener)
        if names:
            worker = state.workers.get(lease.worker_id)
            end = lease.first_ordinal + lease.item_count
            counted_to = 0 if worker is None else worker.counted_to
            not_begun = min(lease.open_count, max(0, end - counted_to))
            for name in names:
                before = held.get(name, Held())
                held[name] = Held(before.in_hand + lease.open_count, before.not_begun + not_begun)
    return held


def rest(context: Context, name: str, seconds: float) -> None:
    """By RetryAfter: nothing starts under this limit for so long, and what has not begun comes back."""
    state, now_s = context.state, context.now_s()
    before = state.limits.get(name)
    if before is None:
        return
    limit = limits.slower(limits.rested(before, seconds, now_s, context.journal.now_ms), now_s)
    state.limits[name] = limit
    if limit.allowed != before.allowed:
        _note(context, limit, "slower")
    elif limit.rests_until_ms >= before.rests_until_ms + _REST_AGAIN_MS:
        _note(context, limit, "rest")
    for lease in state.leases.values():
        if name in names_for(state, lease.listener):
            worker = state.workers[lease.worker_id]
            if lease.first_ordinal + lease.item_count > worker.counted_to:
                recall.recall(context, worker, worker.begun(context.slot(worker.worker_id).started))


def timed_out(context: Context, listener: str) -> None:
    """An attempt took too long: limits that are adaptive allow fewer."""
    for name in names_for(context.state, listener):
        before = context.state.limits[name]
        limit = context.state.limits[name] = limits.slower(before, context.now_s())
        if limit.allowed != before.allowed:
            _note(context, limit, "slower")


def succeeded(state: State, listener: str) -> None:
    """Something was answered: limits that are adaptive may allow more."""
    for name in names_for(state, listener):
        limit = state.limits[name]
        if limit.allowed is not None and not limit.has_succeeded:
            state.limits[name] = replace(limit, has_succeeded=True)


# ---- planning


class Gates:
    """How much of each listener may be handed out in this turn."""

    def __init__(self, context: Context) -> None:
        self._state = state = context.state
        self._now_s = context.now_s()
        self.held = _held(state) if state.limits else {}
        """What workers hold under each limit, with what was handed out in this turn."""
        for name, limit in [*state.limits.items()]:
            # By what was in hand when the last turn ended: what has been answered since makes room.
            grown = limits.grown(limit, Held(*limit.written), self._now_s)
            if grown is not limit:
                state.limits[name] = grown
        self._free = {name: self._free_now(name) for name in state.limits}
        self._quotas: dict[str, int] = {}
        self._given: dict[tuple[str, int], int] = {}
        self.closed: set[str] = set()
        """Limits under which something waits that might not be handed out."""

    def _free_now(self, name: str) -> int:
        free = limits.free(self._state.limits[name], self.held.get(name, Held()), self._now_s)
        return ORDINAL_MAX if free is None else free

    def share(self, buffers: Mapping[tuple[int, str], int]) -> None:
        """So many buffers of each level and listener wait: under each limit those of the highest level get as
        much as one another, and lower ones what is left.
        """
        waiting: dict[str, tuple[int, int]] = {}
        for (level, listener), number in buffers.items() if self._free else ():
            for name in names_for(self._state, listener):
                highest, count = waiting.get(name, (level, 0))
                if level >= highest:
                    waiting[name] = (level, number + (count if level == highest else 0))
        self._quotas = {name: max(1, self._free[name] // count) for name, (_, count) in waiting.items()}

    def free(self, listener: str, buffer_seq: int | None = None) -> int:
        """How much may be handed out of a listener; `buffer_seq`: of this buffer."""
        most = ORDINAL_MAX
        for name in names_for(self._state, listener) if self._free else ():
            free = self._free[name]
            if free <= 0:
                self.closed.add(name)
            elif buffer_seq is not None and name in self._quotas:
                free = min(free, self._quotas[name] - self._given.get((name, buffer_seq), 0))
                if free <= 0:
                    self.closed.add(name)
            most = min(most, free)
        return max(0, most)

    def not_at_rest(self) -> Iterable[OpenBuffer]:
        """The open buffers of which something may start before long: no limit of theirs rests, which may be
        for hours.
        """
        resting = {name for name, limit in self._state.limits.items() if self._now_s < limit.rests_until_s}
        buffers = self._state.buffers.values()
        if not resting:
            return buffers
        return [one for one in buffers if resting.isdisjoint(names_for(self._state, one.target))]

    def has_slots(self, listener: str) -> bool:
        """Whether as many as there are slots may be in hand, and none beside: some limit counts them."""
        limit_of = self._state.limits
        return bool(self._free) and any(
            limit_of[name].most is not None for name in names_for(self._state, listener)
        )

    def take(self, listener: str, count: int, buffer_seq: int | None = None) -> None:
        """So much of it was handed out."""
        for name in names_for(self._state, listener) if self._free else ():
            before = self.held.get(name, Held())
            self.held[name] = Held(before.in_hand + count, before.not_begun + count)
            self._free[name] -= count
            if buffer_seq is not None:
                self._given[name, buffer_seq] = self._given.get((name, buffer_seq), 0) + count
            self._state.limits.change(name, handed_out_s=self._now_s)


def settle(context: Context, gates: Gates | None) -> None:
    """Write what has changed of limits, and say when to look again at those that something waits for."""
    state, now_s = context.state, context.now_s()
    if not state.limits:
        return
    held = _held(state) if gates is None else gates.held
    for name, limit in [*state.limits.items()]:
        now = held.get(name, Held())
        if not limit.is_covered(now):
            _write(context, name, now)
    waits_s = [
        wait_s
        for name in (gates.closed if gates is not None else ())
        if (wait_s := limits.free_in_s(state.limits[name], held.get(name, Held()), now_s)) is not None
    ]
    state.pace_at_s = now_s + min(waits_s) if waits_s else None


def _write(context: Context, name: str, held: Held) -> None:
    limit, clock = context.state.limits[name], context.ports.clock
    now_ns = clock.monotonic_ns()
    context.journal.pace.set_limit(
        name=name,
        declared=limit.declared,
        app_rate=limit.settings.rate,
        app_running=limit.settings.running,
        adaptive=limit.settings.adaptive,
        by_hand=limit.by_hand,
        tokens=limit.tokens_now(now_ns / 1e9),
        tokens_at_ns=now_ns,
        not_begun=held.not_begun,
        in_hand=held.in_hand,
        **_counts(limit),
    )
    context.state.limits.change(name, written=tuple(held), begun=0, unwritten=False)


def _note(context: Context, limit: Limit, cause: str) -> None:
    context.journal.pace.note_change(limit.settings.name, cause, **_counts(limit))
    context.outbox.log("limit changed", limit=limit.settings.name, cause=cause, **_counts(limit))


def _counts(limit: Limit) -> dict[str, Any]:
    return {
        "rate": limit.rate,
        "running": limit.running,
        "allowed": limit.allowed,
        "rests_until": limit.rests_until_ms,
    }
