"""Results on their way out: as XML, jsonl, csv or Parquet, to stdout or into a file that is whole or not
there.

They are read in pages and written in pieces, so memory stays flat, and nobody who reads slowly holds back the
journal.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from durable_bus.cli.printing import escaped
from durable_bus.cli.rows import csv_lines
from durable_bus.client.result_table import ResultTable, import_arrow
from durable_bus.errors import StorageFailed, UsageError
from durable_bus.journal.access import files_of
from durable_bus.journal.reader import BufferContent, JournalReader
from durable_bus.payloads.forms import JSON
from durable_bus.payloads.messages import Result
from durable_bus.payloads.results_document import result_item, results_document

_PIECE_CHARS = 256 * 1024
_ROW_GROUP_BYTES = 16 * 1024 * 1024
_LINE_CHARS = 100
"""Of a line of JSON beside its payload, about."""


@dataclass(frozen=True, slots=True)
class Written:
    """How results are to be written, and where to; None: stdout."""

    format_name: str
    output: Path | None = None
    with_items: bool = False

    def check(self, journal: Path, *inputs: Path) -> None:
        """Before hours of work: whether they can be written at their end. Raises UsageError."""
        if self.with_items and self.format_name == "xml":
            raise UsageError(
                "--with-items: the XML document has no place for items; take jsonl, csv or parquet"
            )
        if self.format_name == "parquet":
            if self.output is None or not _is_replaceable(self.output):
                raise UsageError("--format parquet is written to a file only: give --output FILE")
            import_arrow("--format parquet")
        check_output(self.output, journal, *inputs)


def latest_results(
    reader: JournalReader, chain: list[BufferContent], *, with_items: bool = False
) -> Iterator[Result]:
    """The newest result of each item of a buffer, in item order: that of its retry, where there is one.

    `chain` is the buffer and its retries. Item k of a retry is the k-th item of the buffer before that failed
    or is missing. What a retry has no result of yet keeps the one before.
    """
    buffer, *retries = chain
    results = reader.results(buffer.buffer_seq, with_items=with_items)
    if not retries:
        yield from results
        return
    again = latest_results(reader, retries, with_items=with_items)
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


def write_latest(
    reader: JournalReader, chain: list[BufferContent], written: Written, *, failed_only: bool = False
) -> None:
    """Write what `latest_results` has. `failed_only`, of a buffer without its retries, leaves successes out,
    in XML also what is missing. Raises as `write_results` does.
    """
    if failed_only:
        results = reader.results(chain[0].buffer_seq, failed_only=True, with_items=written.with_items)
    else:
        results = latest_results(reader, chain, with_items=written.with_items)
    write_each(results, None if failed_only else chain[0].total, written)


def write_each(results: Iterable[Result], total: int | None, written: Written) -> None:
    """Write results in item order. In XML, what is missing of `total` shows as that; None: it does not.

    Raises as `write_results` does.
    """
    if written.format_name == "parquet":
        _write_parquet(results, written)
    else:
        write_results(
            render(results, total, written.format_name, with_items=written.with_items), written.output
        )


def render(
    results: Iterable[Result], total: int | None, format_name: str, *, with_items: bool = False
) -> Iterator[str]:
    """Results as text, in pieces; not as Parquet."""
    if format_name == "jsonl":
        yield from _json_lines(results, with_items)
    elif format_name == "csv":
        yield from _csv(results, with_items)
    elif total is None:
        yield "<results>"
        yield from (result_item(r.index, r.success, r.payload, r.form) for r in results)
        yield "</results>\n"
    else:
        yield from results_document(results, total)
        yield "\n"


_FIELDS = Result._fields[:-1]
"""All but the item."""


def _json_lines(results: Iterable[Result], with_items: bool) -> Iterator[str]:
    """JSON stands in a line as it is in the journal, which holds it compact: never over two lines."""
    import msgspec

    line = msgspec.defstruct("line", Result._fields if with_items else _FIELDS, gc=False)
    encode_lines = msgspec.json.Encoder().encode_lines
    page: list[msgspec.Struct] = []
    chars = 0
    for index, success, payload, is_xml, error, attempt, duration_ms, form, item in results:
        said: object = msgspec.Raw(payload) if form == "json" else payload
        of_item: tuple[object, ...] = ()
        if with_items and item is not None:
            of_item = (msgspec.Raw(item[0]) if item[1] == JSON else item[0],)
            chars += len(item[0])
        elif with_items:
            of_item = (None,)
        page.append(line(index, success, said, is_xml, error, attempt, duration_ms, form, *of_item))
        chars += len(payload) + _LINE_CHARS
        if chars > _PIECE_CHARS:
            yield encode_lines(page).decode()
            page, chars = [], 0
    yield encode_lines(page).decode()


def _csv(results: Iterable[Result], with_items: bool) -> Iterator[str]:
    names = Result._fields if with_items else _FIELDS
    return csv_lines(chain([names], (_csv_row(result)[: len(names)] for result in results)))


def _csv_row(result: Result) -> tuple[object, ...]:
    flags = ("false", "true")
    row = result._replace(success=flags[result.success], is_xml=flags[result.is_xml])  # type: ignore[arg-type]
    return row._replace(item=result.item and result.item[0])


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
    """Write to stdout, or beside `output`, which is replaced when all is written and on disk. On a terminal
    control characters show as escapes.

    Raises BrokenPipeError when the reader of stdout is gone, StorageFailed when what is written to fails.
    """
    with _failing_storage(output):
        if output is None:
            sys.stdout.flush()
            _write(map(escaped, pieces) if sys.stdout.isatty() else pieces, sys.stdout.buffer)
        elif _is_replaceable(output):
            with _replaced(output) as file:
                _write(pieces, file)
        else:
            with open(output, "wb") as file:
                _write(pieces, file)


def _write_parquet(results: Iterable[Result], written: Written) -> None:
    """In row groups of a bounded size. What was read lies in a temporary file meanwhile, beside the output:
    where that has room, it has.
    """
    import tempfile

    from pyarrow import Table
    from pyarrow.parquet import ParquetWriter

    assert written.output is not None
    folder = Path(os.path.realpath(written.output)).parent
    with _failing_storage(written.output), tempfile.TemporaryFile(dir=folder) as spool:
        table = ResultTable(results, with_items=written.with_items, spool=spool)
        with _replaced(written.output) as file, ParquetWriter(file, table.schema) as writer:
            group: list[Any] = []
            for batch in table.batches():
                group.append(batch)
                if sum(batch.nbytes for batch in group) > _ROW_GROUP_BYTES:
                    writer.write_table(Table.from_batches(group))
                    group = []
            if group:
                writer.write_table(Table.from_batches(group))


@contextlib.contextmanager
def _failing_storage(output: Path | None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if output is None and error.errno == errno.EBADF:
            raise  # stdout is closed, as `main` says
        raise StorageFailed(f"cannot write {output or 'the results'}: {error.strerror or error}") from None


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


@contextlib.contextmanager
def _replaced(output: Path) -> Iterator[BinaryIO]:
    """A file that takes the output's place when all is written.

    If we die in here, the old file is as it was, and a temporary one beside it can be deleted.
    """
    real = Path(os.path.realpath(output))  # a symbolic link stays one
    beside = real.with_name(f".{real.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
