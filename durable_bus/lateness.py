"""Who is late: what each worker started last, for how long it has run, and whose time is up."""

from dataclasses import dataclass

from durable_bus.clock import Clock
from durable_bus.dispatch import Dispatcher
from durable_bus.hands import Hand, InHand
from durable_bus.outbox import Outbox
from durable_bus.ports import Pool
from durable_bus.staged import Staged

__all__ = ["Lateness", "Running"]

ASYNC_GRACE_S = 10.0
"""An event loop that has not turned for a listener's time-out and this long is blocked: its worker is
killed.
"""
LOOK_AGAIN_S = 0.25
"""Who seems late is looked at once more, this much later: it may have waited for us to read what it had to
say.
"""


@dataclass(frozen=True, slots=True)
class Running:
    """What a worker runs: the sync item it started last, or the first async one it has not answered."""

    held: InHand
    ordinal: int
    seconds: float
    """Since it was started (sync), or since the event loop last turned (async)."""


class Lateness:
    """Judges by the slots that workers share with us, and kills who is late."""

    def __init__(self, dispatcher: Dispatcher, pool: Pool, clock: Clock, outbox: Outbox) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._clock = clock
        self._outbox = outbox
        self.overdue: Staged[int, tuple[int, float]] = Staged()
        """Workers killed for being late: the ordinal that was, and its listener's time-out in seconds."""
        self._seem_late: dict[int, tuple[int, float]] = {}
        """Workers that will be, if it is still this ordinal when they are looked at again, and since when."""

    def running(self, hand: Hand) -> Running | None:
        slot = self._pool.slot(hand.worker_id)
        started, since_ns = slot.started, slot.since_ns
        if since_ns == 0 or slot.started != started:
            return None  # idle, or just between two
        seconds = (self._clock.monotonic_ns() - since_ns) / 1e9
        first: Running | None = None
        for held in self._dispatcher.held_by(hand.worker_id):
            newest = started - 1 - held.first_ordinal
            if (
                0 <= newest < held.item_count
                and not held.answered >> newest & 1
                and not self.is_async(hand, held)
            ):
                # It has the thread to itself, also beside async items: those wait on the loop it blocks.
                return Running(held, started - 1, seconds)
            opened = held.first_open_position()
            if first is None and opened is not None and held.first_ordinal + opened < started:
                first = Running(held, held.first_ordinal + opened, seconds)
        return first

    @staticmethod
    def is_async(hand: Hand, held: InHand) -> bool:
        return bool((hand.listeners or {}).get(held.listener, {}).get("is_async", False))

    def judge(self) -> None:
        """Kill workers whose item has run past its listener's time-out.

        Only to be called when every pipe was read: a supervisor that was stopped for a minute finds the
        answers of that minute there, and must not kill their workers for being late. Nor one whose pipe was
        full until we read it just now: its slot says what it says only when it has come to run again.
        """
        seemed_late, self._seem_late = self._seem_late, {}
        now_s = self._clock.monotonic_ns() / 1e9
        for hand in self._dispatcher.hands.values():
            if hand.unanswered == 0 or hand.worker_id in self.overdue:
                continue
            running = self.running(hand)
            allowed_s = self._allowed_s(hand, running.held) if running else None
            if running is None or allowed_s is None or running.seconds <= allowed_s:
                continue
            ordinal, since_s = seemed_late.get(hand.worker_id, (None, now_s))
            if ordinal != running.ordinal:
                since_s = now_s
            self._seem_late[hand.worker_id] = (running.ordinal, since_s)
            if now_s - since_s >= LOOK_AGAIN_S:
                timeout_s = (hand.listeners or {})[running.held.listener]["timeout_s"]
                self.overdue[hand.worker_id] = (running.ordinal, timeout_s)
                self._outbox.kill(hand.worker_id)

    @staticmethod
    def _allowed_s(hand: Hand, held: InHand) -> float | None:
        facts = (hand.listeners or {}).get(held.listener)
        if facts is None or facts["timeout_s"] is None:
            return None
        return float(facts["timeout_s"]) + (ASYNC_GRACE_S if facts["is_async"] else 0.0)

    def next_due_in_s(self) -> float | None:
        """Seconds until `judge` may have something to do, None when nothing that runs has a time-out."""
        due: list[float] = []
        now_s = self._clock.monotonic_ns() / 1e9
        for hand in self._dispatcher.hands.values():
            if hand.unanswered == 0 or hand.worker_id in self.overdue:
                continue
            running = self.running(hand)
            held = running.held if running else next(iter(self._dispatcher.held_by(hand.worker_id)), None)
            allowed_s = self._allowed_s(hand, held) if held else None
            if allowed_s is None:
                continue
            left_s = allowed_s - (running.seconds if running else 0.0)
            if hand.worker_id in self._seem_late:
                left_s = max(left_s, self._seem_late[hand.worker_id][1] + LOOK_AGAIN_S - now_s)
            due.append(left_s + 0.001)
        return min(due, default=None)
