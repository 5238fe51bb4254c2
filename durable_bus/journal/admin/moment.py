"""A journal at one moment: now, or after any commit. Read-only.

Every transition in the journal is a column that names its commit, so one statement serves the present and the
past. All reads are one transaction, so what is read belongs together.
"""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from durable_bus.errors import JournalError, UsageError
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, transaction, translated
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.statements import statements_of_its_version

__all__ = ["PAGE_ROWS", "Moment", "MomentReader"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAGE_ROWS = 50
"""So many rows a statement gives that is not told otherwise."""


class Moment(NamedTuple):
    """A commit, and the last rows of each kind that were there by then."""

    commit: int
    at_ms: int
    run_id: int
    is_now: bool
    oldest: int
    """The first commit that the journal still has."""
    oldest_ms: int
    newest: int
    newest_ms: int
    last_answer: int
    last_failure: int
    last_dispatch: int


class MomentReader:
    """Reads a journal at one moment. Raises NotFound, else a JournalError, as `open_reader` does.

    A journal of a newer version is read as far as it can be: what this one knows may be elsewhere there.
    """

    def __init__(self, path: str | Path, moment: str | None = None) -> None:
        """`moment`: a commit's number, or a time in ISO 8601 (UTC unless it says otherwise); None: now.

        Raises UsageError for anything else, and for a commit that is not there yet.
        """
        self.path = Path(path)
        self.connection = open_reader(path, newer=True)
        self._ended = contextlib.ExitStack()
        try:
            with translated(path):
                files = ("console.sql", "console_buffers.sql", "commits.sql")
                self.statements = statements_of_its_version(self.connection, *files)
                self._ended.enter_context(transaction(self.connection, "DEFERRED"))
                self.moment = self._moment(moment)
            self.reader = JournalReader(path, self.connection)
            """The same state, for whoever reads with its methods."""
        except BaseException:
            with contextlib.suppress(JournalError):  # what is raised already says more
                self.close()
            raise

    def close(self) -> None:
        try:
            with translated(self.path):
                self._ended.close()
        finally:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The moment

    def _moment(self, moment: str | None) -> Moment:
        newest = self.statements.one("newest")
        if newest is None:
            if moment is not None:
                raise UsageError(f"nothing had happened at {moment:.60}: the journal is empty")
            return Moment(0, 0, 0, True, 0, 0, 0, 0, 0, 0, 0)
        oldest = self.statements.one("oldest")
        assert oldest is not None
        commit, at_ms, run_id = newest
        if moment is not None:
            wanted = self._commit_named(moment, newest[0])
            row = self.statements.one("commit_row", commit_id=wanted)
            if row is None:
                raise UsageError(f"nothing had happened at {moment:.60}: the journal begins later")
            commit, at_ms, run_id = row
        is_now = commit == newest[0]
        sql, until = self.statements, None if is_now else commit
        answer, failure = sql.value("newest_answer_id"), sql.value("newest_failure_id")
        dispatch = sql.value("newest_dispatch_id")
        last_ones = [
            _last_until(until, answer, lambda key: sql.value("answer_probe", id=key)),
            _last_until(until, failure, lambda key: sql.value("failure_probe", id=key)),
            _last_until(until, dispatch, lambda key: sql.value("dispatch_probe", id=key)),
        ]
        return Moment(commit, at_ms, run_id, is_now, *oldest, *newest[:2], *last_ones)

    def _commit_named(self, moment: str, newest: int) -> int:
        if moment.isascii() and moment.isdecimal() and len(moment) < 19:
            if int(moment) > newest:
                raise UsageError(f"there is no commit {moment} yet: the newest is {newest}")
            return int(moment)
        try:
            time = datetime.fromisoformat(moment)
        except ValueError:
            raise UsageError(
                f"{moment!r:.60} is neither a commit's number nor a time such as 2026-01-31T12:00:00Z"
            ) from None
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        found = self.statements.value(
            "last_commit_until", time_ms=(time - _EPOCH) // timedelta(milliseconds=1)
        )
        if found is None:
            raise UsageError(f"nothing had happened at {moment:.60}: the journal begins later")
        return int(found)

    # Rows

    def rows_of(self, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
        moment = self.moment
        at = {
            "at": moment.commit,
            "at_ms": moment.at_ms,
            "is_now": moment.is_now,
            "last_answer": moment.last_answer,
            "last_failure": moment.last_failure,
            "last_dispatch": moment.last_dispatch,
            "limit": PAGE_ROWS,
        }
        with translated(self.path):
            return [dict(row) for row in self.statements.rows(name, **{**at, **parameters})]

    def row_of(self, name: str, /, **parameters: Any) -> dict[str, Any] | None:
        rows = self.rows_of(name, **parameters)
        return rows[0] if rows else None

    @property
    def schema_version(self) -> int:
        with translated(self.path):
            return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    @property
    def is_of_a_newer_version(self) -> bool:
        return self.schema_version > SCHEMA_VERSION


def _last_until(commit: int | None, newest: int | None, commit_from: Callable[[int], int]) -> int:
    """The highest key of the rows that were there after a commit; None: after the newest. Keys grow with
    commits, so halving finds it. `commit_from`: of the first row that has this key or a higher one. Of
    dispatches it passes over those that were returned, and some of them may have been there, too.
    """
    if commit is None or not newest:
        return newest or 0
    low, high = 0, newest + 1  # of `low` is known that it was there, of `high` that it was not
    while high - low > 1:
        middle = (low + high) // 2
        if commit_from(middle) <= commit:
            low = middle
        else:
            high = middle
    return low
