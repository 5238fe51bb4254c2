"""What is done now and then, in small steps that no turn notices: retention, and what clients left behind."""

from typing import TYPE_CHECKING

from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.requests.requests import Requests
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["Housekeeping"]

REQUESTS_KEPT_MS = 24 * 3600 * 1000
"""For how long a request that is repeated is answered from the journal."""
_STEP_NS = 10_000_000
"""How long one turn may spend on deleting."""
_STEPS_MAX = 50
_ROWS_FIRST = 2_000
_ROWS_MIN = 100
_ROWS_MAX = 20_000


class Housekeeping:
    """Begins a round every few seconds, and goes on with it in every turn until nothing is left to do."""

    def __init__(
        self,
        journal: "Journal",
        requests: Requests,
        dispatcher: Dispatcher,
        clock: Clock,
        *,
        every_s: float,
        receiving_timeout_ms: int,
        retain_ms: int | None,
    ) -> None:
        self._journal = journal
        self._requests = requests
        self._dispatcher = dispatcher
        self._clock = clock
        self._every_s = every_s
        self._receiving_timeout_ms = receiving_timeout_ms
        self._retain_ms = retain_ms
        self._next_s = 0.0
        self._begun_s = self._now_s()
        self._pruned_to: tuple[int, int] | None = None
        self._forgotten_to: int | None = None
        self._rows_max = _ROWS_FIRST
        self._unfinished = True
        """Requests or buffers are left to look at in this round."""

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def next_due_in_s(self) -> float:
        """Seconds until the next round."""
        busy = self._unfinished or self._journal.buffers.may_clear
        return 0.0 if busy else self._next_s - self._now_s()

    def keep(self) -> None:
        """Inside a commit. Whatever a refused commit forgets is done again in a later round."""
        if self._now_s() >= self._next_s:
            self._next_s = self._now_s() + self._every_s
            self._begin_round()
        if self._unfinished:
            self._unfinished = self._go_on()
        if self._journal.buffers.may_clear:
            self._clear()

    def _begin_round(self) -> None:
        now_ms = self._journal.now_ms
        if (self._now_s() - self._begun_s) * 1000 >= self._receiving_timeout_ms:
            # Not sooner after a start: while nobody served, no client could come back.
            self._requests.give_up_stale(now_ms - self._receiving_timeout_ms)
        self._dispatcher.note_low_water()
        if self._retain_ms is not None and self._pruned_to is None:
            self._pruned_to = (0, 0)
        if self._retain_ms is not None and self._forgotten_to is None:
            self._forgotten_to = 0
        self._unfinished = True
        self._journal.buffers.may_clear = True

    def _go_on(self) -> bool:
        """A step; whether anything is left."""
        now_ms = self._journal.now_ms
        left = self._journal.forget_requests(now_ms - REQUESTS_KEPT_MS, _ROWS_FIRST)
        if self._pruned_to is not None and self._retain_ms is not None:
            _, self._pruned_to = self._journal.buffers.prune(now_ms - self._retain_ms, self._pruned_to)
            left = left or self._pruned_to is not None
        if self._forgotten_to is not None and self._retain_ms is not None:
            before_ms = now_ms - self._retain_ms
            self._forgotten_to = self._journal.messages.forget_ended(before_ms, self._forgotten_to)
            left = left or self._forgotten_to is not None
        return left

    def _clear(self) -> None:
        """Delete rows for about `_STEP_NS`. How many take that long depends on their payloads."""
        begun_ns = self._clock.monotonic_ns()
        for _ in range(_STEPS_MAX):
            step_ns = self._clock.monotonic_ns()
            cleared = self._journal.buffers.clear_some(self._rows_max)
            if cleared is None:
                return
            now_ns = self._clock.monotonic_ns()
            if now_ns - step_ns > _STEP_NS:
                self._rows_max = max(_ROWS_MIN, self._rows_max // 2)
            elif now_ns - step_ns < _STEP_NS // 4 and cleared >= self._rows_max:
                self._rows_max = min(_ROWS_MAX, self._rows_max * 2)
            if now_ns - begun_ns > _STEP_NS:
                return
