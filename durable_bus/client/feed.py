"""Items of an iterable on their way into a stream that may have some of them already: what is there is
compared, what is missing is sent.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from durable_bus.client.differences import first_difference
from durable_bus.client.upload import Upload, sized_chunks
from durable_bus.errors import OtherItems
from durable_bus.payloads.forms import PICKLE
from durable_bus.payloads.packing import pack
from durable_bus.payloads.values import Payload

__all__ = ["Feed", "Written"]

Written = Callable[[list[Any], int], tuple[list[str], bytes]]
"""Makes texts of items, and the form of each; the second argument is the index of the first. Raises UsageError
or LimitExceeded for one that cannot be journaled.
"""
_READ_S = 0.005
"""What was read in so long is sent, however little it is."""
_CHUNK_ITEMS = 2_000
_LOOK_EVERY = 16
"""So many items are taken at once from an iterable that is quick."""


class Feed:
    """Reads only when it is asked to, in the caller's thread."""

    def __init__(
        self,
        buffer_id: str,
        items: Iterator[Any],
        written: Written,
        recorded: Iterator[Payload],
        received: int,
        upload: Upload | None,
    ) -> None:
        """`recorded`: the items that are there, `received` of them. `upload`: for what is missing; None: it is
        sealed, nothing may be.
        """
        self._buffer_id = buffer_id
        self._items = items
        self._written = written
        self._recorded = recorded
        self._received = received
        self._upload = upload
        self.read = 0
        """How many items were read, and are in the stream."""
        self.exhausted = False

    def some(self, most: int) -> None:
        """Read at most `most` items, fewer when they are slow to come, and send those that are missing. Raises
        OtherItems for one that is not the one that is there, and whatever the iterable raises.
        """
        values = self._slice(min(most, _CHUNK_ITEMS))
        if values:
            texts, forms = self._written(values, self.read)
            there = max(0, min(len(texts), self._received - self.read))
            if there:
                self._compare(texts[:there], forms[:there])
            if there < len(texts):
                self._send(texts[there:], forms[there:])
            self.read += len(values)
        if self.exhausted and self.read < self._received:
            raise OtherItems(
                self._buffer_id,
                f"this id is used already, with other items: {self._received:,} of them are recorded, and "
                f"{self.read:,} are given; give other items another buffer_id",
            )

    def _slice(self, most: int) -> list[Any]:
        values: list[Any] = []
        end_s = time.monotonic() + _READ_S
        at_once = 1
        while len(values) < most:
            begun_s = time.monotonic()
            some = list(islice(self._items, min(at_once, most - len(values))))
            values += some
            if not some:
                self.exhausted = True
                break
            now_s = time.monotonic()
            if now_s > end_s:
                break
            at_once = _LOOK_EVERY if now_s - begun_s < _READ_S / _LOOK_EVERY else 1
        return values

    def _compare(self, texts: list[str], forms: bytes) -> None:
        given = list(zip(texts, forms, strict=True))
        there = list(islice(self._recorded, len(given)))
        if there != given:
            alike = [
                now if _is_same(before, now) else before for before, now in zip(there, given, strict=False)
            ]
            if alike != given:
                difference = first_difference(alike, given, first_index=self.read)
                raise OtherItems(self._buffer_id, f"this id is used already, with other items{difference}")
        if self._upload is not None:
            self._upload.skip(pack([text for text, _ in there]), forms)

    def _send(self, texts: list[str], forms: bytes) -> None:
        if self._upload is None:
            raise OtherItems(
                self._buffer_id,
                f"this id is used already, with other items: there are {self._received:,} of them, and more "
                "are given; give other items another buffer_id",
            )
        for body, of_body in sized_chunks(texts, forms):
            self._upload.add(body, of_body)


def _is_same(one: Payload, other: Payload) -> bool:
    if one == other or not one[1] == other[1] == PICKLE:
        return one == other
    from durable_bus.payloads.same_pickles import are_same

    return are_same(one[0], other[0])
