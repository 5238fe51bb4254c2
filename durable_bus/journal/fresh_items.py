"""Items that have just been written, kept for the batches they go out in.

Most items go out within seconds of their arrival, in the order they came in. To read them back takes SQLite
0.36 µs an item of 88 bytes, and to cut them from here takes 0.01. What is not here is read from the journal,
so anything may be forgotten at any time.

A chunk is kept as one body and where its items end: 200,000 small objects among others would leave memory in
pieces that are of no use to anybody.
"""

import json
from array import array
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

__all__ = ["FRESH_BYTES_MAX", "LONG_BYTES", "FreshItems", "ItemBatch"]

FRESH_BYTES_MAX = 16 * 1024 * 1024
"""So much memory is taken for all buffers together; what comes when it is full is not kept: what came first
goes out first.
"""
LONG_BYTES = 4096
"""Chunks whose items are longer than that on average are not kept: what is saved is time an item, and what it
costs is memory a byte.
"""
_CHUNK_BYTES = 1024
"""What a chunk takes beside what is in it."""
_EXCEPTION_BYTES = 40


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Items as they go to a worker: a body (`payloads.packing`) nobody in between looks into."""

    payloads: bytes
    count: int
    forms: str
    """`1`: all are XML, `0`: all are text, else a JSON array of 0 and 1."""


class _Chunk(NamedTuple):
    """Items as they arrived together: `form` for all of them but those at `exceptions`."""

    first_index: int
    body: bytes
    ends: "array[int]"
    """How long the first items are together, without their NULs: of none, one, two, and so on."""
    form: int
    exceptions: list[int]

    @property
    def item_count(self) -> int:
        return len(self.ends) - 1

    @property
    def end_index(self) -> int:
        return self.first_index + self.item_count

    @property
    def size_bytes(self) -> int:
        size_bytes = len(self.body) + len(self.ends) * self.ends.itemsize
        return size_bytes + len(self.exceptions) * _EXCEPTION_BYTES + _CHUNK_BYTES

    def cut(self, of: slice) -> bytes:
        """The body of these items."""
        first, end = of.start, min(of.stop, self.item_count)
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
        self, buffer_seq: int, first_index: int, items: list[bytes], form: int, exceptions: list[int]
    ) -> None:
        """Keep a chunk that was just written, if it is not long, there is room, and it follows on what is
        kept of its buffer.
        """
        chunks = self._chunks.get(buffer_seq)
        if first_index != (chunks[-1].end_index if chunks else 0):
            return
        ends = array("I", accumulate(map(len, items), initial=0))
        if ends[-1] > len(items) * LONG_BYTES:
            return
        chunk = _Chunk(first_index, b"\0".join([*items, b""]), ends, form, exceptions)
        if self.size_bytes + chunk.size_bytes <= FRESH_BYTES_MAX:
            self._chunks.setdefault(buffer_seq, deque()).append(chunk)
            self.size_bytes += chunk.size_bytes
            self._written.add(buffer_seq)

    def batch(self, buffer_seq: int, first_index: int, count: int) -> ItemBatch | None:
        """The items from `first_index` on; None when they are not all here.

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
        parts = [
            (chunk, slice(max(0, first_index - chunk.first_index), end_index - chunk.first_index))
            for chunk in chunks
            if chunk.first_index < end_index
        ]
        payloads = b"".join([chunk.cut(of) for chunk, of in parts])
        return ItemBatch(payloads, count, _forms(parts, count))

    def forget(self, buffer_seq: int) -> None:
        """Nothing of this buffer will be asked for any more."""
        self.size_bytes -= sum(chunk.size_bytes for chunk in self._chunks.pop(buffer_seq, ()))

    def commit(self) -> None:
        self._written.clear()

    def rollback(self) -> None:
        """What was written in this commit, or in a part of it, is not in the journal, and its ids will be
        another buffer's.
        """
        for buffer_seq in self._written:
            self.forget(buffer_seq)
        self._written.clear()


def _forms(parts: list[tuple[_Chunk, slice]], count: int) -> str:
    """As `ItemBatch.forms` has it."""
    if all(not chunk.exceptions and chunk.form == parts[0][0].form for chunk, _ in parts):
        return str(parts[0][0].form)
    forms: list[int] = []
    for chunk, of in parts:
        of_chunk = [chunk.form] * chunk.item_count
        for position in chunk.exceptions:
            of_chunk[position] = 1 - chunk.form
        forms += of_chunk[of]
    if len(set(forms)) == 1:
        return str(forms[0])
    return json.dumps(forms, separators=(",", ":"))
