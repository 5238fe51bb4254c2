"""Looks for what is wrong with a journal: the file, SQLite's own checks, then every invariant of ours.

Nothing is ever written. Each check in `sql/check.sql` and `sql/check_pace.sql` is one statement, so that each
sees one state of a journal that is being written, and holds the write-ahead log back for no longer than it
takes itself.
"""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from durable_bus.errors import JournalDamaged, NotAJournal
from durable_bus.journal.access import wal_bytes
from durable_bus.journal.admin.wal_readers import wal_readers
from durable_bus.journal.completeness import file_facts, what_may_be_missing
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader
from durable_bus.journal.file_system import network_file_system
from durable_bus.journal.schema import migrate
from durable_bus.journal.statements import as_of, load

__all__ = ["Finding", "Report", "Warning_", "check", "invariants"]

ROWS_SHOWN_MAX = 5
SQLITE_WITHOUT_RESET_BUG = (3, 51, 3)
UNREADABLE = "could not be checked"
"""The column of a row that says so, of a journal that is too damaged for this check."""
_CHECK = re.compile(r"CONSTRAINT (\w+)\s+CHECK \(")


class Finding(NamedTuple):
    """One check: what must be true, and the rows that say it is not."""

    name: str
    means: str
    rows: list[dict[str, Any]]
    """The first few that are wrong; empty: it is true."""
    more: bool
    """There are more than are shown."""

    @property
    def ok(self) -> bool:
        return not self.rows

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "means": self.means, "ok": self.ok, "rows": self.rows, "more": self.more}


class Warning_(NamedTuple):
    """Something to know that is not wrong."""

    name: str
    message: str


@dataclass
class Report:
    """What a check has found."""

    journal: str
    schema_version: int | None = None
    checks: list[Finding] = field(default_factory=list)
    warnings: list[Warning_] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "journal": self.journal,
            "ok": self.ok,
            "schema_version": self.schema_version,
            "sqlite_version": sqlite3.sqlite_version,
            "checks": [finding.to_json() for finding in self.checks],
            "warnings": [warning._asdict() for warning in self.warnings],
        }


def invariants(schema_version: int = SCHEMA_VERSION) -> dict[str, tuple[str, str]]:
    """Every check by name: what it means, and its SQL for a journal of this version."""
    found = {}
    for name, text in as_of(schema_version, load("check.sql", "check_pace.sql")).items():
        comment = [line for line in text.splitlines() if line.startswith("--")]
        found[name] = (" ".join(line[2:].strip() for line in comment), text)
    return found


def check(path: str | Path, *, served: bool = False, noted: tuple[int, bool | None] | None = None) -> Report:
    """Everything that can be checked. `served`: a supervisor has the journal's lock. `noted`: what the lock
    file says about the newest commit (`lock.noted_commit`).

    Raises NotFound, NotAJournal, JournalTooNew or JournalUnreachable; damage is in the report.
    """
    report = Report(str(path))
    facts = file_facts(path)
    if facts.size_bytes and not facts.is_sqlite:
        raise NotAJournal(f"{path} is not a durable_bus journal: it is not an SQLite database")
    missing_bytes = facts.expected_bytes - facts.size_bytes
    cut_off = f"the file was cut off: {missing_bytes} of its {facts.expected_bytes} bytes are missing"
    means = "The file is as long as its header says."
    report.checks.append(_finding("file_is_whole", means, cut_off if facts.is_truncated else None))
    try:
        missing = None if served else what_may_be_missing(path, facts, noted)[0]
        means = "Whatever was committed last is here: the -wal that belongs to the journal is beside it."
        report.checks.append(_finding("wal_is_here", means, missing))
        connection = open_reader(path)
    except JournalDamaged as error:
        report.checks.append(_finding("can_be_opened", "SQLite can open the journal.", str(error)))
        return report
    with contextlib.closing(connection):
        report.schema_version = connection.execute("PRAGMA user_version").fetchone()[0]
        report.checks += _checks(connection, report.schema_version or 0)
    report.warnings += _warnings(path)
    return report


