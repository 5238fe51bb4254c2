"""The terms of a start, as a user says them: checked, and made what the frame has."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from durable_bus.errors import UsageError
from durable_bus.payloads.amounts import is_unit
from durable_bus.wire.parts import DEADLINE_S_MAX, LAST_S, Terms

__all__ = ["amounts_of", "terms_of", "whole_number"]

_COUNT_MAX: Final = 1 << 32


def terms_of(
    *,
    priority: int = 0,
    not_before: datetime | float | None = None,
    deadline: float | None = None,
    enough: int | None = None,
    max_failures: int | None = None,
    budget: Mapping[str, float] | None = None,
) -> Terms | None:
    """What `Client.start` is given; None when it is all as by default. Raises UsageError, which names the
    option.
    """
    terms = Terms(
        priority=whole_number("priority", priority, -10, 10),
        not_before_ms=None if not_before is None else _time_ms(not_before),
        deadline_ms=None if deadline is None else _deadline_ms(deadline),
        enough=None if enough is None else whole_number("enough", enough),
        max_failures=None if max_failures is None else whole_number("max_failures", max_failures),
        budget=amounts_of(budget),
    )
    return None if terms == Terms() else terms


def amounts_of(budget: Mapping[str, float] | None) -> dict[str, float]:
    """A budget, or what is added to one: how much, by unit. Raises UsageError."""
    if budget is None:
        return {}
    if not isinstance(budget, Mapping):
        raise UsageError(f'budget={budget!r:.100} is no dict such as {{"usd": 5}}')
    for unit, amount in budget.items():
        if not is_unit(unit):
            raise UsageError(f"budget: {unit!r:.100} is no unit: a name such as usd or tokens")
        if not _is_number(amount) or amount <= 0:
            raise UsageError(f"budget: {amount!r:.100} {unit:.100} is no number above 0")
    return {unit: float(amount) for unit, amount in budget.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(option: str, value: int, least: int = 1, most: int = _COUNT_MAX) -> int:
    """Raises UsageError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{option}={value!r:.100} is not a whole number from {least:,} to {most:,}")
    return value


def _time_ms(not_before: datetime | float) -> int:
    """A time without a zone is local. To the next millisecond, so that nothing starts before it."""
    seconds: object = not_before
    if isinstance(not_before, datetime):
        try:
            seconds = not_before.timestamp()
        except (OverflowError, OSError, ValueError):
            seconds = None
    if not isinstance(seconds, (int, float)) or not _is_number(seconds) or not 0 <= seconds <= LAST_S:
        what = "a datetime, or seconds since the epoch, up to the year 9999"
        raise UsageError(f"not_before={not_before!r:.100} is not {what}")
    return math.ceil(seconds * 1000)


def _deadline_ms(deadline: float) -> int:
    if not _is_number(deadline) or not 0 < deadline <= DEADLINE_S_MAX:
        raise UsageError(f"deadline={deadline!r:.100} is not a number of seconds above 0, up to 100 years")
    return math.ceil(deadline * 1000)
