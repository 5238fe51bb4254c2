"""Limits of a bus, and the options that go by time: what may be declared."""

from __future__ import annotations

from typing import Any

import pytest

from durable_bus import Bus
from durable_bus.errors import UsageError
from durable_bus.payloads.settings import LimitSettings


@pytest.fixture
def bus() -> Bus:
    return Bus("test")


def work(payload: str) -> None: ...


def test_a_limit_is_what_its_options_say(bus: Bus) -> None:
    bus.limit("openai", rate="500/min", running=40, adaptive=True)
    bus.limit("files", running=1)
    bus.limit("page.views", rate="3/15 min")
    assert bus.limits == {
        "openai": LimitSettings("openai", "500/min", 40, True),
        "files": LimitSettings("files", None, 1, False),
        "page.views": LimitSettings("page.views", "3/15 min", None, False),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "it limits nothing"),
        ({"adaptive": True}, "it limits nothing"),
        ({"rate": "500/min", "adaptive": True}, "adaptive=True needs running"),
        ({"rate": "many"}, "rate 'many' is not written as"),
        ({"rate": 500}, "rate 500 is not written as"),
        ({"rate": "0/s"}, "not from one a year to a million a second"),
        ({"running": 0}, "running=0 is not a whole number"),
        ({"running": True}, "running=True is not a whole number"),
        ({"running": 2.5}, "running=2.5 is not a whole number"),
        ({"running": (1 << 32) + 1}, "is not a whole number from 1 to 4294967296"),
    ],
)
def test_what_cannot_be_is_refused_and_not_declared(bus: Bus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"limit openai: .*{message}"):
        bus.limit("openai", **options)
    assert bus.limits == {}


@pytest.mark.parametrize("name", ["", "a b", "system.other", None, 3])
def test_a_limit_with_a_bad_name_is_refused(bus: Bus, name: Any) -> None:
    with pytest.raises(UsageError, match="limit name"):
        bus.limit(name, running=1)


def test_a_limit_declared_twice_is_refused(bus: Bus) -> None:
    bus.limit("openai", running=1)
    with pytest.raises(UsageError, match="limit openai is declared twice"):
        bus.limit("openai", running=2)
    assert bus.limits["openai"].running == 1


def test_a_limit_may_be_declared_below_its_listener(bus: Bus) -> None:
    bus.listener("work", limits=["openai"])(work)
    bus.limit("openai", running=1)
    assert bus.settings()["work"].limits == ("openai",)


def test_a_limit_that_nobody_declares_is_an_error_at_boot(bus: Bus) -> None:
    bus.listener("work", limits=["openai"])(work)
    with pytest.raises(UsageError, match="listener work: no limit is called openai; there is none"):
        bus.settings()
    bus.limit("openia", running=1)
    bus.limit("files", running=1)
    with pytest.raises(UsageError, match="no limit is called openai; there are openia, files"):
        bus.settings()


def test_every_worker_reports_the_same_whatever_the_order_of_a_set(bus: Bus) -> None:
    names = [f"l{number}" for number in range(20)]
    for name in names:
        bus.limit(name, running=1)
    bus.listener("set", limits={*names})(work)
    bus.listener("tuple", limits=("l2", "l1", "l2"))(work)
    settings = bus.settings()
    assert settings["set"].limits == tuple(sorted(names))
    assert settings["tuple"].limits == ("l2", "l1")


def test_the_settings_carry_the_options(bus: Bus) -> None:
    bus.listener("work", backoff_max=60, jitter=1, memo="v1", retry_on=KeyError)(work)
    bus.listener("other", retry_on=(OSError, KeyError), jitter=0.5)(work)
    settings = bus.settings()
    assert (settings["work"].backoff_max_s, settings["work"].jitter, settings["work"].memo) == (
        60.0,
        1.0,
        "v1",
    )
    assert (settings["other"].backoff_max_s, settings["other"].jitter, settings["other"].memo) == (
        None, 0.5, None,
    )  # fmt: skip
    assert bus.listeners["work"].retry_on == (KeyError,)
    assert bus.listeners["other"].retry_on == (OSError, KeyError)


@pytest.mark.parametrize(
    "options",
    [
        {"limits": "openai"},
        {"limits": None},
        {"limits": ["a b"]},
        {"limits": [3]},
        {"retry_on": "KeyError"},
        {"retry_on": [KeyError]},
        {"retry_on": int},
        {"retry_on": (KeyError, "x")},
        {"retry_on": KeyError("x")},
        {"backoff_max": 0},
        {"backoff_max": "60"},
        {"backoff_max": float("nan")},
        {"backoff_max": 10**400},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"jitter": True},
        {"jitter": None},
        {"jitter": float("nan")},
        {"memo": ""},
        {"memo": "x" * 101},
        {"memo": 1},
        {"memo": True},
        {"memo": "\udcff"},
        {"memo": "a\0"},
    ],
)
def test_an_option_of_a_wrong_kind_is_refused_by_name(bus: Bus, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"listener work: (.*{next(iter(options))[:5]})"):
        bus.listener("work", **options)
    assert bus.listeners == {}
