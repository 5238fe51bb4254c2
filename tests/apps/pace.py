"""An app with limits. Its handlers note when they began in a file beside the journal, a line a start."""

import asyncio
import os
import time
from pathlib import Path

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, RetryAfter

bus = Bus("pace", form="json")
bus.limit("often", rate="100/s")
bus.limit("few", running=3)
bus.limit("rare", rate="1/h")
bus.limit("rests", rate="1000/s")
bus.limit("steady", running=20, adaptive=True)


def noted(what: str) -> None:
    """A line of what began: the clock, and a word."""
    with open(os.environ["PACE_STARTS"], "a") as starts:
        starts.write(f"{time.monotonic_ns()} {what}\n")


@bus.listener("often", limits=["often"])
def often(number: int) -> int:
    noted("often")
    return number


@bus.listener("also", limits=["often"])
async def also(number: int) -> int:
    noted("also")
    await asyncio.sleep(0.001)
    return number


@bus.listener("few", limits=["few"])
async def few(number: int) -> list[int]:
    began = time.monotonic_ns()
    await asyncio.sleep(0.02)
    return [began, time.monotonic_ns()]


@bus.listener("rare", limits=["rare"])
def rare(number: int) -> int:
    noted(f"rare {number}")
    return number


@bus.listener("free")
def free(number: int) -> int:
    return number


@bus.listener("slow")
def slow(number: int) -> int:
    noted(f"slow {number}")
    time.sleep(0.002)
    return number


@bus.listener("returns", limits=["rests"])
def returns(seconds: float, metadata: HandlerMetadata) -> int:
    """Comes back once when it is told for how long, and then answers."""
    noted("returns")
    if seconds and metadata.attempt == 1:
        raise RetryAfter(seconds, limit="rests", message="too many")
    return metadata.attempt


@bus.listener("spends", attempts=2)
def spends(amount: float, metadata: HandlerMetadata) -> float:
    metadata.spend(usd=amount, calls=1)
    if amount > 1 and metadata.attempt == 1:
        raise ValueError("the first attempt is paid for, too")
    return amount


@bus.listener("spreads")
def spreads(count: int) -> HandlerResponse:
    """Starts a buffer of its own, whose items spend."""
    return HandlerResponse(BufferStart("spends", [0.5] * count, buffer_id="inner"), to="system.buffer")


@bus.listener("fails")
def fails(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


@bus.listener("asks", memo=os.environ.get("PACE_MEMO", "v1"))
def asks(question: dict[str, int]) -> str:
    noted("asks")
    gate = Path(os.environ["PACE_STARTS"] + ".gate")
    while question.get("waits") and not gate.exists():
        time.sleep(0.01)
    if question.get("fails"):
        raise ValueError("no answer")
    return f"answer {question['n']}"


@bus.listener("waits", limits=["steady"])
async def waits(number: int) -> int:
    """Says that more than ten at once are too many."""
    waits.running += 1
    try:
        if waits.running > 10:
            raise RetryAfter(0.01, limit="steady")
        await asyncio.sleep(0.01)
        return waits.running
    finally:
        waits.running -= 1


waits.running = 0
