"""Ages as people write them: 30d, 12h, 90m, 45s."""

from __future__ import annotations

import re

import click

__all__ = ["age_ms"]

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def age_ms(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Such as 30d, 12h, 90m or 45s, as milliseconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age such as 30d, 12h, 90m or 45s")
    return int(match[1]) * _UNITS_MS[match[2]]
