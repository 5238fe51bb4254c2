"""Anybody's SQL, read-only, through sqlite-utils; and the questions that people ask, by name. The questions
stand in `migrations/README.md`, and are run as they stand there.

A query cannot hold up the supervisor. A reader in the middle of a SELECT keeps the write-ahead log from
shrinking: so all rows are taken at once, and a query that takes too long is interrupted. A checkpoint takes
the writer's lock, also from a read-only connection: so only pragmas that are known to read are allowed.
"""

import contextlib
import itertools
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from durable_bus.errors import JournalDamaged, TimedOut, UsageError, one_line
from durable_bus.journal.connection import open_reader, translate
from durable_bus.journal.database import database_of
from durable_bus.journal.schema import migrations_folder

__all__ = ["ask", "bound_memory", "column_names", "first_rows", "question", "questions"]

Asked = TypeVar("Asked")
Shown = TypeVar("Shown")

_LOOK_AT_CLOCK_EVERY = 50_000
"""Instructions of SQLite's machine, about a millisecond."""
_HEAP_BYTES_MAX = 256 * 1024 * 1024
_VALUE_BYTES_MAX = 32 * 1024 * 1024
"""A payload has up to 8 MiB, and hex(payload) twice as much."""
_TEXT_BYTES_READ = 8 * 1024
_COLUMNS_MAX = 200
_PRAGMAS_OF_WHAT = frozenset((
    "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo", "integrity_check",
    "quick_check", "table_info", "table_list", "table_xinfo",
))  # fmt: skip
"""Those that only read, and may say of which table, or how much is wanted."""
_PRAGMAS = frozenset((
    "application_id", "auto_vacuum", "collation_list", "compile_options", "data_version", "database_list",
    "encoding", "freelist_count", "function_list", "module_list", "page_count", "page_size", "pragma_list",
    "schema_version", "user_version",
))  # fmt: skip
"""Those that only read as long as no value is given to them."""
_HEADING = "\n## Twenty-five questions\n"
_QUESTION = re.compile(r"^### ([a-z-]+)\n\n(.+)\n\n```sql\n((?s:.+?));\n```$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


@cache
def _reference() -> dict[str, tuple[str, str]]:
    """The questions in the journal's reference: what each asks, and its SQL."""
    text = (migrations_folder() / "README.md").read_text(encoding="utf-8")
    return {name: (means, sql) for name, means, sql in _QUESTION.findall(text.partition(_HEADING)[2])}


def questions() -> dict[str, str]:
    """The named questions, each with what it asks."""
    return {name: means for name, (means, _) in _reference().items()}


def question(name: str, parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The SQL of a named question, and its parameters; those not given are NULL. Raises UsageError.

    Each may be given as text: a question casts what it takes as a number.
    """
    _, sql = _reference().get(name.replace("_", "-"), ("", ""))
    if not sql:
        raise UsageError(f"no question is called {name!r:.60}; there are: {', '.join(questions())}")
    known = dict.fromkeys(sorted(set(_PARAMETER.findall(sql))))
    for parameter in parameters:
        if parameter not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"{name} has no parameter {parameter!r:.60}; {takes}")
    return sql, {**known, **parameters}


def ask(
    journal: str | Path,
    sql: str,
    parameters: dict[str, Any],
    *,
    time_limit_s: float | None,
) -> Iterator[dict[str, Any]]:
    """The rows, by column name; to be taken all at once.

    Raises UsageError for SQL that cannot be run or would write, TimedOut, or a JournalError.
    """
    with _reading(journal, time_limit_s, database_of) as database:
        yield from database.query(sql, parameters)


def column_names(
    journal: str | Path, sql: str, parameters: dict[str, Any], *, time_limit_s: float | None
) -> list[str]:
    """The columns of SQL for which `ask` found no row: only a row tells it their names. Raises as it does."""
    with (
        _reading(journal, time_limit_s, lambda connection: connection) as connection,
        contextlib.closing(connection.execute(sql, parameters)) as cursor,
    ):
        return _columns(cursor)


def first_rows(
    journal: str | Path,
    sql: str,
    parameters: dict[str, Any],
    *,
    rows_max: int,
    time_limit_s: float,
    shown: Callable[[Any], Shown],
) -> tuple[list[str], list[list[Shown]]]:
    """The columns, and so many rows at most, each value as `shown` makes it; of a text it gets the beginning.
    Also of a journal of a newer version. Raises as `ask` does.

    For a process that lives long, and has other things to do: sqlite-utils would stay in its memory, and so
    would what a query finds. No row stays but as it is shown, no value has more than 32 MiB, and what is
    sorted is not written to a disk that the daemon may need. See also `bound_memory`.
    """
    try:
        with (
            _reading(journal, time_limit_s, _bounded, newer=True) as connection,
            contextlib.closing(connection.execute(sql, parameters)) as cursor,
        ):
            columns = _columns(cursor)
            return columns, [[shown(value) for value in row] for row in itertools.islice(cursor, rows_max)]
    except MemoryError:
        raise UsageError(
            "this SQL takes more memory than there is for it here: ask for less, or ask durable-bus query"
        ) from None


def bound_memory() -> None:
    """SQLite takes no more than 256 MiB in this process from now on, whatever it is asked: then it raises a
    MemoryError. Anybody's SQL can make it take all that the machine has.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES_MAX}")


def _bounded(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, _COLUMNS_MAX)
    connection.text_factory = lambda text: text[:_TEXT_BYTES_READ].decode(errors="replace")
    return connection


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    if cursor.description is None:
        raise UsageError("this SQL returns no rows")
    return [column[0] for column in cursor.description]


@contextlib.contextmanager
def _reading(
    journal: str | Path,
    time_limit_s: float | None,
    wrapped: Callable[[sqlite3.Connection], Asked],
    *,
    newer: bool = False,
) -> Iterator[Asked]:
    """`wrapped`: makes what is asked. It may do more than a query, so it comes before that is bound."""
    with contextlib.closing(open_reader(journal, newer=newer)) as connection:
        deadline_s = None if time_limit_s is None else time.monotonic() + time_limit_s
        if deadline_s is not None:
            connection.set_progress_handler(lambda: time.monotonic() > deadline_s, _LOOK_AT_CLOCK_EVERY)
        asked = wrapped(connection)
        refused: list[str] = []
        connection.set_authorizer(_may_read(refused))
        try:
            yield asked
        except ValueError as error:
            raise UsageError(f"this SQL returns no rows: {one_line(str(error))}") from None
        except sqlite3.Error as error:
            if refused:
                raise UsageError(refused[0]) from error
            raise _meaning(error, journal, time_limit_s) from error


def _may_read(refused: list[str]) -> Callable[..., int]:
    """SQLite's authorizer: what a query may do. Whatever it may not is put into `refused`, in words."""

    def authorize(action: int, name: str | None, argument: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_ATTACH:
            # A second connection to a journal that is not read-only would checkpoint it when it is closed.
            refused.append("a query has no other database than the journal")
        elif action == sqlite3.SQLITE_PRAGMA:
            pragma = (name or "").lower()
            if pragma not in _PRAGMAS_OF_WHAT and pragma not in _PRAGMAS:
                refused.append(f"PRAGMA {pragma} is not one of those that only read the journal")
            elif argument is not None and pragma not in _PRAGMAS_OF_WHAT:
                refused.append(f"PRAGMA {pragma} takes no value here: a query only reads")
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    return authorize


def _meaning(error: sqlite3.Error, journal: str | Path, time_limit_s: float | None) -> Exception:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_INTERRUPT":
        return TimedOut(f"the query was interrupted after {time_limit_s:g} s; --timeout allows more")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN")):
        return translate(error, journal)
    if str(error).startswith("Could not decode to UTF-8"):  # sqlite3's own, so it has no name
        return JournalDamaged(
            f"a text in the journal {journal} is not UTF-8 (hex(...) shows one): {one_line(str(error))}"
        )
    if name.startswith("SQLITE_READONLY"):
        return UsageError("a query only reads: the journal is written by its supervisor alone")
    return UsageError(one_line(str(error)))
