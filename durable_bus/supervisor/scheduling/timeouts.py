"""Who is late: with an item, by its listener's time-out, or with beginning what it was given."""

from dataclasses import dataclass
from typing import NamedTuple

from durable_bus.errors import WorkerDeath, WorkerSilent, WorkerUnresponsive
from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.ports import Pool
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import Hand, InHand
from durable_bus.supervisor.scheduling.recall import Withdrawal
from durable_bus.supervisor.scheduling.rules import ASK_AFTER_S, KILL_AFTER_S, Attention, attend
from durable_bus.supervisor.staged import Staged

__all__ = ["Late", "Lateness", "Running"]

ASYNC_GRACE_S = 10.0
"""An event loop that has not turned for a listener's time-out and this long is blocked, by nobody knows whom:
its worker is killed.
"""
LOOK_AGAIN_S = 0.25
"""Who seems late is looked at once more, this much later: it may have waited for us to read what it had to
say. And as often as this, who does not begin what it was given.
"""


@dataclass(frozen=True, slots=True)
class Running:
    """What a worker runs: the sync item it started last, or the first async one it has not answered."""

    held: InHand
    ordinal: int
    seconds: float
    """Since it was started (sync), its step began, or the event loop last turned (async)."""
    has_thread: bool
    """It runs just now, and nothing else can: a sync item, or a step of an async one."""


class Late(NamedTuple):
    """A worker that was killed for being late."""

    death: WorkerDeath
    ordinal: int | None
    """What it ran for too long; None: it had begun nothing."""


class Lateness:
    """Judges by the slots that workers share with us, and kills who is late."""

    def __init__(
        self, dispatcher: Dispatcher, pool: Pool, clock: Clock, withdrawal: Withdrawal, outbox: Outbox
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._clock = clock
        self._withdrawal = withdrawal
        self._outbox = outbox
        self.late: Staged[int, Late] = Staged()
        self._seem_late: dict[int, tuple[int, float]] = {}
        """Workers that will be, if it is still this ordinal when they are looked at again, and since when."""
        self._attention: dict[int, Attention] = {}
        """Workers that could begin something and have not when they were last looked at."""
        self._looked_s = 0.0
        self._look_s: float | None = None
        """When somebody may be late, monotonic; None: nobody has anything to be late with."""

    def running(self, hand: Hand) -> Running | None:
        slot = self._pool.slot(hand.worker_id)
        started, since_ns, current = slot.started, slot.since_ns, slot.current
        if since_ns == 0 or slot.started != started or slot.current != current:
            return None  # idle, or just between two
        seconds = (self._clock.monotonic_ns() - since_ns) / 1e9
        first: Running | None = None
        for held in self._dispatcher.held_by(hand.worker_id):
            # A sync item has the thread to itself, also beside async ones: those wait on the loop it blocks.
            running = current - 1 if self.is_async(hand, held) else started - 1
            position = running - held.first_ordinal
            if 0 <= position < held.item_count and not held.answered >> position & 1:
                return Running(held, running, seconds, has_thread=True)
            opened = held.first_open_position()
            if first is None and opened is not None and held.first_ordinal + opened < started:
                first = Running(held, held.first_ordinal + opened, seconds, has_thread=False)
        return first

    @staticmethod
    def is_async(hand: Hand, held: InHand) -> bool:
        settings = (hand.listeners or {}).get(held.listener)
        return settings is not None and settings.is_async

    def judge(self) -> None:
        """Kill workers whose item has run past its listener's time-out, or that do not begin what they have.

        Only to be called when every pipe was read: a supervisor that was stopped for a minute finds the
        answers of that minute there, and must not kill their workers for being late. Nor one whose pipe was
        full until we read it just now: its slot says what it says only when it has come to run again.
        """
        now_s = self._clock.monotonic_ns() / 1e9
        if self._look_s is None or now_s < self._look_s:
            return
        step_s = min(now_s - self._looked_s, 2 * LOOK_AGAIN_S)
        self._looked_s = now_s
        seemed_late, self._seem_late = self._seem_late, {}
        attention, self._attention = self._attention, {}
        left_s: list[float] = []
        for hand in self._dispatcher.hands.values():
            if not (hand.unanswered or hand.withdrawn) or hand.worker_id in self.late:
                continue
            left_s.append(KILL_AFTER_S)  # it may stop between two items, which nothing else would make us see
            running = self.running(hand)
            if running is None:
                self._judge_beginning(hand, attention.get(hand.worker_id), step_s)
                left_s.append(LOOK_AGAIN_S)
                continue
            allowed_s = self._allowed_s(hand, running.held, has_thread=running.has_thread)
            soon_s = [self._allowed_s(hand, held) for held in self._dispatcher.held_by(hand.worker_id)]
            left_s += [after_s for after_s in soon_s if after_s is not None]
            if allowed_s is None:
                continue
            left_s.append(allowed_s - running.seconds if running.seconds <= allowed_s else LOOK_AGAIN_S)
            if running.seconds <= allowed_s:
                continue
            ordinal, since_s = seemed_late.get(hand.worker_id, (None, now_s))
            if ordinal != running.ordinal:
                since_s = now_s
            self._seem_late[hand.worker_id] = (running.ordinal, since_s)
            if now_s - since_s >= LOOK_AGAIN_S:
                timeout_s = self._timeout_s(hand, running.held)
                assert timeout_s is not None
                self._kill(hand, Late(WorkerSilent(timeout_s), running.ordinal))
        self._look_s = now_s + min(left_s) if left_s else None

    def _judge_beginning(self, hand: Hand, before: Attention | None, step_s: float) -> None:
        """Nothing runs in this worker, and it has something to begin, to report, or to throw away. If it does
        not come to that, it is stopped, or its event loop is blocked by what is no item any more.
        """
        begun = hand.begun(self._pool.slot(hand.worker_id).started)
        if begun >= hand.next_ordinal and not hand.unanswered:
            return
        seen = attend(before, (begun, hand.unanswered), step_s)
        self._attention[hand.worker_id] = seen
        if seen.stalled_s >= KILL_AFTER_S:
            self._kill(hand, Late(WorkerUnresponsive(), None))
        elif seen.stalled_s >= ASK_AFTER_S:
            self._withdrawal.withdraw(hand)

    def _kill(self, hand: Hand, late: Late) -> None:
        self.late[hand.worker_id] = late
        self._outbox.kill(hand.worker_id)

    @staticmethod
    def _timeout_s(hand: Hand, held: InHand) -> float | None:
        settings = (hand.listeners or {}).get(held.listener)
        return settings.timeout_s if settings else None

    def _allowed_s(self, hand: Hand, held: InHand, *, has_thread: bool = True) -> float | None:
        timeout_s = self._timeout_s(hand, held)
        return None if timeout_s is None else timeout_s + (0.0 if has_thread else ASYNC_GRACE_S)

    def expect(self) -> None:
        """Who was given something in this turn is to be looked at: it may not begin that, or not end it."""
        if self._dispatcher.given:
            now_s = self._clock.monotonic_ns() / 1e9
            if self._look_s is None:
                self._looked_s, self._look_s = now_s, now_s + LOOK_AGAIN_S
            self._look_s = min(self._look_s, now_s + LOOK_AGAIN_S)

    def next_due_in_s(self) -> float | None:
        """Seconds until `judge` may have something to do, None when nobody has anything to be late with."""
        if self._look_s is None:
            return None
        return self._look_s - self._clock.monotonic_ns() / 1e9 + 0.001
