"""The app of the soak: listeners that are quick, slow, wrong, deadly, or ask others."""

import asyncio
import os
import time

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Text

bus = Bus("soak")


@bus.listener("echo", attempts=3)
def echo(text: str) -> Text:
    return Text(text)


@bus.listener("nap")
def nap(text: str) -> Text:
    time.sleep(int(text.split()[0]) / 1000)
    return Text(text)


@bus.listener("doze", concurrency=20)
async def doze(text: str) -> Text:
    await asyncio.sleep(int(text.split()[0]) / 1000)
    return Text(text)


@bus.listener("refuse", attempts=2)
def refuse(text: str) -> Text:
    raise ValueError(text)


@bus.listener("poison")
def poison(text: str) -> Text:
    os._exit(9)


@bus.listener("relay")
def relay(text: str, metadata: HandlerMetadata) -> HandlerResponse | Text:
    """Has echo answer, and passes that on."""
    return Text(text) if metadata.from_id == "echo" else HandlerResponse(Text(text), to="echo")


@bus.listener("fan")
def fan(text: str, metadata: HandlerMetadata) -> HandlerResponse | Text:
    """Answers, by a fan-out of its own, how many of three have succeeded."""
    if text.startswith("<BufferComplete"):
        return Text(text.partition("<successful>")[2].partition("<")[0])
    if text.startswith("<"):
        return Text("refused")
    items = [Text(f"{text}/{number}") for number in range(3)]
    return HandlerResponse(BufferStart("echo", items, return_to="fan"), to="system.buffer")
