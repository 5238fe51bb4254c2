"""Results on their way out: as XML, jsonl or csv, to stdout or into a file that is whole or not there.

They are read in pages and written in pieces, so memory stays flat, and nobody who reads slowly holds back the
journal.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from durable_bus.cli.rows import csv_lines
from durable_bus.errors import StorageFailed, UsageError
from durable_bus.journal.access import files_of
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.messages import Result
from durable_bus.payloads.results_document import result_item, results_document

_PIECE_CHARS = 256 * 1024
_LINE_CHARS = 100
"""Of a line of JSON beside its payload, about."""


def latest_results(reader: JournalReader, chain: list[BufferContent]) -> Iterator[Result]:
    """The newest result of each item of a buffer, in item order: that of its retry, where there is one.

    `chain` is the buffer and its retries. Item k of a retry is the k-th item of the buffer before that failed
    or is missing. What a retry has no result of yet keeps the one before.
    """
    buffer, *retries = chain
    results = reader.results(buffer.buffer_seq)
    if not retries:
        yield from results
        return
    again = latest_results(reader, retries)
    before, after = next(results, None), next(again, None)
    position = 0
    for index in range(buffer.total):
        result = None
        if before is not None and before.index == index:
            result, before = before, next(results, None)
        if result is None or not result.success:
            if after is not None and after.index == position:
                result, after = after._replace(index=index), next(again, None)
            position += 1
        if result is not None:
            yield result


def render(
    reader: JournalReader, chain: list[BufferContent], format_name: str, *, failed_only: bool = False
) -> Iterator[str]:
    """The results as text, in pieces. `failed_only`, of a buffer without its retries, leaves successes out,
    in XML also what is missing.
    """
    if failed_only:
        results = reader.results(chain[0].buffer_seq, failed_only=True)
    else:
        results = latest_results(reader, chain)
    if failed_only and format_name == "xml":
        yield "<results>"
        yield from (result_item(r.index, r.success, r.payload, r.form) for r in results)
        yield "</results>\n"
    else:
        yield from render_results(results, chain[0].total, format_name)


def render_results(results: Iterable[Result], total: int, format_name: str) -> Iterator[str]:
    """Results in item order as text, in pieces; in XML, what is missing of `total` shows as that."""
    if format_name == "jsonl":
        yield from _json_lines(results)
    elif format_name == "csv":
        yield from _csv(results)
    else:
        yield from results_document(results, total)
        yield "\n"


def _json_lines(results: Iterable[Result]) -> Iterator[str]:
    import msgspec

    line = msgspec.defstruct("line", Result._fields, gc=False)
    encode_lines = msgspec.json.Encoder().encode_lines
    page: list[msgspec.Struct] = []
    chars = 0
    for result in results:
        page.append(line(*result))
        chars += len(result.payload) + _LINE_CHARS
        if chars > _PIECE_CHARS:
            yield encode_lines(page).decode()
            page, chars = [], 0
    yield encode_lines(page).decode()


def _csv(results: Iterable[Result]) -> Iterator[str]:
    flags = ("false", "true")
    rows = (r._replace(success=flags[r.success], is_xml=flags[r.is_xml]) for r in results)  # type: ignore[arg-type]
    return csv_lines(chain([Result._fields], rows))


def check_output(output: Path | None, journal: Path, *inputs: Path) -> None:
    """Before hours of work: whether the file can be written at their end. Raises UsageError.

    Not over anything that is read, nor over what lies beside the journal, or will: its log is a part of it.
    """
    if output is None:
        return
    folder = output.parent
    if output.is_dir():
        raise UsageError(f"cannot write {output}: it is a folder")
    if not folder.is_dir():
        raise UsageError(f"cannot write {output}: there is no folder {folder}")
    if not os.access(folder if _is_replaceable(output) else output, os.W_OK):
        raise UsageError(f"cannot write {output}: Permission denied")
    if Path(os.path.realpath(output)) in files_of(journal):
        raise UsageError(f"{output} belongs to the journal {journal}: choose another file for the results")
    for path in (journal, *inputs):
        with contextlib.suppress(OSError):
            if os.path.samefile(output, path):
                raise UsageError(f"{output} is read by this command: choose another file for the results")


def _is_replaceable(output: Path) -> bool:
    """Not a pipe, terminal or /dev/stdout, which are written to as they are."""
    try:
        return stat.S_ISREG(output.stat().st_mode)
    except OSError:
        return True


def write_results(pieces: Iterator[str], output: Path | None) -> None:
    """Write to stdout, or beside `output`, which is replaced when all is written and on disk.

    Raises BrokenPipeError when the reader of stdout is gone, StorageFailed when what is written to fails.
    """
    try:
        if output is None:
            sys.stdout.flush()
            _write(pieces, sys.stdout.buffer)
        elif _is_replaceable(output):
            _replace(pieces, output)
        else:
            with open(output, "wb") as file:
                _write(pieces, file)
    except BrokenPipeError:
        raise
    except OSError as error:
        if output is None and error.errno == errno.EBADF:
            raise  # stdout is closed, as `main` says
        raise StorageFailed(f"cannot write {output or 'the results'}: {error.strerror}") from None


def _write(pieces: Iterator[str], file: BinaryIO) -> None:
    gathered: list[str] = []
    chars = 0
    for piece in pieces:
        gathered.append(piece)
        chars += len(piece)
        if chars > _PIECE_CHARS:
            file.write("".join(gathered).encode())
            gathered, chars = [], 0
    file.write("".join(gathered).encode())
    file.flush()


def _replace(pieces: Iterator[str], output: Path) -> None:
    """If we die in here, the old file is as it was, and a temporary one beside it can be deleted."""
    real = Path(os.path.realpath(output))  # a symbolic link stays one
    beside = real.with_name(f".{real.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            _write(pieces, file)
            os.fsync(file.fileno())
        os.replace(beside, real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
