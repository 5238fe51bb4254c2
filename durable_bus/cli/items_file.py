"""The file of items: UTF-8, an item a line, split at LF only, read as often as needed, never held."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from durable_bus.errors import LimitExceeded, UsageError
from durable_bus.payloads.xml import PAYLOAD_BYTES_MAX, split_items

__all__ = ["ItemsFile"]

_BLOCK_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ItemsFile:
    """The items of a file, or of stdin for the path `-`; each iteration reads it from its beginning.

    What can be read only once, a pipe, is kept in a temporary file. Raises UsageError, naming the line, for
    what is not UTF-8, and LimitExceeded for a line over the limit of an item.
    """

    def __init__(self, path: str) -> None:
        self.name = "stdin" if path == "-" else path
        try:
            # Of stdin a descriptor of its own: whatever is opened when it is closed must not become stdin.
            source = open(os.dup(sys.stdin.fileno()) if path == "-" else path, "rb")  # noqa: SIM115  see __exit__
            self._file: BinaryIO = _readable_again(source)
            self._start = self._file.tell()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from None
        except AttributeError:
            raise UsageError("cannot read stdin: it is closed") from None

    def __iter__(self) -> Iterator[str]:
        try:
            self._file.seek(self._start)
            yield from self._items()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from None

    def _items(self) -> Iterator[str]:
        line = 1
        rest: list[
            bytes
        ] = []  # of a line that has not ended: joined once, or long lines would cost their square
        rest_bytes = 0
        mark = _BYTE_ORDER_MARK
        while block := self._file.read(_BLOCK_BYTES):
            block = block.removeprefix(mark)
            mark = b""
            end = block.rfind(b"\n") + 1
            if end:
                whole = b"".join([*rest, block[:end]])
                yield from self._split(whole, line)
                line += whole.count(b"\n")
                rest, rest_bytes = [], 0
            rest.append(block[end:])
            rest_bytes += len(block) - end
            if rest_bytes > PAYLOAD_BYTES_MAX + _BLOCK_BYTES:
                raise self._too_long(line)
        yield from self._split(b"".join(rest), line)

    def _split(self, data: bytes, first_line: int) -> list[str]:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = first_line + data.count(b"\n", 0, error.start)
            raise UsageError(f"{self.name} is not UTF-8: line {line}") from None
        items = split_items(text)
        if len(data) > PAYLOAD_BYTES_MAX and any(len(item.encode()) > PAYLOAD_BYTES_MAX for item in items):
            lines = enumerate(text.split("\n"), first_line)
            raise self._too_long(
                next(n for n, item in lines if len(item.strip().encode()) > PAYLOAD_BYTES_MAX)
            )
        return items

    def _too_long(self, line: int) -> LimitExceeded:
        return LimitExceeded(
            f"line {line} of {self.name} is over the limit of {PAYLOAD_BYTES_MAX} bytes an item"
        )

    def __enter__(self) -> ItemsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _readable_again(source: BinaryIO) -> BinaryIO:
    """The file itself, or a copy of what can be read only once. Raises OSError."""
    from stat import S_ISREG

    if S_ISREG(os.fstat(source.fileno()).st_mode):
        return source
    with source, contextlib.ExitStack() as unless_whole:
        copy = unless_whole.enter_context(tempfile.TemporaryFile(prefix="durable_bus-items-"))
        shutil.copyfileobj(source, copy, _BLOCK_BYTES)
        copy.seek(0)
        unless_whole.pop_all()
    return copy
