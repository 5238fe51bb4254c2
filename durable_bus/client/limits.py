"""Limits, and what was spent, as they are read from a journal."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from durable_bus.client.terms import whole_number
from durable_bus.errors import UsageError
from durable_bus.payloads.rates import starts_per_s

__all__ = ["Limit", "LimitSetting", "Spending", "check_change", "limits_of"]


class Limit(NamedTuple):
    """A limit of the app, from the view `limits`: as its supervisor has last written it.

    - `rate`: such as "500/min"; None: as often as one likes.
    - `running`: how many at once; None: any number. `allowed`: how many now, where it is `adaptive`.
    - `in_hand`: handed out and not answered; `not_begun`: those of them that were not begun either.
    - `rests_until`: nothing starts before, such as "2026-11-26T03:00:00.000Z"; None: it has never rested.
    - `by_hand`: `rate` and `running` were set while it ran, until it is reset; the app says `app_rate` and
      `app_running`.
    - `as_of`: when that was written.
    """

    name: str
    rate: str | None
    running: int | None
    adaptive: bool
    allowed: int | None
    in_hand: int
    not_begun: int
    rests_until: str | None
    by_hand: bool
    app_rate: str | None
    app_running: int | None
    as_of: str


class LimitSetting(NamedTuple):
    """What `Client.set_limit` has made of a limit. `by_hand`: until it is reset."""

    name: str
    rate: str | None
    running: int | None
    by_hand: bool


class Spending(NamedTuple):
    """What handlers have said that they spend: all of a buffer's, of one listener and in one unit.

    `buffer_id`: None for what messages have spent that belong to no buffer. `times`: so often they said so.
    """

    buffer_id: str | None
    listener: str
    unit: str
    amount: float
    times: int


def check_change(rate: str | None, running: int | None, reset: bool) -> None:
    """Raises UsageError for what no limit may be changed to."""
    if rate is not None:
        starts_per_s(rate)
    if running is not None:
        whole_number("running", running)
    if reset and (rate is not None or running is not None):
        raise UsageError("reset goes by what the app says: no rate and no running beside it")


def limits_of(rows: Iterable[dict[str, Any]]) -> dict[str, Limit]:
    """Rows of the view `limits`, by name."""
    limits = {}
    for row in rows:
        fields = {name: row[name] for name in Limit._fields}
        flags = {name: bool(row[name]) for name in ("adaptive", "by_hand")}
        limits[str(row["name"])] = Limit(**{**fields, **flags})
    return limits
