"""What is done now and then, in small steps that no turn notices: retention, and what clients left behind."""

from durable_bus.supervisor.context import Context
from durable_bus.supervisor.scheduling.dispatcher import note_low_water

__all__ = ["Maintenance"]

REQUESTS_KEPT_MS = 24 * 3600 * 1000
"""For how long a request that is repeated is answered from the journal."""
_STEP_NS = 10_000_000
"""How long one turn may spend on deleting."""
_STEPS_MAX = 50
_ROWS_FIRST = 2_000
_ROWS_MIN = 100
_ROWS_MAX = 20_000


class Maintenance:
    """Begins a round every few seconds, and goes on with it in every turn until nothing is left to do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._journal = context.journal
        self._next_s = 0.0
        self._begun_s = self._context.now_s()
        self._pruned_to: tuple[int, int] | None = None
        self._forgotten_to: int | None = None
        self._rows_max = _ROWS_FIRST
        self._unfinished = True
        """Requests or buffers are left to look at in this round."""

    def next_due_in_s(self) -> float:
        """Seconds until the next round."""
        busy = self._unfinished or self._journal.buffers.may_clear
        return 0.0 if busy else self._next_s - self._context.now_s()

    def keep(self) -> None:
        """Inside a commit. Whatever a refused commit forgets is done again in a later round."""
        if self._context.now_s() >= self._next_s:
            self._next_s = self._context.now_s() + self._context.config.housekeeping_s
            self._begin_round()
        if self._unfinished:
            self._unfinished = self._go_on()
        if self._journal.buffers.may_clear:
            self._clear()

    def _begin_round(self) -> None:
        now_ms, timeout_ms = self._journal.now_ms, self._context.config.receiving_timeout_ms
        if (self._context.now_s() - self._begun_s) * 1000 >= timeout_ms:
            # Not sooner after a start: while nobody served, no client could come back.
            self._give_up_stale(now_ms - timeout_ms)
        note_low_water(self._context)
        if self._context.config.retain_ms is not None and self._pruned_to is None:
            self._pruned_to = (0, 0)
        if self._context.config.retain_ms is not None and self._forgotten_to is None:
            self._forgotten_to = 0
        self._unfinished = True
        self._journal.buffers.may_clear = True

    def _give_up_stale(self, before_ms: int) -> None:
        """Drop buffers whose clients are gone and have not sent anything since a time."""
        current = {arriving.buffer_seq for arriving in self._context.state.starts.values()}
        for buffer_seq, buffer_id in self._journal.buffers.stale(before_ms):
            if buffer_seq not in current:
                self._journal.buffers.drop(buffer_seq)
                self._context.outbox.log(
                    "buffer given up", buffer=buffer_id, reason="its client has vanished"
                )

    def _go_on(self) -> bool:
        """A step; whether anything is left."""
        now_ms, retain_ms = self._journal.now_ms, self._context.config.retain_ms
        left = self._journal.forget_requests(now_ms - REQUESTS_KEPT_MS, _ROWS_FIRST)
        if self._pruned_to is not None and retain_ms is not None:
            _, self._pruned_to = self._journal.buffers.prune(now_ms - retain_ms, self._pruned_to)
            left = left or self._pruned_to is not None
        if self._forgotten_to is not None and retain_ms is not None:
            self._forgotten_to = self._journal.messages.forget_ended(now_ms - retain_ms, self._forgotten_to)
            left = left or self._forgotten_to is not None
        return left

    def _clear(self) -> None:
        """Delete rows for about `_STEP_NS`. How many take that long depends on their payloads."""
        begun_ns = self._context.ports.clock.monotonic_ns()
        for _ in range(_STEPS_MAX):
            step_ns = self._context.ports.clock.monotonic_ns()
            cleared = self._journal.buffers.clear_some(self._rows_max)
            if cleared is None:
                return
            now_ns = self._context.ports.clock.monotonic_ns()
            if now_ns - step_ns > _STEP_NS:
                self._rows_max = max(_ROWS_MIN, self._rows_max // 2)
            elif now_ns - step_ns < _STEP_NS // 4 and cleared >= self._rows_max:
                self._rows_max = min(_ROWS_MAX, self._rows_max * 2)
            if now_ns - begun_ns > _STEP_NS:
                return
