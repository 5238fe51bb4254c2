"""Rows of a query as a table, JSON, csv or tsv.

A blob is written as SQL's hex() would give it. An infinite number is null in JSON, which has none, and inf
elsewhere; NULL is an empty value in csv.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

from durable_bus.cli.printing import printable

_WIDTHS_FROM_ROWS = 1_000
_CELL_CHARS_MAX = 100


def write_rows(
    rows: Iterable[dict[str, Any]],
    format_name: str,
    file: IO[str],
    names: Callable[[], Sequence[str]] = tuple,
) -> None:
    """Write rows one by one; nothing is kept but what a table's widths are taken from.

    `names` says what the columns are called when there is no row: csv and tsv have a heading all the same.
    """
    every = iter(rows)
    if format_name == "json":
        file.writelines(_json_lines(every))
    elif format_name == "table":
        file.writelines(_table_lines(every))
    else:
        first = list(islice(every, 1))
        heading = list(first[0]) if first else names()
        values = (map(_without_blob, row.values()) for row in chain(first, every))
        file.writelines(csv_lines(chain([heading], values), "\t" if format_name == "tsv" else ","))


def csv_lines(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> Iterator[str]:
    """Rows as csv, a line each, whose every value a reader gets back as it is.

    Readers take a bare carriage return for the end of a row unless it is quoted, and csv quotes only the
    characters of its own line ending: so it is given both, and the carriage return is left out on the way.
    """
    return map(csv.writer(_Line(), delimiter=delimiter, lineterminator="\r\n").writerow, rows)


class _Line:
    """Where csv writes to: `writerow` returns what this returns."""

    def write(self, row: str) -> str:
        return row[:-2] + "\n"


def _json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """One array, a row a line."""
    separator = "[\n"
    for row in rows:
        values = {name: _json_value(value) for name, value in row.items()}
        yield separator + json.dumps(values, ensure_ascii=False, allow_nan=False)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _json_value(value: object) -> object:
    return None if isinstance(value, float) and math.isinf(value) else _without_blob(value)


def _without_blob(value: object) -> object:
    return value.hex().upper() if isinstance(value, bytes) else value


def _table_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Numbers to the right; nothing for no rows."""
    first = list(islice(rows, _WIDTHS_FROM_ROWS))
    if not first:
        return
    columns = []
    for name in first[0]:
        width = max(len(name), *(len(_cell(row[name])) for row in first))
        to_the_right = all(isinstance(row[name], int | float | None) for row in first)
        columns.append(f"{{:{'>' if to_the_right else '<'}{width}}}")
    line = "  ".join(columns)
    names = list(first[0])
    ruler = [len(column.format("")) * "-" for column in columns]
    for cells in chain([names, ruler], (map(_cell, row.values()) for row in chain(first, rows))):
        yield line.format(*cells).rstrip() + "\n"


def _cell(value: object) -> str:
    """One line, not too long."""
    text = "" if value is None else str(_without_blob(value))
    return printable(text if len(text) <= _CELL_CHARS_MAX else text[: _CELL_CHARS_MAX - 1] + "…")