def _finding(name: str, means: str, problem: str | None) -> Finding:
    return _of_rows(name, means, [{"problem": problem}] if problem else [])


def _of_rows(name: str, means: str, rows: list[dict[str, Any]]) -> Finding:
    return Finding(name, means, rows[:ROWS_SHOWN_MAX], len(rows) > ROWS_SHOWN_MAX)


def _checks(connection: sqlite3.Connection, schema_version: int) -> Iterator[Finding]:
    if schema_version == SCHEMA_VERSION:
        yield _schema(connection)
    yield _constraints(connection)
    for name, (means, sql) in invariants(schema_version).items():
        yield _ask(connection, name, means, sql)


def _ask(connection: sqlite3.Connection, name: str, means: str, sql: str) -> Finding:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.row_factory = sqlite3.Row
        try:
            rows = [dict(row) for row in cursor.execute(sql).fetchmany(ROWS_SHOWN_MAX + 1)]
        except sqlite3.DatabaseError as error:
            rows = [{UNREADABLE: str(error)}]
    return _of_rows(name, means, rows)


def _schema(connection: sqlite3.Connection) -> Finding:
    """Tables, indexes and views, compared with those that the migrations make."""
    sql = load("history.sql")["schema"]
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh)
        wanted = set(fresh.execute(sql))
    found = set(connection.execute(sql))
    rows = [{"name": name, "is": "missing or changed"} for name, _ in sorted(wanted - found)]
    means = "Tables, indexes and views are those that the migrations make."
    return _of_rows("schema_is_as_migrated", means, rows)


def _constraints(connection: sqlite3.Connection) -> Finding:
    """Every CHECK of every table. SQLite leaves them out of a schema that it reads from a read-only database,
    so its own integrity_check does not look at them.
    """
    means, rows = "Every CHECK constraint holds.", []
    try:
        for table, sql in connection.execute(load("history.sql")["tables"]).fetchall():
            checks = _checks_of(sql)
            named = " ".join(f"WHEN NOT ({expression}) THEN '{name}'" for name, expression in checks.items())
            if checks:
                broken = f'SELECT * FROM (SELECT CASE {named} END AS broken, * FROM "{table}")'
                found = connection.execute(f"{broken} WHERE broken IS NOT NULL LIMIT {ROWS_SHOWN_MAX + 1}")
                rows += [{"table": table, "constraint": row[0], "row": row[1]} for row in found.fetchall()]
    except sqlite3.DatabaseError as error:
        rows = [{UNREADABLE: str(error)}]
    return _of_rows("check_constraints", means, rows)


def _checks_of(sql: str) -> dict[str, str]:
    """The named CHECK constraints of a CREATE TABLE: their expressions, to the bracket that closes them."""
    checks = {}
    for match in _CHECK.finditer(sql):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        checks[match[1]] = sql[match.end() : end - 1]
    return checks


def _warnings(path: str | Path) -> Iterator[Warning_]:
    if sqlite3.sqlite_version_info < SQLITE_WITHOUT_RESET_BUG:
        yield Warning_(
            "old_sqlite",
            f"SQLite {sqlite3.sqlite_version} is older than 3.51.3: two connections that write or checkpoint "
            "a journal at the same instant may lose pages (the WAL-reset bug of 3.7.0 to 3.51.2). We are "
            "safe from it, because one connection writes and checkpoints and all others are read-only: open "
            "the journal with mode=ro in programs of your own, too",
        )
    if (kind := network_file_system(path)) is not None:
        yield Warning_(
            "network_file_system",
            f"the journal is on {kind}, a file system of other machines, too: open it on the machine of its "
            "supervisor only, and see to it that there is one supervisor. A local disk is safer",
        )
    for reader in wal_readers(path):
        yield Warning_(
            "wal_held_back",
            f"{reader} has a transaction open on the journal: the write-ahead log, "
            f"{wal_bytes(path) or 0} bytes now, cannot shrink before it ends",
        )
