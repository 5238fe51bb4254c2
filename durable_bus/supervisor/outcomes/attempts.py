"""The rule for another attempt, the same for items and messages."""

import zlib

from durable_bus.errors import RETRY_AFTER_S_MAX
from durable_bus.journal.work import Attempts, Failure
from durable_bus.payloads.messages import SECONDS_MAX
from durable_bus.payloads.settings import ListenerSettings

__all__ = [
    "LOST_MAX",
    "LOST_WITH_SUPERVISOR_MAX",
    "RETURNS_MAX",
    "RETURNS_MS_MAX",
    "backoff_ms",
    "next_attempt_at",
]

_BACKOFF_DOUBLINGS_MAX = 30
LOST_MAX = 3
"""How many deaths of its worker an item or message may be charged with; then it has failed as `lost`."""
LOST_WITH_SUPERVISOR_MAX = 5
"""The same for deaths of the whole supervisor: those are more often somebody else's doing."""


RETURNS_MAX = 1_000
RETURNS_MS_MAX = RETRY_AFTER_S_MAX * 1000
"""How often, and how long after the first time, an item or message may come back by RetryAfter."""
_RETURN_STEP_MS = 10
_RETURN_WAIT_MS = 1_000
"""So much longer waits each time, and up to so long, who comes back sooner: RetryAfter(0) would go round as
fast as it can.
"""


def backoff_ms(settings: ListenerSettings, charged: int, who: tuple[int, int]) -> int:
    """How long to wait after so many failed attempts that count: each time twice as long, at most
    `backoff_max`, less a share of it that is as good as random, at most `jitter`.

    `who`: numbers that say whose wait it is. The share comes from a checksum of them, so that the same waits
    come out when a refused commit is made again.
    """
    longest_s = SECONDS_MAX if settings.backoff_max_s is None else settings.backoff_max_s
    wait_s = min(settings.backoff_s * 2 ** min(charged - 1, _BACKOFF_DOUBLINGS_MAX), longest_s, SECONDS_MAX)
    if settings.jitter:
        wait_s *= 1 - settings.jitter * zlib.crc32(f"{who}{charged}".encode()) / 0xFFFFFFFF
    return int(1000 * wait_s)


def next_attempt_at(
    failure: Failure,
    before: Attempts,
    settings: ListenerSettings | None,
    now_ms: int,
    who: tuple[int, int],
) -> int | None:
    """When an attempt follows one that failed, ms since the epoch. 0: at once, alone with a worker.
    None: there is none, it has failed.

    `before`: the failed attempts before this one. `settings`: those of the listener in the newest code;
    without them (today's app lacks the listener) no exception or time-out is retried. `who`: see
    `backoff_ms`.
    """
    if failure.after_s is not None:
        since_ms = now_ms if before.returning_since_ms is None else before.returning_since_ms
        if before.returns + 1 >= RETURNS_MAX or now_ms - since_ms >= RETURNS_MS_MAX:
            return None
        at_least_ms = min((before.returns + 1) * _RETURN_STEP_MS, _RETURN_WAIT_MS)
        return now_ms + max(int(1000 * failure.after_s), at_least_ms)
    if failure.final:
        return None
    if failure.kind in ("exception", "timeout"):
        charged = before.charged + 1
        if settings is not None and charged < settings.attempts:
            return now_ms + backoff_ms(settings, charged, who)
    elif failure.kind == "lost":
        if failure.supervisor_died:
            return 0 if before.lost_with_supervisor + 1 < LOST_WITH_SUPERVISOR_MAX else None
        return 0 if before.lost + 1 < LOST_MAX else None
    return None
