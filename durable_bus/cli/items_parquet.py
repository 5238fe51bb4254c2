"""Items in a Parquet file: a row each, as a JSON object, columns in their order. Needs the extra `arrow`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from durable_bus.cli.items_formats import Source, over_the_limit
from durable_bus.client.result_table import import_arrow
from durable_bus.errors import UsageError, said
from durable_bus.payloads.json_values import NotJson, dump_json
from durable_bus.payloads.messages import Json, RawJson
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX

__all__ = ["parquet_items"]

_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_ROWS_MAX = 1_024
_BUFFER_BYTES = 1024 * 1024
_NOT_JSON = (NotJson, TypeError, ValueError)


def parquet_items(source: Source) -> Iterator[Json]:
    """Values that JSON has no type for are written as `durable_bus.Json` writes them: dates and times in
    ISO 8601, decimals as text, bytes as base64.

    Raises UsageError for what is no Parquet file, and naming row (counted from 1) and column for a value that
    JSON cannot hold, such as NaN; LimitExceeded for a row over the limit of an item.
    """
    pa = import_arrow("reading Parquet")
    try:
        yield from _items(source, pa)
    except pa.ArrowException as error:
        raise UsageError(f"{source.name} cannot be read as Parquet: {said(error)}") from None


def _items(source: Source, pa: Any) -> Iterator[Json]:
    from pyarrow.parquet import ParquetFile

    # Without a buffer size whole columns of a row group are read at once.
    file = ParquetFile(source.file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    names = file.schema_arrow.names
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{source.name} has the column {name!r:.100} twice")
    row_number = 0
    for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
        columns = [
            _values(column, f"{source.name}, column {name!r:.100}", row_number, pa)
            for name, column in zip(names, batch.columns, strict=True)
        ]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            row_number += 1
            yield _item(source, dict(zip(names, values, strict=True)), row_number)


def _batch_rows(metadata: Any) -> int:
    """So many rows are some _BATCH_BYTES, as they are on average where they are longest."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return int(max(1, min(_BATCH_ROWS_MAX, _BATCH_BYTES // max(1, row_bytes))))


def _values(column: Any, where: str, rows_before: int, pa: Any) -> list[Any]:
    """A column as Python has it."""
    try:
        return _as_python(column, pa)
    except (ValueError, OverflowError, KeyError):
        pass  # one of them is to blame: which, is found one by one
    for row in range(len(column)):
        try:
            _as_python(column.slice(row, 1), pa)
        except (ValueError, OverflowError, KeyError) as error:
            raise UsageError(f"row {rows_before + row + 1} of {where}: {said(error)}") from None
    raise AssertionError("a column that cannot be read has a value that cannot")


def _as_python(column: Any, pa: Any) -> list[Any]:
    """Nanoseconds, which Python has not, are taken if they are whole microseconds; a map is a dict.

    Raises ValueError, OverflowError, or KeyError for a map that has a key twice.
    """
    kind, types = column.type, pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz))
    elif types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"))
    elif types.is_duration(kind) and kind.unit == "ns":
        column = column.cast(pa.duration("us"))
    values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    return values


def _item(source: Source, row: dict[str, Any], row_number: int) -> Json:
    try:
        text = dump_json(row)
    except _NOT_JSON as error:
        where, why = f"row {row_number} of {source.name}", said(error)
        for name, value in row.items():
            try:
                dump_json(value)
            except _NOT_JSON as of_column:
                where, why = f"{where}, column {name!r:.100}", said(of_column)
                break
        raise UsageError(f"{where}: {why}") from None
    if len(text) * 4 > PAYLOAD_BYTES_MAX and len(text.encode()) > PAYLOAD_BYTES_MAX:
        raise over_the_limit(f"row {row_number} of {source.name}")
    return Json(RawJson(text, is_compact=True))
