"""The listeners of `pacing`, with coroutines; each runs one item at a time, `pool` two."""

import asyncio
import os
from typing import Any

from durable_bus import Bus, HandlerMetadata, RetryAfter

from . import pacing
from .pacing import Steps, declare_limits, elsewhere, gates

bus = declare_limits(Bus("pacing"))


@bus.listener("ask", limits=["api", "disk"], concurrency=1)
async def ask(steps: Steps, metadata: HandlerMetadata) -> str:
    for gate in gates(steps, metadata):
        while not os.path.exists(gate):
            await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    return "done"


@bus.listener("pool", limits=["api"], concurrency=2)
async def pool(steps: Steps, metadata: HandlerMetadata) -> str:
    return await ask(steps, metadata)


@bus.listener("store", limits=["disk"], concurrency=1)
async def store(steps: Steps, metadata: HandlerMetadata) -> str:
    return await ask(steps, metadata)


@bus.listener("free", concurrency=1)
async def free(steps: Steps, metadata: HandlerMetadata) -> str:
    return await ask(steps, metadata)


@bus.listener("picky", attempts=3, retry_on=(OSError, KeyError), concurrency=1)
async def picky(steps: Steps, metadata: HandlerMetadata) -> Any:
    await ask(steps, metadata)
    return {1, 2} if steps == [["answer a set"]] else None


@bus.listener("impatient", timeout=0.5, attempts=2, retry_on=KeyError, concurrency=1)
async def impatient(steps: Steps, metadata: HandlerMetadata) -> str:
    return await ask(steps, metadata)


@bus.listener("elsewhere")
async def spends_elsewhere(text: str, metadata: HandlerMetadata) -> list[str]:
    return elsewhere(metadata)


@bus.listener("bare", limits=["api"], concurrency=1)
async def bare(text: str) -> str:
    if text == "after":
        raise RetryAfter(3600, "api")
    return text


bus.listener("sync", limits=["api"])(pacing.ask)
