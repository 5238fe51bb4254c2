"""The file of items: UTF-8, an item a line, split at LF only, read as often as needed, never held."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from durable_bus.errors import LimitExceeded, UsageError
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX

_LINE_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024  # an item, and white space around it
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
            self._file: BinaryIO = source if source.seekable() else _copy(source)
            self._start = self._file.tell()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from None
        except AttributeError:
            raise UsageError("cannot read stdin: it is closed") from None

    def __iter__(self) -> Iterator[str]:
        try:
            self._file.seek(self._start)
            for number, line in enumerate(iter(partial(self._file.readline, _LINE_BYTES_MAX), b""), 1):
                if len(line) > PAYLOAD_BYTES_MAX:
                    self._check_length(line, number)
                item = (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode().strip()
                if item:
                    yield item
        except UnicodeDecodeError:
            raise UsageError(f"{self.name} is not UTF-8: line {number}") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from None

    def _check_length(self, line: bytes, number: int) -> None:
        if len(line) == _LINE_BYTES_MAX or len(line.strip()) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(
                f"line {number} of {self.name} is over the limit of {PAYLOAD_BYTES_MAX} bytes an item"
            )

    def __enter__(self) -> ItemsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _copy(source: BinaryIO) -> BinaryIO:
    """A copy of what can be read only once. Raises OSError."""
    import shutil  # 4 ms, both, which a file does not pay
    import tempfile

    copy = tempfile.TemporaryFile(prefix="durable_bus-items-")  # noqa: SIM115  see ItemsFile.__exit__
    try:
        with source:
            shutil.copyfileobj(source, copy)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy
