"""Items that have just been written, kept for the batches in which they go out.

Most items go out within seconds of their arrival, in the order in which they came. To read them back takes
SQLite 0.3 µs an item, a tenth of the supervisor's time for one; to cut them from here takes 0.01. What is not
here is read from the journal, so anything may be forgotten at any time.

A chunk is kept as one body and where its items end: 200,000 small objects among others would leave memory in
pieces that are of no use to anybody.
"""

from array import array
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

__all__ = ["FRESH_BYTES_MAX", "LONG_BYTES", "FreshItems", "ItemBatch"]

FRESH_BYTES_MAX = 16 * 1024 * 1024
"""For all buffers together. What comes when it is full is not kept: what came first goes out first."""
LONG_BYTES = 4096
"""Chunks of longer items on average are not kept: that saves time an item, and costs memory a byte."""
_CHUNK_BYTES = 1024
"""What a chunk takes beside what is in it."""


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Items as they go to a worker: a body (`payloads.packing`) nobody in between looks into."""

    payloads: bytes
    count: int
    forms: str
    """As `payloads.forms.digits_of` says them: one digit if they are all alike, else a digit each."""


class _Chunk(NamedTuple):
    """Items of one form that arrived together."""

    first_index: int
    end_index: int
    body: bytes
    ends: "array[int]"
    """How long the first items are together, without their NULs: of none, one, two, and so on."""
    forms: str
    """One digit (`payloads.forms.digits_of`)."""

    @property
    def size_bytes(self) -> int:
        return len(self.body) + len(self.ends) * self.ends.itemsize + _CHUNK_BYTES

    def cut(self, first_index: int, end_index: int) -> bytes:
        """The body of those of its items that are in this range."""
        first = max(first_index, self.first_index) - self.first_index
        end = min(end_index, self.end_index) - self.first_index
        return self.body[self.ends[first] + first : self.ends[end] + end]


class FreshItems:
    """Chunks by buffer, in the order of their items and without a gap."""

    def __init__(self) -> None:
        self._chunks: dict[int, deque[_Chunk]] = {}
        self.size_bytes = 0
        """How much memory is taken, about."""
        self._written: set[int] = set()
        """Buffers that this commit has written to."""

    def add(
        self, buffer_seq: int, first_index: int, body: bytes, items: list[str] | list[bytes], forms: str
    ) -> None:
        """Keep a chunk just written, if its items are of one form and not long, there is room, and it follows
        on what is kept. `body`: the items as they came, and as `packing.cut` gives them.
        """
        chunks = self._chunks.get(buffer_seq)
        if len(forms) > 1 or (chunks and first_index != chunks[-1].end_index):
            return
        if len(body) - len(items) > len(items) * LONG_BYTES:
            return
        ends = array("I", accumulate(map(len, items), initial=0))
        chunk = _Chunk(first_index, first_index + len(items), body, ends, forms)
        if self.size_bytes + chunk.size_bytes <= FRESH_BYTES_MAX:
            self._chunks.setdefault(buffer_seq, deque()).append(chunk)
            self.size_bytes += chunk.size_bytes
            self._written.add(buffer_seq)

    def batch(self, buffer_seq: int, first_index: int, count: int) -> ItemBatch | None:
        """The items from `first_index` on; None when they are not all here, or not of one form.

        Chunks that end before are forgotten: batches mostly go forward.
        """
        chunks = self._chunks.get(buffer_seq)
        if chunks is None:
            return None
        while len(chunks) > 1 and chunks[0].end_index <= first_index:
            self.size_bytes -= chunks.popleft().size_bytes
        end_index = first_index + count
        if first_index < chunks[0].first_index or end_index > chunks[-1].end_index:
            return None
        parts = [chunk for chunk in chunks if chunk.first_index < end_index]
        if len({chunk.forms for chunk in parts}) > 1:
            return None
        payloads = b"".join([chunk.cut(first_index, end_index) for chunk in parts])
        return ItemBatch(payloads, count, parts[0].forms)

    def forget(self, buffer_seq: int) -> None:
        """Nothing of this buffer will be asked for any more."""
        self.size_bytes -= sum(chunk.size_bytes for chunk in self._chunks.pop(buffer_seq, ()))

    def commit(self) -> None:
        """What was written in this commit is on disk."""
        self._written.clear()

    def rollback(self) -> None:
        """What this commit, or a part of it, has written is not there; its ids will be another buffer's."""
        for buffer_seq in self._written:
            self.forget(buffer_seq)
        self._written.clear()
