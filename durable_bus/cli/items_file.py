"""The file of items, never held. A file is read as often as needed, a pipe once. What its items are, its
format says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from io import BufferedRandom, BufferedReader
from pathlib import PurePath

from durable_bus.cli.items_formats import Source, csv_items, json_line_items, line_items
from durable_bus.errors import UsageError

__all__ = ["FORMATS", "ItemsFile"]


def _parquet_items(source: Source) -> Iterator[object]:
    from durable_bus.cli.items_parquet import parquet_items  # pyarrow is an extra

    return parquet_items(source)


FORMATS: dict[str, Callable[[Source], Iterator[object]]] = {
    "lines": line_items,
    "jsonl": json_line_items,
    "csv": csv_items,
    "parquet": _parquet_items,
}
_FORMAT_OF_ENDING = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class ItemsFile:
    """The items of a file, or of stdin for the path `-`; each iteration reads it from its beginning.

    What can be read only once, a pipe, is kept in a temporary file, unless it is to be read as it comes
    (`once`). Iterating raises UsageError, naming file and line, for what is not of its format, and
    LimitExceeded for an item over the limit.
    """

    def __init__(self, path: str, format_name: str | None = None, *, once: bool = False) -> None:
        """`format_name`: one of FORMATS; None: as the file's ending says, else lines. `once`: of stdin, or
        another pipe, each item is read when it is asked for, and none twice.
        """
        if format_name is None:
            ending = "" if path == "-" else PurePath(path).suffix.lower()
            format_name = _FORMAT_OF_ENDING.get(ending, "lines")
        self._items = FORMATS[format_name]
        self.name = "stdin" if path == "-" else path
        try:
            # Of stdin a descriptor of its own: whatever is opened when it is closed must not become stdin.
            source = open(os.dup(sys.stdin.fileno()) if path == "-" else path, "rb")  # noqa: SIM115  see __exit__
            is_pipe = path == "-" or not source.seekable()
            self.is_pipe = once and is_pipe and format_name != "parquet"
            """It can be read only once."""
            self._file = source if self.is_pipe or source.seekable() else _copy(source)
            self._start = 0 if self.is_pipe else self._file.tell()
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from None
        except AttributeError:
            raise UsageError("cannot read stdin: it is closed") from None

    def __iter__(self) -> Iterator[object]:
        try:
            if not self.is_pipe:
                self._file.seek(self._start)
            yield from self._items(Source(self._file, self.name))
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror or error}") from None

    def __enter__(self) -> ItemsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _copy(source: BufferedReader) -> BufferedRandom:
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
