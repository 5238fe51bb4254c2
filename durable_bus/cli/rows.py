"""Rows of a query as a table, JSON, csv or tsv.

A blob is written as SQL's hex() would give it. An infinite number is null in JSON, which has none, and inf
elsewhere; NULL is an empty value in csv.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

__all__ = ["csv_writer", "printable", "write_rows"]

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
    if format_name == "json":
        _write_json(rows, file)
    elif format_name == "table":
        _write_table(iter(rows), file)
    else:
        writer = csv_writer(file, "\t" if format_name == "tsv" else ",")
        has_heading = False
        for row in rows:
            if not has_heading:
                writer.writerow(row)
                has_heading = True
            writer.writerow([_without_blob(value) for value in row.values()])
        if not has_heading:
            writer.writerow(names())


def csv_writer(file: IO[str], delimiter: str = ",") -> Any:
    """A csv.writer of rows that end with a newline, whose every value a reader gets back as it is.

    Readers take a bare carriage return for the end of a row unless it is quoted, and csv quotes only the
    characters of its own line ending: so it is given both, and the carriage return is left out on the way.
    """
    return csv.writer(_Lines(file), delimiter=delimiter, lineterminator="\r\n")


class _Lines:
    """Where csv writes to: it gives each row in one piece."""

    def __init__(self, file: IO[str]) -> None:
        self._write = file.write

    def write(self, row: str) -> None:
        self._write(row[:-2] + "\n")


def _write_json(rows: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """One array, a row a line."""
    separator = "[\n"
    for row in rows:
        values = {name: _json_value(value) for name, value in row.items()}
        file.write(separator + json.dumps(values, ensure_ascii=False, allow_nan=False))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _json_value(value: object) -> object:
    return None if isinstance(value, float) and math.isinf(value) else _without_blob(value)


def _without_blob(value: object) -> object:
    return value.hex().upper() if isinstance(value, bytes) else value


def _write_table(rows: Iterator[dict[str, Any]], file: IO[str]) -> None:
    first = list(islice(rows, _WIDTHS_FROM_ROWS))
    if not first:
        return
    names = list(first[0])
    widths = [len(name) for name in names]
    numeric = [all(isinstance(row[name], int | float | None) for row in first) for name in names]
    for row in first:
        widths = [max(width, len(_cell(value))) for width, value in zip(widths, row.values(), strict=True)]
    file.write(_line(names, widths, numeric))
    file.write(_line(["-" * width for width in widths], widths, numeric))
    for row in chain(first, rows):
        file.write(_line([_cell(value) for value in row.values()], widths, numeric))


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(padded).rstrip() + "\n"


def _cell(value: object) -> str:
    """One line, not too long."""
    if value is None:
        return ""
    text = str(_without_blob(value))
    if len(text) > _CELL_CHARS_MAX:
        text = text[: _CELL_CHARS_MAX - 1] + "…"
    return printable(text)


def printable(text: str) -> str:
    """One line without control characters: a payload must not be able to command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
