"""Async handlers, and a sync one beside them."""

import asyncio
import contextlib
import inspect
import os
import sys
import time

from apps import plain
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
    while text.startswith("hold the loop until ") and not os.path.exists(text.split()[-1]):
        time.sleep(0.005)
    while text.startswith("/") and not os.path.exists(text):
        await asyncio.sleep(0.005)
    return f"{os.getpid()}"


bus.listener("sync-gate")(plain.gate)


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
    if text.startswith("block after "):
        while not os.path.exists(text.removeprefix("block after ")):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        time.sleep(60)
    return f"{os.getpid()}"


@bus.listener("second-time", timeout=2)
async def second_time(text: str, metadata: HandlerMetadata) -> str:
    """Waits for a file, and then for its worker to be blocked; the file tells the second run that it is."""
    if os.path.exists(text):
        return text
    log_run(metadata.index)
    while True:
        await asyncio.sleep(0.01)


async def _sleep_whatever_comes(seconds: float) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(seconds)


@bus.listener("one-at-a-time", timeout=0.2, concurrency=1)
async def one_at_a_time(text: str) -> str:
    if text == "swallow":
        await _sleep_whatever_comes(10)
    if text == "swallow busily":
        await _sleep_whatever_comes(0)
    if text == "swallow in a child":
        await asyncio.create_task(_sleep_whatever_comes(10))
    if text == "block when cancelled":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            time.sleep(60)
    return text


@bus.listener("harmful", concurrency=100)
async def harmful(text: str) -> str:
    """Does to the loop what its neighbours must not notice."""
    if text == "cancel all at once":
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    if text == "stop":
        loop.stop()
    if text == "exit in a callback":
        loop.call_soon(sys.exit, 3)
    if text == "exit in a task":
        task = loop.create_task(raising("exit"))
        await asyncio.wait([task])
    if text == "cancel all":
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    if text == "look at yourself":
        task = asyncio.current_task()
        assert task is not None
        return f"{inspect.getcoroutinestate(task.get_coro())} {len(task.get_stack(limit=1))}"
    await asyncio.sleep(0.05)
    return text


@bus.listener("blocking", timeout=0.2, concurrency=100)
async def blocking(text: str, metadata: HandlerMetadata) -> str:
    """Blocks the whole event loop, which nothing inside the worker can end."""
    log_run(metadata.index)
    await asyncio.sleep(0)
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
    log_run(metadata.index)
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
