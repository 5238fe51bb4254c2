"""Items of a file or pipe on their way into a stream, for commands: with progress, and a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from durable_bus.cli.progress import Progress
from durable_bus.client.buffer import EARLY_ENDS, ended_how
from durable_bus.client.client import Client
from durable_bus.client.feed import Feed, Recorded
from durable_bus.client.upload import Upload, Written, items_of_bus
from durable_bus.errors import BufferEnded, BufferError, NotFound
from durable_bus.journal.reader import JournalReader
from durable_bus.payloads.forms import TEXT

__all__ = ["AHEAD", "compare_all", "feed_stream", "has_ended_early", "items_of_function"]

AHEAD = 1_000_000
"""So many items that are not done are in the journal at most: an endless pipe must not fill the disk."""
_LOOK_S = 0.02
_LOOK_EVERY_S = 0.1


def items_of_function(values: list[Any], first_index: int) -> tuple[list[str] | list[bytes], bytes]:
    """As for a bus, but a str is text, whatever it looks like."""
    if {*map(type, values)} == {str}:
        return values, bytes([TEXT]) * len(values)
    return items_of_bus(values, first_index)


def feed_stream(
    client: Client,
    upload: Upload,
    items: Iterator[Any],
    written: Written,
    progress: Progress,
    *,
    total: int | None = None,
    stop: Callable[[int], bool] = lambda failed: False,
) -> bool:
    """Put items into a stream that may have the first of them, and seal it. False: it was left as it is,
    because `stop` has said so, when it was told how many have failed. Of one that ends early, by its terms,
    no more items are read.

    `total`: how many there are, where that is known. Raises OtherItems for items that are not those that are
    there, whatever the iterable raises, and BufferError when the stream was cancelled.
    """
    try:
        return _feed(client, upload, items, written, progress, total, stop)
    except BufferEnded:
        return True


def has_ended_early(reader: JournalReader, buffer_id: str) -> bool:
    """Whether a buffer has ended by its terms, before all its items had."""
    try:
        return ended_how(reader.buffer(buffer_id)) in EARLY_ENDS
    except NotFound:
        return False


def _feed(
    client: Client,
    upload: Upload,
    items: Iterator[Any],
    written: Written,
    progress: Progress,
    total: int | None,
    stop: Callable[[int], bool],
) -> bool:
    receiving = upload.begin()
    reader, buffer_seq, label = client.reader(), receiving.buffer_seq, upload.buffer_id
    known = Recorded(reader.item_payloads(buffer_seq), receiving.received)
    content = reader.content(label)
    if receiving.existing and content is not None and not content.sealed:
        # It has ended early, so there may be more items than those that have come.
        known = Recorded(reader.item_payloads(buffer_seq), content.total)
        compare_all(label, islice(items, content.total), written, known)
        return True
    feed = Feed(label, items, written, known, None if receiving.existing else upload)
    look_at_s, done = 0.0, 0
    while not feed.exhausted:
        room = AHEAD - feed.read + done
        if room > 0:
            feed.some(room)
        else:
            time.sleep(_LOOK_S)
            look_at_s = 0.0
        now_s = time.monotonic()
        if now_s >= look_at_s:
            look_at_s = now_s + min(progress.refresh_s, _LOOK_EVERY_S)
            came, succeeded, failed, ended = reader.counts(buffer_seq)
            if ended and not receiving.existing and not feed.exhausted:
                feed.close()
                if has_ended_early(reader, label):
                    return True
                raise BufferError(label, "it was cancelled")
            done = succeeded + failed
            progress.show(label, total or came, done, failed, more=total is None)
            if stop(failed):
                return False
    return True


def compare_all(buffer_id: str, items: Iterator[Any], written: Written, recorded: Recorded) -> None:
    """Raises OtherItems when these are not the items of a buffer that is sealed."""
    feed = Feed(buffer_id, items, written, recorded, None)
    while not feed.exhausted:
        feed.some(AHEAD)
