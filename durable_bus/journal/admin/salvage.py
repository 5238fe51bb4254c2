"""Reads what SQLite can still read of a damaged journal. Nothing is written to it.

SQLite finds a row by its key, from the root of its table down. A damaged page costs the rows on it; a damaged
inner page costs those below it, at most some 600 pages; a damaged root costs its table. What lies beyond the
damage is found by asking for higher keys. Rows below a damaged inner page can be searched for page by page:
that is what `.recover` of SQLite's own shell does, and Python's sqlite3 has no such thing.
"""

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from durable_bus.errors import JournalDamaged, NotFound
from durable_bus.journal.connection import SCHEMA_VERSION, read_only_uri
from durable_bus.journal.formats import INDEX_BITS, milliseconds
from durable_bus.journal.statements import as_of, load
from durable_bus.payloads.forms import FORM_NAMES, XML
from durable_bus.payloads.messages import Result

__all__ = ["Salvage"]


class _Answer(NamedTuple):
    first_index: int
    attempt: int
    milliseconds: list[float]


_NO_ANSWER = _Answer(0, 0, [])
_ALL = -1
"""As a limit: none."""


class Salvage:
    """One buffer of a damaged journal. Raises NotFound for none, JournalDamaged when that cannot be said."""

    def __init__(self, path: Path, buffer_id: str) -> None:
        self._path = path
        self._connection = sqlite3.connect(read_only_uri(path), uri=True, isolation_level=None)
        # Damaged text must not stop us either.
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
        # Without it SQLite refuses a file that was cut off as a whole. The connection is read-only.
        self._connection.execute("PRAGMA writable_schema = ON")
        self._statements = as_of(self._schema_version(), load("salvage.sql"))
        self._answer_id, self._answer = 0, _NO_ANSWER
        try:
            self.buffer_seq, self.total, self.recorded = self._find(buffer_id)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def _schema_version(self) -> int:
        """By its tables, as far as they can be read: a damaged header may say anything."""
        try:
            columns = self._connection.execute("SELECT name FROM pragma_table_info('result')").fetchall()
        except sqlite3.DatabaseError:
            return SCHEMA_VERSION
        return 1 if ("is_xml",) in columns else SCHEMA_VERSION

    def _find(self, buffer_id: str) -> tuple[int, int, int]:
        """Its key, how many items it has, and how many results are said to be recorded."""
        damaged = False
        for statement in ("buffer", "buffer_without_index"):
            try:
                row = self._connection.execute(
                    self._statements[statement], {"buffer_id": buffer_id}
                ).fetchone()
            except sqlite3.DatabaseError:
                damaged = True
                continue
            if row is not None:
                return int(row[0]), int(row[1]), int(row[2])
        if not damaged:
            raise NotFound(f"no buffer {buffer_id!r:.120} in {self._path}")
        raise JournalDamaged(
            f"the journal {self._path} is so damaged that {buffer_id!r:.120} cannot be found in it"
        )

    def results(self) -> Iterator[Result]:
        """Every result that can be read, in item order. Attempt and duration are 0 where they cannot."""
        base = self.buffer_seq << INDEX_BITS
        first_key, last_key = base, base + self.total - 1
        limit = _ALL
        while first_key <= last_key:
            before_key = first_key
            try:
                for key, payload, success, form, answer_id in self._rows(first_key, last_key, limit):
                    index = key - base
                    attempt, duration_ms = self._attempt(answer_id, index)
                    error = None if success else payload
                    facts = (form == XML, error, attempt, duration_ms, FORM_NAMES[form])
                    yield Result(index, success == 1, payload, *facts)
                    first_key = key + 1
                if limit == _ALL or first_key == before_key:
                    return
            except sqlite3.DatabaseError:
                # Python steps to the next row before it gives one away, and loses it when that step fails.
                # So this row is asked for alone.
                if limit == _ALL:
                    limit = 1
                else:
                    first_key, limit = self._after_damage(first_key, last_key), _ALL

    def _rows(self, first_key: int, last_key: int, limit: int) -> sqlite3.Cursor:
        span = {"first_key": first_key, "last_key": last_key, "limit": limit}
        return self._connection.execute(self._statements["results"], span)

    def _after_damage(self, damaged_key: int, last_key: int) -> int:
        """The first key after this one from which SQLite can read on; the one after the last, if none."""
        good_key, step = damaged_key + 1, 1
        while good_key <= last_key and not self._can_be_read(good_key, last_key):
            damaged_key, good_key, step = good_key, good_key + step, step * 2
        good_key = min(good_key, last_key + 1)
        while good_key - damaged_key > 1:
            middle_key = (damaged_key + good_key) // 2
            if self._can_be_read(middle_key, last_key):
                good_key = middle_key
            else:
                damaged_key = middle_key
        return good_key

    def _can_be_read(self, first_key: int, last_key: int) -> bool:
        """Whether SQLite finds the first result from this key on."""
        try:
            self._rows(first_key, last_key, 1).fetchone()
        except sqlite3.DatabaseError:
            return False
        return True

    def _attempt(self, answer_id: int, index: int) -> tuple[int, float]:
        """Which attempt a result came from, and how long that took in milliseconds."""
        if answer_id != self._answer_id:
            self._answer_id, self._answer = answer_id, self._read_answer(answer_id)
        position = index - self._answer.first_index
        durations = self._answer.milliseconds
        return self._answer.attempt, durations[position] if 0 <= position < len(durations) else 0.0

    def _read_answer(self, answer_id: int) -> _Answer:
        try:
            row = self._connection.execute(self._statements["answer"], {"answer_id": answer_id}).fetchone()
            return _Answer(row[0], row[1], milliseconds(row[2])) if row else _NO_ANSWER
        except (sqlite3.DatabaseError, TypeError, ValueError, struct.error):
            return _NO_ANSWER
