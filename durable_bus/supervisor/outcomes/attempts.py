"""The rule for another attempt, the same for items and messages."""

from durable_bus.journal.work import Attempts, Failure
from durable_bus.payloads.messages import SECONDS_MAX
from durable_bus.payloads.settings import ListenerSettings

__all__ = ["LOST_MAX", "LOST_WITH_SUPERVISOR_MAX", "backoff_ms", "next_attempt_at"]

_BACKOFF_DOUBLINGS_MAX = 30
LOST_MAX = 3
"""How many deaths of its worker an item or message may be charged with; then it has failed as `lost`."""
LOST_WITH_SUPERVISOR_MAX = 5
"""The same for deaths of the whole supervisor: those are more often somebody else's doing."""


def backoff_ms(backoff_s: float, charged: int) -> int:
    """How long to wait after so many failed attempts that count: each time twice as long."""
    return int(1000 * min(backoff_s * 2 ** min(charged - 1, _BACKOFF_DOUBLINGS_MAX), SECONDS_MAX))


def next_attempt_at(
    failure: Failure, before: Attempts, settings: ListenerSettings | None, now_ms: int
) -> int | None:
    """When an attempt follows one that failed, ms since the epoch. 0: at once, alone with a worker.
    None: there is none, it has failed.

    `before`: the failed attempts before this one. `settings`: those of the listener in the newest code;
    without them (today's app lacks the listener) no exception or time-out is retried.
    """
    if failure.kind in ("exception", "timeout"):
        charged = before.charged + 1
        if settings is not None and charged < settings.attempts:
            return now_ms + backoff_ms(settings.backoff_s, charged)
    elif failure.kind == "lost":
        if failure.supervisor_died:
            return 0 if before.lost_with_supervisor + 1 < LOST_WITH_SUPERVISOR_MAX else None
        return 0 if before.lost + 1 < LOST_MAX else None
    return None
