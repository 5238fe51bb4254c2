"""Buffers within buffers: each item of a level starts a buffer of the next, the innermost say a number."""

import time

from durable_bus import BufferComplete, BufferStart, Bus, HandlerMetadata, HandlerResponse, Text

bus = Bus("counting")


@bus.listener("count")
def count(text: str) -> HandlerResponse | Text:
    """`depth width ms number`: the number at depth 0, after `ms`; else those of the `width` items within."""
    depth, width, ms, number = map(int, text.split())
    if depth == 0:
        time.sleep(ms / 1000)
        return Text(str(number))
    items = [f"{depth - 1} {width} {ms} {number * width + index}" for index in range(width)]
    return HandlerResponse(BufferStart("count", items, return_to="join"), to="system.buffer")


@bus.listener("join")
def join(complete: BufferComplete, metadata: HandlerMetadata) -> Text:
    results = list(metadata.results())
    assert [result.index for result in results] == list(range(complete.total))
    assert all(result.success for result in results), results
    return Text(",".join(result.payload for result in results))
