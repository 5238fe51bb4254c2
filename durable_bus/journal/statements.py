"""Named SQL: loads `.sql` files of statements under `-- name: …` lines and runs them on one connection."""

import re
import sqlite3
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Statements", "load"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(file_name: str) -> dict[str, str]:
    """The statements of a file of this package, by name."""
    text = files("durable_bus.journal").joinpath(file_name).read_text()
    _, *parts = _NAME.split(text)
    names = parts[::2]
    if len(set(names)) != len(names):
        raise AssertionError(f"a statement's name stands twice in {file_name}")
    return {name: body.strip().rstrip(";") for name, body in zip(names, parts[1::2], strict=True)}


class Statements:
    """Runs named statements. Every result is fetched whole: a half-read cursor would pin the write-ahead
    log.
    """

    def __init__(self, connection: sqlite3.Connection, file_name: str) -> None:
        self.connection = connection
        self._texts = load(file_name)
        self._cursor = connection.cursor()
        self._row_cursor = connection.cursor()
        self._row_cursor.row_factory = sqlite3.Row

    def run(self, name: str, /, **parameters: Any) -> int:
        """Execute one statement; how many rows it changed."""
        return self._cursor.execute(self._texts[name], parameters).rowcount

    def insert(self, name: str, /, **parameters: Any) -> int:
        """Execute one INSERT; the rowid of the new row."""
        row_id = self._cursor.execute(self._texts[name], parameters).lastrowid
        assert row_id is not None
        return row_id

    def all(self, name: str, /, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._cursor.execute(self._texts[name], parameters).fetchall()

    def one(self, name: str, /, **parameters: Any) -> tuple[Any, ...] | None:
        rows = self._cursor.execute(self._texts[name], parameters).fetchall()
        return rows[0] if rows else None

    def value(self, name: str, /, **parameters: Any) -> Any:
        """The first column of the first row, None when there is none."""
        row = self.one(name, **parameters)
        return row[0] if row else None

    def rows(self, name: str, /, **parameters: Any) -> list[sqlite3.Row]:
        """Rows whose columns can be asked for by name."""
        return self._row_cursor.execute(self._texts[name], parameters).fetchall()
