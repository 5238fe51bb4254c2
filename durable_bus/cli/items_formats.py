"""Items in files of text: UTF-8, split at LF only, an item a line, or a row of CSV.

A line is never longer in memory than an item may be.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from io import BufferedRandom, BufferedReader
from typing import NamedTuple

import msgspec

from durable_bus.errors import LimitExceeded, UsageError
from durable_bus.payloads.json_values import NotJson, compact_json
from durable_bus.payloads.messages import Json, RawJson
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX

__all__ = ["Source", "csv_items", "json_line_items", "line_items", "over_the_limit"]

_LINE_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024  # an item, and white space around it
_BLOCK_BYTES = 256 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_WHITE_SPACE = " \t\r\n"
_GROWTH_MAX = 16
"""So many times longer than its row in bytes, with the header's, an object may be: a control character is
six, and a comma becomes six.
"""


class Source(NamedTuple):
    """A file, where its items begin, and what people call it."""

    file: BufferedReader | BufferedRandom
    name: str


def over_the_limit(where: str) -> LimitExceeded:
    return LimitExceeded(f"{where} is over the limit of {PAYLOAD_BYTES_MAX} bytes an item")


def _blocks(source: Source) -> Iterator[tuple[int, bytes]]:
    """Whole lines, many at once, with the number of the first of them; of a pipe those that have come. A
    million lines of 12 characters take 0.1 s, and 0.31 where each is read by itself.

    Raises LimitExceeded for one that is longer than _LINE_BYTES_MAX.
    """
    number, rest, more = 1, b"", True
    while more:
        read = source.file.read1(_BLOCK_BYTES)
        more = bool(read)
        rest += read
        end = rest.rfind(b"\n") if more else len(rest)
        if end >= 0:
            block, rest = rest[:end], rest[end + 1 :]
            yield number, block.removeprefix(_BYTE_ORDER_MARK) if number == 1 else block
            number += block.count(b"\n") + 1
        if len(rest) >= _LINE_BYTES_MAX:
            raise over_the_limit(f"line {number} of {source.name}")


def _lines(source: Source) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends, numbered from 1, and without a byte order mark. Raises LimitExceeded for one
    that is longer than an item may be.
    """
    for number, block in _blocks(source):
        yield from _lines_of(source, number, block)


def _lines_of(source: Source, first_number: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(block.split(b"\n"), first_number):
        if len(line) > PAYLOAD_BYTES_MAX:
            _check_length(source, number, line)
        yield number, line


def _check_length(source: Source, number: int, line: bytes) -> None:
    if len(line) >= _LINE_BYTES_MAX or len(line.strip()) > PAYLOAD_BYTES_MAX:
        raise over_the_limit(f"line {number} of {source.name}")


def _decoded(source: Source, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{source.name} is not UTF-8: line {number}") from None


def line_items(source: Source) -> Iterator[str]:
    """A line each, stripped; empty ones are dropped."""
    for number, block in _blocks(source):
        texts: Iterable[str] | None = None
        if len(block) <= PAYLOAD_BYTES_MAX:
            with contextlib.suppress(UnicodeDecodeError):  # then the lines before that one are items
                texts = block.decode().split("\n")
        if texts is None:
            texts = (_decoded(source, at, line) for at, line in _lines_of(source, number, block))
        yield from filter(None, map(str.strip, texts))


def json_line_items(source: Source) -> Iterator[Json]:
    """A JSON value a line, as it is written there but for white space; empty lines are dropped."""
    for number, line in _lines(source):
        text = _decoded(source, number, line).strip(_JSON_WHITE_SPACE)
        if not text:
            continue
        try:
            text = compact_json(text)  # here, where it is known which line it is
        except NotJson as error:
            why = str(error).replace("JSON is malformed: ", "")
            raise UsageError(f"line {number} of {source.name}: {why}") from None
        yield Json(RawJson(text, is_compact=True))


def csv_items(source: Source) -> Iterator[dict[str, str]]:
    """A row each, as a JSON object whose names are the header's and whose values are all strings.

    As RFC 4180 has it: commas, double quotes, line ends inside quotes; empty lines are dropped.
    """
    csv.field_size_limit(_LINE_BYTES_MAX)  # of all readers in this process, which is a command's own
    rows = _Rows(source)
    names: list[str] | None = None
    for number, row, size_bytes in rows:
        if names is None:
            names = _header(source, number, row)
            header_bytes = size_bytes
            continue
        if len(row) != len(names):
            many = f"{len(row)} field{'s' if len(row) > 1 else ''}"
            raise UsageError(f"line {number} of {source.name} has {many}, its header has {len(names)}")
        item = dict(zip(names, row, strict=True))
        may_be_long = (size_bytes + header_bytes) * _GROWTH_MAX > PAYLOAD_BYTES_MAX
        if may_be_long and len(msgspec.json.encode(item)) > PAYLOAD_BYTES_MAX:
            raise over_the_limit(f"line {number} of {source.name}")
        yield item
    if names is None:
        raise UsageError(f"{source.name} has no header: its first line names the fields")


def _header(source: Source, number: int, names: list[str]) -> list[str]:
    where = f"line {number} of {source.name}, the header,"
    seen = set()
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise UsageError(f"{where} has no name for field {position}")
        if name in seen:
            raise UsageError(f"{where} has the name {name!r:.100} twice")
        seen.add(name)
    return names


class _Rows:
    """Rows of CSV that are not empty, each with the number of its first line, and its size in bytes.

    Raises UsageError, and LimitExceeded also for a quote that is never closed.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first_line = self._next_line = 1
        self._row_bytes = 0

    def _texts(self) -> Iterator[str]:
        for number, line in _lines(self._source):
            self._next_line = number + 1
            self._row_bytes += len(line) + 1
            if self._row_bytes > _LINE_BYTES_MAX:
                raise over_the_limit(f"the row from line {self._first_line} of {self._source.name} on")
            yield _decoded(self._source, number, line) + "\n"

    def __iter__(self) -> Iterator[tuple[int, list[str], int]]:
        try:
            for row in csv.reader(self._texts(), strict=True):
                if row:
                    yield self._first_line, row, self._row_bytes
                self._first_line, self._row_bytes = self._next_line, 0
        except csv.Error as error:
            where = f"line {self._first_line} of {self._source.name}"
            raise UsageError(f"{where} is not CSV: {_csv_error(str(error))}") from None


def _csv_error(said: str) -> str:
    """In words of the file; Python's speak of its own functions."""
    if "new-line character" in said:
        return "a carriage return that is neither quoted nor the end of a line"
    if "unexpected end" in said:
        return "a quote is never closed"
    if "expected after" in said:
        return "a closing quote is followed by something other than a comma; a quote inside is doubled"
    return said
