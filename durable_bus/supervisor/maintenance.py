"""What is done now and then, in small steps that no turn notices: retention, and what clients left behind."""

from durable_bus.journal.journal import Journal
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.scheduling.begun import note_low_water

__all__ = ["Maintenance", "retain"]

REQUESTS_KEPT_MS = 24 * 3600 * 1000
"""For how long a request that is repeated is answered from the journal."""
_REQUESTS_MAX = 2_000
_STEP_NS = 10_000_000
"""How long one turn may spend on deleting."""
_STEPS_MAX = 50
_ROWS_MAX = 200
"""How many items go at once: 0.3 ms; 1.2 ms when they have 10,000 bytes each."""


def retain(journal: Journal, before_ms: int, after: list[int]) -> tuple[int, list[int] | None]:
    """Mark buffers that ended before a time, with nothing unsettled, as pruned, and then drop conversations
    that ended before it: one page of them. The rows of buffers go in later turns.

    `after`: [0, 0], or what the page before says to go on from. How many buffers were marked, and what to go
    on from; None when all were looked at.
    """
    if len(after) == 1:  # a message, and no more a buffer
        last = journal.messages.forget_ended(before_ms, after[0])
        return 0, None if last is None else [last]
    marked, later = journal.buffers.prune(before_ms, (after[0], after[1]))
    return marked, [0] if later is None else [*later]


class Maintenance:
    """Begins a round every few seconds, and goes on with it in every turn until nothing is left to do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._journal = context.journal
        self._next_s = 0.0
        self._begun_s = context.now_s()
        self._requests_left = True
        self._retain_after: list[int] | None = None
        """Where retention goes on in this round; None: it is done."""

    def due_s(self) -> float:
        """When there is something to do, monotonic."""
        left = self._requests_left or self._retain_after is not None or self._journal.buffers.may_clear
        return 0.0 if left else self._next_s

    def keep(self) -> None:
        """Inside a commit. Whatever a refused commit forgets is done again in a later round."""
        now_ms, retain_ms = self._journal.now_ms, self._context.config.retain_ms
        if self._context.now_s() >= self._next_s:
            self._begin_round(now_ms)
        if self._requests_left:
            self._requests_left = self._journal.forget_requests(now_ms - REQUESTS_KEPT_MS, _REQUESTS_MAX)
        if self._retain_after is not None and retain_ms is not None:
            _, self._retain_after = retain(self._journal, now_ms - retain_ms, self._retain_after)
        if self._journal.buffers.may_clear:
            self._clear()

    def _begin_round(self, now_ms: int) -> None:
        now_s, config = self._context.now_s(), self._context.config
        self._next_s = now_s + config.housekeeping_s
        if (now_s - self._begun_s) * 1000 >= config.receiving_timeout_ms:
            # Not sooner after a start: while nobody served, no client could come back.
            self._give_up_stale(now_ms - config.receiving_timeout_ms)
        note_low_water(self._context)
        if config.retain_ms is not None and self._retain_after is None:
            self._retain_after = [0, 0]
        self._requests_left = True
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

    def _clear(self) -> None:
        """Delete rows for about `_STEP_NS`."""
        clock = self._context.ports.clock
        end_ns = clock.monotonic_ns() + _STEP_NS
        for _ in range(_STEPS_MAX):
            if self._journal.buffers.clear_some(_ROWS_MAX) is None or clock.monotonic_ns() > end_ns:
                return
