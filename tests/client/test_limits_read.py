"""Limits and spending, as a client and `durable_bus.open` read them."""

from pathlib import Path

import pytest
from paced_journal import served

import durable_bus
from durable_bus.client.limits import Limit, Spending
from durable_bus.errors import NotFound


def test_limits_are_read_by_name(journal: Path) -> None:
    with served(journal) as paced:
        paced.limit("openai", in_hand=3, not_begun=1, by_hand=1, rate="100/min", tokens_at=1_900_000_000_000)
        paced.limit("gone", declared=0)
        paced.limit("disk", rate=None, app_rate=None, adaptive=1, allowed=7.9, rests_until=1_900_000_000_000)
    time = "2030-03-17T17:46:40.000Z"
    with durable_bus.open(journal) as opened:
        limits = opened.limits()
    assert list(limits) == ["disk", "openai"]
    assert limits["openai"] == Limit(
        "openai", "100/min", 40, False, 40, 3, 1, None, True, "500/min", 40, time
    )
    assert limits["disk"][:9] == ("disk", None, 40, True, 7, 0, 0, time, False)


def test_spending_is_summed_by_buffer_listener_and_unit(journal: Path) -> None:
    with served(journal) as paced:
        first, second = paced.buffer("first"), paced.buffer("second")
        for index in range(3):
            paced.spend(first, index, "usd", 0.25)
        paced.spend(first, 4, "tokens", 812)
        paced.spend(second, 0, "usd", 1, listener="other")
        paced.buffer("free")
    of_first = [Spending("first", "work", "tokens", 812.0, 1), Spending("first", "work", "usd", 0.75, 3)]
    with durable_bus.open(journal) as opened:
        assert opened.spending() == [*of_first, Spending("second", "other", "usd", 1.0, 1)]
        assert opened.spending("first") == of_first
        assert opened.spending("free") == []
        with pytest.raises(NotFound):
            opened.spending("nobody")
