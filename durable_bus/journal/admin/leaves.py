"""Rows of a table, read straight from the pages of a file whose trees cannot be followed any more.

SQLite finds a row from the root of its table down. Where an upper page is damaged or cut off, everything
below it is out of its reach, though the pages with the rows, the leaves, may all be there. So here the leaves
are looked for one by one, and told from those of other tables by the keys and types of their rows. Formats:
https://www.sqlite.org/fileformat2.html, sections 1.5, 1.6, 2.1 and 4.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

__all__ = ["Leaves", "Row"]

_LEAF_OF_TABLE = 13
_LEAF_HEADER_BYTES = 8
_FRAME_HEADER_BYTES = 24
_WAL_HEADER_BYTES = 32
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Row(NamedTuple):
    """A row of a table: its key, and its columns as they are stored, a key among them as None."""

    key: int
    values: list[Any]


class _Unreadable(Exception):
    """This cell is not one, or a part of it is elsewhere and not there."""


class Leaves:
    """The leaves of all tables, of the file and of what is committed in its -wal. To be closed after every
    connection of this process to the journal: it drops their locks.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError. A file without a header has no leaves."""
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  closed by close()
        header = self._file.read(100)
        (page_bytes,) = struct.unpack_from(">H", header, 16) if len(header) == 100 else (0,)
        self._page_bytes: int = 65536 if page_bytes == 1 else page_bytes
        self._usable = self._page_bytes - (header[20] if page_bytes else 0)
        self._wal: BinaryIO | None = None
        self._in_wal: dict[int, int] = {}
        """Where in the -wal the newest version of a page begins."""
        wal = Path(f"{os.path.realpath(path)}-wal")
        if self._page_bytes >= 512 and wal.exists():
            self._wal = open(wal, "rb")  # noqa: SIM115
            self._in_wal = self._committed()
        pages = os.fstat(self._file.fileno()).st_size // self._page_bytes if self._page_bytes >= 512 else 0
        self._pages = max([pages, *self._in_wal])

    def close(self) -> None:
        self._file.close()
        if self._wal is not None:
            self._wal.close()

    def rows(self, first_key: int, last_key: int, is_one: Callable[[Row], bool]) -> Iterator[Row]:
        """Rows with keys in this range that are of the table that is meant, in the order of their keys."""
        pages = []
        free = self._free_pages()
        for number in range(2, self._pages + 1):  # page 1 has the schema
            if number in free:
                continue
            row = next(self._rows_of(number, first_key, last_key), None)
            if row is not None and is_one(row):
                pages.append((row.key, number))
        after = first_key - 1
        for _, number in sorted(pages):
            for row in self._rows_of(number, after + 1, last_key):
                if row.key > after and is_one(row):
                    after = row.key
                    yield row

    def _rows_of(self, number: int, first_key: int, last_key: int) -> Iterator[Row]:
        page = self._page(number)
        if len(page) < self._page_bytes or page[0] != _LEAF_OF_TABLE:
            return
        (cells,) = struct.unpack_from(">H", page, 3)
        if _LEAF_HEADER_BYTES + 2 * cells > len(page):
            return
        for (offset,) in struct.iter_unpack(">H", page[_LEAF_HEADER_BYTES : _LEAF_HEADER_BYTES + 2 * cells]):
            try:
                payload_bytes, at = _varint(page, offset)
                key, at = _varint(page, at)
                if first_key <= key <= last_key:
                    yield Row(key, _values(self._payload(page, at, payload_bytes)))
            except (_Unreadable, IndexError, struct.error):
                continue

    def _payload(self, page: bytes, at: int, payload_bytes: int) -> bytes:
        """A cell's payload; what does not fit its page is in a chain of others."""
        if not 0 <= payload_bytes <= self._pages * self._page_bytes:
            raise _Unreadable
        largest = self._usable - 35
        if payload_bytes <= largest:
            local = payload_bytes
        else:
            smallest = (self._usable - 12) * 32 // 255 - 23
            local = smallest + (payload_bytes - smallest) % (self._usable - 4)
            local = local if local <= largest else smallest
        if at + local > len(page):
            raise _Unreadable
        parts = [page[at : at + local]]
        if local < payload_bytes:
            (following,) = struct.unpack_from(">I", page, at + local)
            missing = payload_bytes - local
            while missing > 0:
                overflow = self._page(following) if following else b""
                if len(overflow) < self._page_bytes:
                    raise _Unreadable
                parts.append(overflow[4 : 4 + min(missing, self._usable - 4)])
                missing -= len(parts[-1])
                (following,) = struct.unpack_from(">I", overflow)
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        """Empty or short when it is not there."""
        if self._wal is not None and number in self._in_wal:
            self._wal.seek(self._in_wal[number])
            return self._wal.read(self._page_bytes)
        self._file.seek((number - 1) * self._page_bytes)
        return self._file.read(self._page_bytes)

    def _committed(self) -> dict[int, int]:
        """Pages of the -wal up to its last commit. Frames of an earlier log have another salt."""
        assert self._wal is not None
        header = self._wal.read(_WAL_HEADER_BYTES)
        if len(header) < _WAL_HEADER_BYTES or struct.unpack_from(">I", header, 8)[0] != self._page_bytes:
            return {}
        found: dict[int, int] = {}
        of_this_commit: dict[int, int] = {}
        at = _WAL_HEADER_BYTES
        while True:
            self._wal.seek(at)
            frame = self._wal.read(_FRAME_HEADER_BYTES)
            if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != header[16:24]:
                return found
            number, pages_after_commit = struct.unpack_from(">II", frame)
            of_this_commit[number] = at + _FRAME_HEADER_BYTES
            at += _FRAME_HEADER_BYTES + self._page_bytes
            if pages_after_commit:
                found |= of_this_commit
                of_this_commit = {}

    def _free_pages(self) -> set[int]:
        """Pages in no table any more, whose rows were deleted or moved; as far as the list of them goes."""
        free: set[int] = set()
        (trunk,) = struct.unpack_from(">I", self._page(1).ljust(100, b"\0"), 32)
        while trunk and trunk not in free:
            free.add(trunk)
            page = self._page(trunk)
            if len(page) < self._page_bytes:
                break
            following, count = struct.unpack_from(">II", page)
            free.update(struct.unpack_from(f">{min(count, len(page) // 4 - 2)}I", page, 8))
            trunk = following
        return free


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A signed integer of one to nine bytes, and where it ends."""
    value = 0
    for position in range(8):
        byte = data[at + position]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at + position + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9


def _values(record: bytes) -> list[Any]:
    """The columns of a record. Raises _Unreadable."""
    header_bytes, at = _varint(record, 0)
    types = []
    while at < header_bytes:
        kind, at = _varint(record, at)
        types.append(kind)
    values: list[Any] = []
    for kind in types:
        length = (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else _INTEGER_BYTES.get(kind, 0)
        data = record[at : at + length]
        if len(data) < length or kind in (10, 11):
            raise _Unreadable
        at += length
        if kind >= 12:
            values.append(data.decode("utf-8", "replace") if kind % 2 else data)
        elif kind == 7:
            values.append(struct.unpack(">d", data)[0])
        else:
            number = kind - 8 if kind >= 8 else int.from_bytes(data, "big", signed=True)
            values.append(None if kind == 0 else number)
    return values
