"""What scheduling promises, watched turn by turn: every theft makes progress, and nobody idles beside plenty.

An item is handed out at most log2(held) + 2 times without being begun, where `held` is the most that a worker
held with it: a theft halves that. From a worker that is stopped all is taken at once, and may go to another
one that is stopped: those do not count. And no worker idles for more than 30 ms beside one that holds more
than it runs. Neither is counted against the supervisor when something has befallen a worker. Nor does
a worker idle for more than 30 ms beside items that may be handed out: new ones of a buffer that is not paused
and may begin, whose limits have a free place and a token.
"""

import math
from typing import TYPE_CHECKING

from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.entries import OpenBuffer, Range, Worker
from durable_bus.supervisor.scheduling import limits, pacing
from durable_bus.supervisor.scheduling.limits import Held
from durable_bus.wire.work import WorkItems
from simulation.records import Violation

if TYPE_CHECKING:
    from simulation.machine import Machine

__all__ = ["SchedulingRules"]

IDLE_MAX_S = 0.03
_STUCK_S = 0.02
_BEFALLS = (
    "worker ended",
    "worker ready",
    "engine ready",
    "batches lost",
    "buffer paused",
    "buffer resumed",
    "buffer cancelled",
    "reloading",
    "stopping",
    "no room on disk",
)
"""Log lines after which work is given back for other reasons than an idle worker's."""


