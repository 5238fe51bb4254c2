"""Async handlers, and a sync one beside them."""

import asyncio
import contextlib
import os
import time

from apps.plain import log_run
from apps.unruly import DeadlyToAskError
from durable_bus import Bus, HandlerMetadata

bus = Bus("awaiting")
running: set[int] = set()
most = 0


@bus.listener("together", concurrency=10)
async def together(text: str, metadata: HandlerMetadata) -> str:
    """How many ran at once in this worker, at most, when this one ended."""
    global most
    running.add(metadata.index)
    most = max(most, len(running))
    await asyncio.sleep(0.05)
    running.discard(metadata.index)
    return str(most)


@bus.listener("gate", concurrency=10)
async def gate(text: str, metadata: HandlerMetadata) -> str:
    log_run(metadata.index)
    while text and not os.path.exists(text):
        await asyncio.sleep(0.005)
    return f"{os.getpid()}"


@bus.listener("late", timeout=0.2, concurrency=10)
async def late(text: str, metadata: HandlerMetadata) -> str:
    if text == "late":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log_run(metadata.index, "cancelled")
            raise
    if text == "stubborn":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            return "too late"
    while text.startswith("/") and not os.path.exists(text):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
    return f"{os.getpid()}"


@bus.listener("blocking", timeout=0.2, concurrency=4)
async def blocking(text: str) -> str:
    """Blocks the whole event loop, which nothing inside the worker can end."""
    if text == "block":
        time.sleep(60)
    return text


@bus.listener("raising")
async def raising(text: str) -> str:
    await asyncio.sleep(0)
    if text == "cancel":
        raise asyncio.CancelledError
    if text == "exit":
        raise SystemExit(3)
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "raise":
        raise ValueError("no")
    if text == "exit when asked":
        raise DeadlyToAskError(GeneratorExit())
    if text == "half a surrogate pair":
        raise ValueError("bad name \udcff")
    return text


@bus.listener("killer", concurrency=10)
async def killer(text: str, metadata: HandlerMetadata) -> str:
    """One of them kills its worker, with others running beside it."""
    await asyncio.sleep(0.02)
    if text == "kill":
        os._exit(1)
    return text


@bus.listener("sync")
def sync(text: str) -> str:
    if text == "forget who listens":
        bus.listeners.clear()
    return text


@bus.listener("sync-and-late", timeout=0.5)
def sync_and_late(text: str) -> str:
    """Blocks the loop as any sync handler does, and for longer than it may."""
    if text == "late":
        time.sleep(60)
    return text
