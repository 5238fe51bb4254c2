"""A fan-out inside a fan-out, whose innermost items wait until a test lets them go."""

import os
import time

from durable_bus import BufferStart, Bus, HandlerMetadata, HandlerResponse, Text

bus = Bus("nesting")


@bus.listener("outer")
def outer(text: str, metadata: HandlerMetadata) -> object:
    """`<BufferComplete>` is answered with its numbers, anything else starts a buffer named after it."""
    if text.startswith("<BufferComplete"):
        return Text(text.partition("<successful>")[2].partition("<")[0])
    name, _, door = text.partition(" ")
    return HandlerResponse(
        BufferStart("inner", [Text(door), Text(""), Text("")], return_to="outer", buffer_id=name),
        to="system.buffer",
    )


@bus.listener("inner")
def inner(door: str) -> str:
    while door and not os.path.exists(door):
        time.sleep(0.005)
    return "done"
