"""The same with async handlers, in a worker with a loop."""

import asyncio

from apps.traced import act, inside
from durable_bus import Bus, HandlerMetadata, Text

bus = Bus("traced_async")


@bus.listener("work", attempts=2, concurrency=3)
async def work(word: str, metadata: HandlerMetadata) -> object:
    await asyncio.sleep(0.01)
    return act(word, metadata.attempt)


@bus.listener("late", timeout=0.05)
async def late(word: str) -> Text:
    if word == "sleep":
        await asyncio.sleep(60)
    return Text(inside(word))


@bus.listener("sync")
def sync(word: str) -> Text:
    """On the loop, between others."""
    return Text(inside(word))
