"""Limits: how often, and how many at once, something may start. Functions of values, and nothing else.

A limit with a rate is a bucket of tokens (https://en.wikipedia.org/wiki/Token_bucket), which holds what half
a second brings, at least one (`rates.burst`). What begins takes a token. What was handed out and has not
begun reserves one. So in no window of T seconds more begin than rate times T and one bucketful, however late
a worker begins what it holds, and nothing needs to be known of the exact moments.

A limit that is adaptive allows fewer at once than `running` says: a fifth less each time that the other side
says it is too many, at most once a second, and more as long as all that is allowed is made use of and nobody
says that. How much more is what CUBIC does (RFC 9438): fast while it is far below what was too many, slowly
near that, and then faster and faster, as what was too many may not be any more.
"""

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from durable_bus.payloads.rates import refilled, starts_per_s
from durable_bus.payloads.settings import LimitSettings

__all__ = [
    "GATHER_S",
    "Held",
    "Limit",
    "charged",
    "free",
    "free_in_s",
    "grown",
    "restarted",
    "rested",
    "slower",
]

GATHER_S = 0.02
"""A limit hands out what has come together in so long: a dispatch for each token costs a commit each."""
_SLOWER = 0.8
_SLOWER_EVERY_S = 1.0
_GROW_EVERY_S = 0.25
_BACK_STEPS = 8
"""So many steps, two seconds, lead from a fifth less back to what was too many, two more to a fifth more, and
another one and a half to twice as many. A line that takes as long to double has a tenth of what the other
side takes unused, this one a twentieth.
"""
_ALMOST = 1e-6
"""Sums of seconds are a little off; a token is there when all but so much of it is."""


class Limit(msgspec.Struct, frozen=True):
    """A limit as it is now. All times are monotonic, in seconds."""

    settings: LimitSettings
    """As the app says it."""
    rate: str | None
    """What counts: as the app says it, or as it was set by hand."""
    running: int | None
    declared: bool = True
    """The app has it. What was set by hand is kept also when it has not."""
    by_hand: bool = False
    tokens: float = 0.0
    """At `at_s`."""
    at_s: float = 0.0
    allowed: float | None = None
    """How many at once, where it is adaptive."""
    too_many: float | None = None
    """How many were too many; None: that is not known, it begins from what is allowed."""
    steps: int = _BACK_STEPS
    """How often it has grown since then."""
    rests_until_s: float = 0.0
    rests_until_ms: int = 0
    """The same by the wall clock, for whoever reads the journal."""
    handed_out_s: float = 0.0
    """When something was handed out last."""
    slowed_s: float = 0.0
    grown_s: float = 0.0
    has_succeeded: bool = False
    """Since it has grown."""
    written: tuple[int, int] = (0, 0)
    """How many were in hand, and not begun, when it was written to the journal last."""
    begun: int = 0
    """How many have begun since then."""
    unwritten: bool = False
    """It rests, or allows fewer, and the journal does not say so yet."""

    def is_covered(self, held: "Held") -> bool:
        """The journal says enough for a start that comes now: whatever has begun since it was written, or
        may begin still, was not begun by then.
        """
        in_hand, not_begun = self.written
        return not self.unwritten and held.in_hand == in_hand and self.begun + held.not_begun <= not_begun

    @property
    def per_s(self) -> float | None:
        return None if self.rate is None else starts_per_s(self.rate)

    @property
    def most(self) -> int | None:
        """How many at once; None: any number."""
        return self.running if self.allowed is None else max(1, int(self.allowed))

    def tokens_now(self, now_s: float) -> float:
        per_s = self.per_s
        return 0.0 if per_s is None else refilled(self.tokens, per_s, now_s - self.at_s)


class Held(NamedTuple):
    """How much workers hold under a limit."""

    in_hand: int = 0
    not_begun: int = 0


def charged(limit: Limit, begun: int, now_s: float) -> Limit:
    """So many have begun since the last look."""
    return replace(limit, tokens=limit.tokens_now(now_s) - begun, at_s=now_s, begun=limit.begun + begun)


def restarted(limit: Limit, tokens: float, not_begun: int, elapsed_s: float, now_s: float) -> Limit:
    """A limit of an earlier run, `elapsed_s` after it was written. Of what was not begun by then nobody knows
    when it began: it may have been at the very end.
    """
    per_s = limit.per_s
    if per_s is None:
        return replace(limit, at_s=now_s)
    return replace(limit, tokens=refilled(tokens, per_s, elapsed_s) - not_begun, at_s=now_s)


def free(limit: Limit, held: Held, now_s: float) -> int | None:
    """How many may be handed out now, 0 or more; None: as many as one likes."""
    if now_s < limit.rests_until_s:
        return 0
    most = limit.most
    frees: list[int] = [] if most is None else [most - held.in_hand]
    per_s = limit.per_s
    if per_s is not None:
        tokens = int(limit.tokens_now(now_s) - held.not_begun + _ALMOST)
        gathers = now_s - limit.handed_out_s < GATHER_S
        frees.append(0 if gathers and tokens < per_s * GATHER_S else tokens)
    return max(0, min(frees)) if frees else None


def free_in_s(limit: Limit, held: Held, now_s: float) -> float | None:
    """In how many seconds something may be handed out that may not now, as far as that is a matter of time;
    None: it is not.
    """
    per_s, waits_s = limit.per_s, [limit.rests_until_s - now_s]
    most = limit.most
    if most is not None and held.in_hand >= most:
        return None
    if per_s is not None:
        missing = 1 - (limit.tokens_now(now_s) - held.not_begun)
        waits_s.append(missing / per_s)
        if per_s * GATHER_S > 1:
            waits_s.append(limit.handed_out_s + GATHER_S - now_s)
    return max(0.0, *waits_s)


def rested(limit: Limit, seconds: float, now_s: float, now_ms: int) -> Limit:
    """Nothing starts for so long."""
    until_s = max(limit.rests_until_s, now_s + seconds)
    until_ms = max(limit.rests_until_ms, now_ms + int(1000 * seconds))
    return replace(limit, rests_until_s=until_s, rests_until_ms=until_ms, unwritten=True)


def slower(limit: Limit, now_s: float) -> Limit:
    """The other side says that it is too much: it does not grow now, and is less than it was at most once a
    second.
    """
    if limit.allowed is None:
        return limit
    if now_s - limit.slowed_s < _SLOWER_EVERY_S:
        return replace(limit, grown_s=now_s, has_succeeded=False)
    return replace(
        limit,
        allowed=max(1.0, limit.allowed * _SLOWER),
        too_many=limit.allowed,
        steps=0,
        slowed_s=now_s,
        grown_s=now_s,
        has_succeeded=False,
        unwritten=True,
    )


def grown(limit: Limit, held: Held, now_s: float) -> Limit:
    """All that is allowed is made use of, and things succeed: more is allowed."""
    if limit.allowed is None or limit.running is None or not limit.has_succeeded:
        return limit
    if now_s - limit.grown_s < _GROW_EVERY_S or held.in_hand < int(limit.allowed):
        return limit
    if limit.allowed >= limit.running:
        return limit
    too_many, steps = limit.too_many or limit.allowed, limit.steps + 1
    share = 1 + (1 - _SLOWER) * (steps / _BACK_STEPS - 1) ** 3
    allowed = min(float(limit.running), max(limit.allowed, too_many * share))
    return replace(limit, allowed=allowed, too_many=too_many, steps=steps, grown_s=now_s, has_succeeded=False)
