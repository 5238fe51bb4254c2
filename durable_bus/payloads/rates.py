"""How a limit's rate is written: `500/min`, `10/s`, `3 / 15 min`."""

import re
from functools import lru_cache
from typing import Final

from durable_bus.errors import UsageError

__all__ = ["burst", "refilled", "starts_per_s"]

_UNITS: Final = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
}
_RATE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)?\s*([a-z]+)\s*")
_PER_S_MAX: Final = 1_000_000.0
_PER_S_MIN: Final = 1 / (366 * 86400.0)


def burst(per_s: float) -> float:
    """How many may start at once after a pause: what half a second brings, at least one.

    One second's worth would be within the contract of `Bus.limit`. But a service counts calls as they arrive,
    some of them late, and others have caught up with them then: with half, it sees no more than the contract
    says as long as they come within half a second.
    """
    return max(1.0, per_s / 2)


def refilled(tokens: float, per_s: float, elapsed_s: float) -> float:
    """How many tokens a bucket holds that had so many `elapsed_s` ago; below 0, as of a clock that was set
    back, counts as 0.
    """
    return min(burst(per_s), tokens + per_s * max(0.0, elapsed_s))


@lru_cache
def starts_per_s(rate: str) -> float:
    """How many starts a second a rate such as "500/min" allows. Units: s, min, h and day, also written out.

    Raises UsageError for another text, and for less than one a year or more than a million a second.
    """
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    unit = _UNITS.get(found[3]) or _UNITS.get(found[3].removesuffix("s")) if found else None
    if found is None or unit is None:
        raise UsageError(f'rate {rate!r:.100} is not written as "500/min", "10/s", "1000/h" or "3/15 min"')
    seconds = float(found[2] or 1) * unit
    per_s = float(found[1]) / seconds if seconds else 0.0
    if not _PER_S_MIN <= per_s <= _PER_S_MAX:
        raise UsageError(f"rate {rate!r:.100} is not from one a year to a million a second")
    return per_s
