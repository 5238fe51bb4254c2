"""Named SQL: loads `.sql` files of statements under `-- name: …` lines and runs them on one connection."""

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from durable_bus.payloads.packing import decoded

__all__ = [
    "AT_END_ROWS_MIN",
    "ROWS_AT_ONCE",
    "Statements",
    "as_of",
    "load",
    "statements_of_its_version",
    "threads_below",
    "with_rows",
]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_FORM = re.compile(r"\bform\b")
_SEALED = re.compile(r"\bsealed_commit\b")
_CHUNKS = re.compile(r"\bFROM chunk\b")
_NO_CHUNKS = "FROM (SELECT 0 AS buffer_seq, 0 AS first_index, 0 AS item_count, 0 AS commit_id WHERE 0)"
_PACE_TABLES = re.compile(r"\b(FROM|JOIN) (budget|limit_change|limit_state|limits|memo|spending|spent)\b")
_PACE_COLUMNS = (
    "allowed", "amount", "attempt", "buffer_id", "buffer_seq", "cause", "change_id", "commit_id", "declared",
    "dispatch_id", "item_index", "item_key", "listener", "message_seq", "name", "number", "rate",
    "rests_until", "running", "spent_id", "tokens", "tokens_at", "unit",
)  # fmt: skip
_NO_PACE = f"(SELECT {', '.join(f'NULL AS {name}' for name in _PACE_COLUMNS)} WHERE 0)"
_PACE_INDEX = re.compile(r"INDEXED BY (answer_of_memo|buffer_of_budget)\b")
_PACE_OF_BUFFER = re.compile(
    r"\b[a-z]+\.(priority|not_before|deadline_at|enough|max_failures|budget_of)\b|\bb\.ended_how\b"
)
_MEMO = re.compile(r"\ba\.memo\b")
_WHY = re.compile(r"\bp\.why\b")
_PLACE = re.compile(r"\b[a-z]+\.(?:place\b|\"where\")")
_FIRST_COMMIT = re.compile(r"\b([a-z])\.first_commit\b")
_FIRST_COMMIT_FOUND = r"(SELECT min(x.commit_id) FROM journal_commit x WHERE x.run_id = \1.run_id)"
_ROW = re.compile(r"\{(.*)\}")
ROWS_AT_ONCE = (250, 50, 10, 1)
"""Measured with all of SQLite's work, µs a row of 88 characters: 50 or 100 rows a statement 0.57, 250 or
1,000 rows 0.51; executemany and json_each over an array of them take longer than any of these.
"""
AT_END_ROWS_MIN = 50
"""Of fewer rows, looking for the table's highest key costs more than knowing it saves."""


@cache
def load(*file_names: str) -> dict[str, str]:
    """The statements of files in `sql/`, by name."""
    folder = Path(__file__).with_name("sql")  # importlib.resources costs 10 ms of a start
    parts = [part for name in file_names for part in _NAME.split((folder / name).read_text())[1:]]
    names = parts[::2]
    assert len(set(names)) == len(names), f"a statement's name stands twice in {', '.join(file_names)}"
    return {name: body.strip().rstrip(";") for name, body in zip(names, parts[1::2], strict=True)}


def as_of(schema_version: int, texts: dict[str, str]) -> dict[str, str]:
    """Statements that read, for a journal that was not brought up to date, perhaps because nobody may write
    to it: in version 1 a payload's form was text or XML, 0 or 1, in a column of another name; before version
    3 whatever was open was whole; before version 4 nothing was limited, given again or spent; before version
    5 all ran in workers of ours; before version 7 a run's first commit was found by an index.
    """
    if schema_version < 7:
        texts = {name: _FIRST_COMMIT.sub(_FIRST_COMMIT_FOUND, text) for name, text in texts.items()}
    if schema_version < 5:
        texts = {name: _PLACE.sub("NULL", text) for name, text in texts.items()}
    if schema_version < 4:
        texts = {name: _without_pace(text) for name, text in texts.items()}
    if schema_version < 3:
        texts = {
            name: _CHUNKS.sub(_NO_CHUNKS, _SEALED.sub("opened_commit", text)) for name, text in texts.items()
        }
    if schema_version < 2:
        texts = {name: _FORM.sub("is_xml", text) for name, text in texts.items()}
    return texts


def _without_pace(text: str) -> str:
    """Without what version 4 has brought: its tables have no rows, its columns the values that say nothing.

    A statement that a buffer's columns are taken of calls the buffer `b`: a dispatch has an `ended_how`, too.
    """
    text = _PACE_TABLES.sub(rf"\1 {_NO_PACE}", _PACE_INDEX.sub("", text))
    return _WHY.sub("'asked'", _MEMO.sub("0", _PACE_OF_BUFFER.sub("NULL", text)))


