"""Listeners whose items run on an engine. What each does is told by its item."""

import asyncio
import os
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from durable_bus import BufferComplete, BufferStart, Bus, HandlerMetadata, HandlerResponse, RetryAfter

bus = Bus("elsewhere", form="json", pickle=True)
bus.limit("two", running=2)
bus.limit("rate", rate="1000/s")


def threads() -> Executor:
    """An engine: `apps.elsewhere:threads`."""
    return ThreadPoolExecutor(2)


class Hesitant(ThreadPoolExecutor):
    """Refuses the second call, and the third."""

    calls = 0

    def submit(self, *call: Any, **named: Any) -> "Future[Any]":
        self.calls += 1
        if self.calls in (2, 3):
            raise OSError("not now")
        return super().submit(*call, **named)


def hesitant() -> Executor:
    """An engine: `apps.elsewhere:hesitant`."""
    return Hesitant(1)


def no_executor() -> int:
    return 7


@bus.listener("double")
def double(value: Any) -> Any:
    return value * 2


@bus.listener("late-double", concurrency=10)
async def late_double(number: int) -> int:
    await asyncio.sleep(0.001)
    if number == 13:
        asyncio.get_running_loop().stop()
    return 2 * number


@bus.listener("pid")
def pid(number: int) -> int:
    return os.getpid()


@bus.listener("poison")
def poison(numbers: dict[str, int]) -> int:
    """{"number": 5, "deadly": 5} ends its process."""
    if numbers["number"] == numbers["deadly"]:
        os._exit(9)
    return numbers["number"]


@bus.listener("hangs", timeout=0.2)
def hangs(number: int) -> int:
    if number == 7:
        time.sleep(3600)
    return number


@bus.listener("gate")
def gate(path: str) -> int:
    """Waits for a file."""
    while path and not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


@bus.listener("second-time", attempts=2)
def second_time(number: int, metadata: HandlerMetadata) -> int:
    metadata.spend(calls=1)
    if metadata.attempt == 1:
        raise ValueError("not the first time")
    return metadata.attempt


@bus.listener("rests", limits=["rate"])
def rests(path: str) -> int:
    """Where it gets a path of which there is no file, the limit rests first."""
    if path and not os.path.exists(path):
        Path(path).touch()
        raise RetryAfter(0.2, limit="rate")
    return len(path)


@bus.listener("side-by-side", limits=["two"])
def side_by_side(number: int) -> list[int]:
    begun_ns = time.monotonic_ns()
    time.sleep(0.02)
    return [begun_ns, time.monotonic_ns()]


@bus.listener("remembered", memo="v1")
def remembered(number: int) -> int:
    return os.getpid() + number


@bus.listener("starts")
def starts(number: int) -> HandlerResponse:
    return HandlerResponse(
        BufferStart("double", [number, number], buffer_id=f"of-{number}"), to="system.buffer"
    )


@bus.listener("ends")
def ends(complete: BufferComplete) -> str:
    return f"{os.getpid()} {complete.total}"
