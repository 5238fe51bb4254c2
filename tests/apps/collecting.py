"""Answers of a chosen length, and a listener for their completion."""

import hashlib
import os

from durable_bus import BufferComplete, Bus, HandlerMetadata, Text

bus = Bus("collecting")


@bus.listener("fill")
def fill(text: str) -> Text:
    """`number length`: the number, filled up to a length."""
    number, length = map(int, text.split())
    return Text(answer(number, length))


def answer(number: int, length: int) -> str:
    return f"{number}:".ljust(length, "x")


@bus.listener("move")
def move(text: str) -> str:
    """To another folder, with all of its process."""
    os.chdir(text)
    return text


@bus.listener("digest")
def digest(complete: BufferComplete, metadata: HandlerMetadata) -> Text:
    """What came inline and what was streamed, as counts and digests."""
    streamed = hashlib.sha256()
    count = 0
    for result in metadata.results():
        assert result.index == count
        count += 1
        streamed.update(f"{result.index} {result.success} {result.payload}\n".encode())
    inline = complete.results
    path = os.environ.get("INLINE")
    if path:
        with open(path, "w") as file:
            file.write(inline)
    told = (complete.buffer_id, complete.total, complete.successful, len(inline), count, streamed.hexdigest())
    return Text(" ".join(map(str, told)))
