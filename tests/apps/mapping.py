"""Functions for `durable_bus.map`. Those that say so write a line into the file that RUN_LOG names, as
`apps.plain` does, with the item in the place of its index.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from apps.plain import log_run
from durable_bus import map as durable_map


def nap(value: Any) -> Any:
    time.sleep(0.0002)
    return value


def same(value: Any) -> Any:
    return value


async def same_later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def square(number: int) -> int:
    """Logged."""
    log_run(number)
    return number * number


def gate(number: int) -> int:
    """Logged. A number of 1,000 and more returns when the file GATE is there."""
    log_run(number)
    while number >= 1000 and not os.path.exists(os.environ["GATE"]):
        time.sleep(0.005)
    return number


def long_or_gate(number: int) -> str:
    """1 returns when the file GATE is there, all others 2 MB at once."""
    log_run(number)
    while number == 1 and not os.path.exists(os.environ["GATE"]):
        time.sleep(0.005)
    return str(number) * 2_000_000 if number != 1 else "1"


def odd_only(number: int) -> int:
    log_run(number)
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


def third_time(number: int) -> int:
    """Fails twice."""
    log_run(number)
    if sum(1 for line in Path(os.environ["RUN_LOG"]).read_text().splitlines() if f" {number} " in line) < 3:
        raise OSError("not yet")
    return number


def without_pickle(number: int) -> Any:
    return lambda: number


def too_long(number: int) -> str:
    return "x" * (8 * 1024 * 1024 + number)


def sleeping(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def dying(number: int) -> None:
    os._exit(number)


def nested(journal: str) -> list[int]:
    return list(durable_map(square, [1, 2], journal=journal))


def numbers(count: int) -> Any:
    yield from range(count)


class Shapes:
    @staticmethod
    def twice(value: Any) -> Any:
        return value * 2

    def method(self, value: Any) -> Any:
        return value

    @classmethod
    def made(cls, value: Any) -> Any:
        return value


class Boxed:
    """A class in the place of a function."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Boxed and other.value == self.value

    __hash__ = None  # type: ignore[assignment]
