"""The terms of a start: what may be said, what is refused, and what becomes of it."""

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from durable_bus.client.terms import amounts_of, terms_of
from durable_bus.errors import UsageError
from durable_bus.wire.parts import Terms


def test_what_is_all_as_by_default_is_not_sent() -> None:
    assert terms_of() is None
    assert terms_of(priority=0, budget={}) is None


def test_each_option_is_its_field() -> None:
    given: dict[str, Any] = {"priority": -10, "not_before": 1_800_000_000.0005, "deadline": 1.5}
    assert terms_of(**given, enough=1, max_failures=1 << 32, budget={"usd": 0.5, "tokens": 3}) == Terms(
        priority=-10,
        not_before_ms=1_800_000_000_001,  # nothing may start before, not even half a millisecond
        deadline_ms=1500,
        enough=1,
        max_failures=1 << 32,
        budget={"usd": 0.5, "tokens": 3.0},
    )


def test_a_datetime_without_a_zone_is_local() -> None:
    local = datetime(2027, 1, 31, 3)
    assert terms_of(not_before=local) == terms_of(not_before=local.astimezone(timezone(timedelta(hours=9))))
    assert terms_of(not_before=local) == Terms(not_before_ms=round(local.timestamp() * 1000))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("priority", [11, -11, 1.0, True, "1", None]),
        ("not_before", [-1, math.nan, math.inf, True, "2027-01-31", 1e15, datetime.min]),
        ("deadline", [0, -1, math.nan, math.inf, True, "5", timedelta(seconds=5)]),
        ("enough", [0, -1, 1.5, True, "5", (1 << 32) + 1]),
        ("max_failures", [0, -1, 1.5, True, "5", (1 << 32) + 1]),
        ("budget", [5, ["usd"], {"usd": 0}, {"usd": -1}, {"usd": math.nan}, {"usd": True}, {"usd": "5"}]),
        ("budget", [{"": 1}, {"a b": 1}, {1: 1}, {"usd": 1, "a-b": 1}, {"u" * 51: 1}, {"usd": math.inf}]),
    ],
)
def test_what_is_refused_names_its_option(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=option):
            terms_of(**{option: value})


def test_an_amount_is_a_float_by_its_unit() -> None:
    assert amounts_of(None) == {}
    assert amounts_of({"usd": 5}) == {"usd": 5.0}
