"""Items of an iterable on their way into a stream that may have some of them already: what is there is
compared, what is missing is sent.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from durable_bus.client.differences import first_difference
from durable_bus.client.sender import Sender
from durable_bus.client.upload import Upload, Written, sized_chunks
from durable_bus.errors import OtherItems
from durable_bus.payloads.forms import PICKLE
from durable_bus.payloads.packing import decoded, pack
from durable_bus.payloads.values import Payload

__all__ = ["Feed", "Recorded"]

_READ_S = 0.005
"""So long items are read at once."""
_READ_MAX = 2_000
_UNSENT_MAX = 8_000
"""So many items are in memory at most: who reads faster than it is sent waits."""


class Recorded(NamedTuple):
    """The items that are there already."""

    payloads: Iterator[Payload]
    total: int


class Feed:
    """Reads only when it is asked to, in the caller's thread. What was read is compared and sent in another
    one, also while the next item is awaited.
    """

    def __init__(
        self,
        buffer_id: str,
        items: Iterator[Any],
        written: Written,
        recorded: Recorded,
        upload: Upload | None,
    ) -> None:
        """`upload`: for what is missing; None: it is sealed, nothing may be."""
        self.buffer_id = buffer_id
        self._items = items
        self._written = written
        self._recorded, self._there = recorded
        self._upload = upload
        self._sender = None if upload is None else Sender(upload, self._chunks, self._there)
        self.read = 0
        """How many items were read."""
        self.taken = 0
        """How many of those are in the stream, or about to be, and were those that are there."""
        self.exhausted = False
        """There are no more, and the stream is sealed."""

    def some(self, most: int) -> None:
        """Read at most `most` items, fewer when they are slow to come; when there are no more, seal the
        stream. Raises OtherItems for an item that is not the one that is there, and whatever the iterable
        raises.
        """
        if self._sender is None:
            values = list(islice(self._items, min(most, _READ_MAX)))
            self.read += len(values)
            for _ in self._chunks(values):
                raise self._other(f"there are {self._there:,} of them, and more are given")
            self.exhausted = not values
        else:
            if self.read - self.taken >= _UNSENT_MAX:
                self._sender.wait_for(lambda: self.read - self.taken < _UNSENT_MAX, _READ_S)
            self._sender.start()
            self.check()
            self._read_some(self._sender, max(1, min(most, _READ_MAX)))
        if self.exhausted and self.taken < self._there:
            raise self._other(f"{self._there:,} of them are recorded, and {self.taken:,} are given")
        if self.exhausted and self._upload is not None:
            self._upload.seal()

    def _read_some(self, sender: Sender, most: int) -> None:
        monotonic, append = time.monotonic, sender.waiting.append  # 0.2 us an item
        end_s = monotonic() + _READ_S
        read = 0
        try:
            for read, value in enumerate(islice(self._items, most), 1):  # noqa: B007  it is what was read
                append(value)
                if sender.rests:
                    sender.wake()
                if monotonic() > end_s:
                    return
        finally:
            self.read += read
        if read < most:
            sender.close()
            self.check()
            self.exhausted = True

    def check(self) -> None:
        """Raises what comparing or sending has met."""
        if self._sender is not None and self._sender.error is not None:
            raise self._sender.error

    def close(self) -> None:
        """Nothing more is read, or sent."""
        if self._sender is not None and not self.exhausted:
            self._sender.close(0.0)

    def _chunks(self, values: list[Any]) -> Iterator[tuple[bytes, bytes]]:
        """Of items that were read, those that are missing."""
        payloads, forms = self._written(values, self.taken)
        there = max(0, min(len(payloads), self._there - self.taken))
        if there:
            self._compare(decoded(payloads[:there]), forms[:there])
        if there < len(payloads):
            yield from sized_chunks(payloads[there:], forms[there:], self.taken + there)
        self.taken += len(values)

    def _compare(self, texts: Iterable[str], forms: bytes) -> None:
        given = list(zip(texts, forms, strict=True))
        there = list(islice(self._recorded, len(given)))
        if there != given:
            alike = [
                now if _is_same(before, now) else before for before, now in zip(there, given, strict=False)
            ]
            if alike != given:
                difference = first_difference(alike, given, first_index=self.taken)
                raise OtherItems(self.buffer_id, f"this id is used already, with other items{difference}")
        if self._upload is not None:
            self._upload.skip(pack([text for text, _ in there]), forms)

    def _other(self, why: str) -> OtherItems:
        return OtherItems(
            self.buffer_id,
            f"this id is used already, with other items: {why}; give other items another buffer_id",
        )


def _is_same(one: Payload, other: Payload) -> bool:
    if one == other or not one[1] == other[1] == PICKLE:
        return one == other
    from durable_bus.payloads.same_pickles import are_same

    return are_same(one[0], other[0])