@cache
def with_rows(text: str, count: int, *, at_end: bool) -> str:
    """A statement with the row between its braces written `count` times: `#` is the row's number.

    `at_end`: only the first row has its number. The others have NULL, for which SQLite takes the table's
    highest key and one without looking for the place: an item and its result take 1.18 µs instead of 1.40.

    Placeholders have no names: of one like `?1` Python asks SQLite for the name at each binding (3.12),
    and SQLite searches them all: 1.09 µs a row instead of 0.71, and 4 up to Python 3.12.3. The constants are
    columns of the SELECT around the rows: in each row they take 0.80 µs.
    """
    found = _ROW.search(text)
    assert found is not None, "a statement for run_rows has a row in braces"
    numbers = ("NULL" if at_end and n else str(n) for n in range(count))
    rows = [found[1].replace("#", number) for number in numbers]
    return text[: found.start()] + ", ".join(rows) + text[found.end() :]


def threads_below(thread_id: str) -> dict[str, str]:
    """The range of all thread ids below this one, as parameters: "0" is the character after "/"."""
    return {"thread_prefix": f"{thread_id}/", "thread_prefix_end": f"{thread_id}0"}


class Statements:
    """Runs named statements. All rows are fetched at once: a half-read cursor would pin the log."""

    def __init__(
        self, connection: sqlite3.Connection, *file_names: str, schema_version: int | None = None
    ) -> None:
        """`schema_version`: the journal's, where that may be an older one (`as_of`)."""
        self.connection = connection
        texts = load(*file_names)
        self._texts = texts if schema_version is None else as_of(schema_version, texts)
        self._cursor = connection.cursor()
        self._row_cursor = connection.cursor()
        self._row_cursor.row_factory = sqlite3.Row

    def run(self, name: str, parameters: dict[str, Any]) -> int:
        """Execute one statement; how many rows it changed. Parameters it does not name are ignored."""
        return self._cursor.execute(self._texts[name], parameters).rowcount

    def run_rows(
        self, name: str, last: str, constants: tuple[int, ...], texts: list[str] | list[bytes]
    ) -> int:
        """Insert a row for each text, as `packing.cut` gives them, many rows a statement; how many rows it
        changed.

        `constants` are the same for all of them, but for the first: that is a key, which counts up. `last`
        names the statement that gives the table's highest. Raises UnicodeDecodeError for what is not UTF-8,
        when rows before it are in.
        """
        first_key, *others = constants
        at_end = len(texts) >= AT_END_ROWS_MIN and first_key > (self.value(last) or 0)
        done = changed = 0
        for size in ROWS_AT_ONCE:
            statement = with_rows(self._texts[name], size, at_end=at_end)
            while len(texts) - done >= size:
                parameters = (first_key + done, *others, *decoded(texts[done : done + size]))
                changed += self._cursor.execute(statement, parameters).rowcount
                done += size
        return changed

    def run_each(self, name: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Execute one statement for each row of positional parameters; how many rows they changed."""
        return self._cursor.executemany(self._texts[name], rows).rowcount

    def all_of(self, name: str, keys: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement that asks for many keys at once: the one placeholder between its braces
        stands for all of them.
        """
        text = self._texts[name].replace("{?}", ", ".join("?" * len(keys)))
        return self._cursor.execute(text, keys).fetchall()

    def insert(self, name: str, /, **parameters: Any) -> int:
        """Execute one INSERT; the rowid of the new row."""
        row_id = self._cursor.execute(self._texts[name], parameters).lastrowid
        assert row_id is not None
        return row_id

    def all(self, name: str, /, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._cursor.execute(self._texts[name], parameters).fetchall()

    def some(
        self, name: str, /, chars_max: int, *, also: int | None = None, **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """The first rows, until their second column, a payload, comes to so many characters; together with
        the column `also`, if that is another payload.
        """
        rows: list[tuple[Any, ...]] = []
        chars = 0
        with contextlib.closing(self.connection.execute(self._texts[name], parameters)) as cursor:
            for row in cursor:
                rows.append(row)
                chars += len(row[1]) if also is None else len(row[1]) + len(row[also])
                if chars >= chars_max:
                    break
        return rows

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


def statements_of_its_version(connection: sqlite3.Connection, *file_names: str) -> Statements:
    """Statements that read a journal as it is, of whatever version that may be. Raises sqlite3.Error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return Statements(connection, *file_names, schema_version=version)