class SchedulingRules:
    """Of one supervisor's lifetime."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._handed: dict[int, tuple[int, int]] = {}
        """Items that were handed out and not begun: how often, and the most that a worker held with them."""
        self._to_be_alone: set[tuple[int, Range]] = set()
        """What must be alone and has waited since the last turn, by buffer."""
        self._holder: dict[int, int] = {}
        self._idle_s: dict[int, float] = {}
        """Workers that idle beside one that holds more than it runs, and for how long by now."""
        self._unused_s: dict[int, float] = {}
        """The same of workers that idle although something may be handed out."""
        self._looked_ns = 0
        self._late_ns = 0

    def befell(self) -> None:
        """Something has happened to a worker or a buffer: count from here."""
        self._handed.clear()
        self._idle_s.clear()
        self._unused_s.clear()

    def logged(self, event: str) -> None:
        if event in _BEFALLS:
            self.befell()

    def was_late(self, ns: int) -> None:
        """The supervisor did not get to run for so long: not its decision."""
        self._late_ns += ns

    def handed_out(self, keys: list[int], worker_id: int) -> None:
        if self._machine.has_trouble:
            self.befell()
            return
        supervisor = self._machine.supervisor
        assert supervisor is not None
        running = self._machine.model.running_since()
        now_ns = self._machine.world.now_ns
        for key in keys:
            times, longest = self._handed.get(key, (0, 0))
            since_ns = running.get(self._holder.get(key, 0))
            is_stuck = since_ns is not None and now_ns - since_ns > _STUCK_S * 1e9
            holder = self._machine.pool.workers.get(self._holder.get(key, 0))
            if is_stuck or holder is None or holder.frozen:
                times = (
                    0  # from one whose running item is stuck, that is stopped or gone, all is taken at once
                )
            times, longest = times + 1, max(longest, supervisor.state.workers[worker_id].unanswered)
            # A message beside an engine is nobody else's to take.
            if times > (math.log2(longest) + 2 if key > 0 else 1):
                what = f"item {key & 0xFFFFFFFF}" if key > 0 else f"message {-key}"
                raise Violation(f"{what} was handed out {times} times without being begun")
            self._handed[key] = (times, longest)
            self._holder[key] = worker_id

    def keeps_free(self, work: WorkItems, worker_id: int) -> None:
        """Items leave for an engine: not while something waits that must be alone in it, or that would wait
        as long as there is other work.
        """
        supervisor = self._machine.supervisor
        assert supervisor is not None
        state = supervisor.state
        lease, hand = state.leases.get(work.dispatch), state.workers.get(worker_id)
        others = [one for one in state.workers.values() if one.places and not one.leaving]
        if lease is None or hand is None or lease.alone or others != [hand]:
            return  # during a reload one of two is kept free
        for seq, back in self._to_be_alone:
            buffer = state.buffers.get(seq)
            if buffer is None or buffer.paused or back not in buffer.returned:
                continue
            if buffer.target in (hand.listeners or {}) and not self._rests(buffer, self._looked_ns):
                raise Violation(f"{work} was sent, and {back} of {buffer.buffer_id} waits for the engine")

    def returned(self, settings: ListenerSettings) -> None:
        """A worker throws away what it got, because a limit rests that its code has for the listener. Newer
        code may not have it: then the worker gets the same again, until it has forgotten the rest.
        """
        supervisor = self._machine.supervisor
        if supervisor and set(settings.limits).difference(pacing.names_for(supervisor.state, settings.name)):
            self._handed.clear()

    def begun(self, key: int) -> None:
        self._handed.pop(key, None)

    def waits(self, timeout_s: float) -> None:
        """The supervisor is about to wait: not while a worker idles that may have a message."""
        assert self._machine.supervisor is not None
        state = self._machine.supervisor.state
        if state.stopping or state.storage_full or timeout_s < IDLE_MAX_S:
            return
        idle = [
            one for one in state.workers.values() if one.gets_messages and one.may_get and not one.unanswered
        ]
        for name in state.waiting_names:
            if any(one.settings(name) for one in idle) and not pacing.names_for(state, name):
                raise Violation(f"the supervisor waits for {timeout_s:.3f} s while a message to {name} does")

    def look(self) -> None:
        """After a turn."""
        self._note_what_must_be_alone()
        now_ns = self._machine.world.now_ns
        passed_s = (now_ns - self._looked_ns - self._late_ns) / 1e9
        self._looked_ns, self._late_ns = now_ns, 0
        supervisor = self._machine.supervisor
        if supervisor is None or supervisor.state.stopping or self._machine.has_trouble:
            self._idle_s.clear()
            self._unused_s.clear()
            return
        state = supervisor.state
        ready = [buffer for buffer in state.buffers.values() if not self._rests(buffer, now_ns)]
        if any(back.alone for buffer in ready for back in buffer.returned):
            self._idle_s.clear()  # somebody is kept free for these
            self._unused_s.clear()
            return
        workers = {worker.worker_id: worker for worker in self._machine.pool.living if not worker.frozen}
        plenty = []
        with_room = []
        idle = []
        for hand in state.workers.values():
            if hand.worker_id not in workers or not hand.listeners or hand.leaving or not hand.gets_items:
                continue
            if not hand.recalled:
                idle += [hand] * (not hand.unanswered)
                with_room += [hand] * self._has_room(hand)
            if hand.worker_id in state.given:
                continue  # just now: it is still on its way
            begun = hand.begun(workers[hand.worker_id].slot.worker_started)
            if min(hand.next_ordinal, hand.limit) > begun and hand.held and not hand.exclusive:
                plenty.append(state.leases[hand.held[-1]].listener)
        before, self._idle_s = self._idle_s, {}
        for hand in idle:
            if any(listener in (hand.listeners or {}) for listener in plenty):
                seconds = before.get(hand.worker_id, -passed_s) + passed_s
                if seconds > IDLE_MAX_S:
                    raise Violation(
                        f"worker {hand.worker_id} idles for {seconds:.3f} s beside one with plenty"
                    )
                self._idle_s[hand.worker_id] = seconds
        waiting = [buffer.target for buffer in state.buffers.values() if self._may_go_out(buffer)]
        before, self._unused_s = self._unused_s, {}
        for hand in with_room:
            if hand.may_get and any(listener in (hand.listeners or {}) for listener in waiting):
                seconds = before.get(hand.worker_id, -passed_s) + passed_s
                if seconds > IDLE_MAX_S:
                    raise Violation(f"worker {hand.worker_id} idles for {seconds:.3f} s beside {waiting}")
                self._unused_s[hand.worker_id] = seconds

    def _rests(self, buffer: OpenBuffer, since_ns: int) -> bool:
        """One of its limits has rested at some time since then: nobody is kept free for it."""
        assert self._machine.supervisor is not None
        state = self._machine.supervisor.state
        names = pacing.names_for(state, buffer.target)
        return any(since_ns / 1e9 < state.limits[name].rests_until_s for name in names)

    def _note_what_must_be_alone(self) -> None:
        supervisor = self._machine.supervisor
        buffers = [] if supervisor is None else supervisor.state.buffers.values()
        self._to_be_alone = {
            (buffer.seq, back)
            for buffer in buffers
            if not buffer.paused
            for back in buffer.returned
            if back.alone
        }

    def _has_room(self, hand: Worker) -> bool:
        """It holds nothing, or it is an engine with a free place. Where limits or budgets count what is in
        hand, that may hold enough all the same.
        """
        supervisor = self._machine.supervisor
        assert supervisor is not None
        state = supervisor.state
        if not hand.places or not hand.unanswered:
            return not hand.unanswered
        counts = any(buffer.budget_of is not None for buffer in state.buffers.values()) or state.limits
        return len(hand.held) < hand.places and not counts

    def _may_go_out(self, buffer: OpenBuffer) -> bool:
        """A buffer has something new, and every limit of its listener has a free place and a token."""
        supervisor = self._machine.supervisor
        assert supervisor is not None
        if not self._machine.pace.has_new(buffer) or self._machine.memos.is_full(buffer):
            return False
        state, now_s = supervisor.state, supervisor.context.now_s()
        held = pacing._held(state)
        names = pacing.names_for(state, buffer.target)
        return all(limits.free(state.limits[name], held.get(name, Held()), now_s) != 0 for name in names)

    def forget(self) -> None:
        """A new supervisor."""
        self.befell()
        self._holder.clear()
        self._looked_ns, self._late_ns = self._machine.world.now_ns, 0
