"""What a handler spends: amounts by unit, as `HandlerMetadata.spend` is given them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final, TypeGuard

from durable_bus.errors import UsageError

__all__ = ["UNIT_CHARS_MAX", "checked_amounts", "is_unit"]

UNIT_CHARS_MAX: Final = 50
"""Longest name of a unit, in characters."""


def is_unit(name: object) -> TypeGuard[str]:
    """Whether amounts may be of it, as `usd` and `tokens`: a short identifier."""
    return isinstance(name, str) and name.isidentifier() and len(name) <= UNIT_CHARS_MAX


def checked_amounts(amounts: Mapping[str, object], where: str) -> dict[str, float]:
    """The amounts as they are journaled: by unit, an identifier, a finite number that is not below 0.

    Raises UsageError, which begins with `where`, for anything else, and for none.
    """
    if not amounts:
        raise UsageError(f"{where}: nothing is given: say how much of what, such as usd=0.002")
    checked: dict[str, float] = {}
    for unit, amount in amounts.items():
        if not is_unit(unit):
            raise UsageError(
                f"{where}: unit {unit!r:.100} is no Python identifier of at most {UNIT_CHARS_MAX} characters"
            )
        if (
            not isinstance(amount, (int, float))
            or isinstance(amount, bool)
            or not 0 <= amount <= sys.float_info.max
        ):
            raise UsageError(f"{where}: {unit}={amount!r:.100} is not a finite number of at least 0")
        checked[unit] = float(amount)
    return checked
