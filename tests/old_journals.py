"""Journals that older versions have written, and what a step to this version makes of them."""

import gzip
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from golden_journal import GOLDEN
from support import Facts, environment

from durable_bus.journal.admin.check import check
from durable_bus.journal.connection import SCHEMA_VERSION, open_writer
from durable_bus.journal.schema import upgrade

OLD = [
    path.name.removesuffix(".gz")
    for path in sorted(GOLDEN.glob("v*.gz"))
    if int(path.name.split(".")[0].removeprefix("v")) < SCHEMA_VERSION
]
"""The golden journals of older versions."""
VIEWS = (  # those that every version has
    "buffers",
    "items",
    "results",
    "in_flight",
    "dispatches",
    "failures",
    "messages",
    "runs",
    "throughput",
)
SCHEMA = (
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name NOT LIKE '_sqlite_%' ORDER BY 1, 2"
)


def old_journal(path: Path, name: str) -> Path:
    """Put one of them at `path`."""
    path.write_bytes(gzip.decompress((GOLDEN / f"{name}.gz").read_bytes()))
    return path


def all_rows(journal: Path) -> dict[str, list[dict[str, Any]]]:
    facts = Facts(journal)
    return {view: facts.dicts(f"SELECT * FROM {view} ORDER BY 1, 2") for view in VIEWS}


def as_before(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a view, without the columns that it has got since."""
    return [{name: row[name] for name in was} for was, row in zip(before, rows, strict=True)]


def version_of(journal: Path) -> int:
    return int(Facts(journal).value("PRAGMA user_version"))


def upgraded(journal: Path) -> Path:
    with closing(open_writer(journal)) as connection:
        assert upgrade(connection, journal, big_ones=False) is not None
    return journal


def is_right(journal: Path) -> bool:
    """But for its -wal: the supervisor of then was killed, too, and here no lock file says more."""
    return [finding.name for finding in check(journal).checks if not finding.ok] in ([], ["wal_is_here"])


@contextmanager
def refused_once_changed(journal: Path, table: str, change: tuple[str, str]) -> Iterator[sqlite3.Connection]:
    """Its table is not as it was made: its upgrade is refused, and leaves all as it is, also for the
    connection that has tried.
    """
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        sql = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?"
        connection.execute(sql, (*change, table))
        connection.commit()
    before = Facts(journal).rows(SCHEMA), all_rows(journal)
    with closing(open_writer(journal)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
            upgrade(connection, journal, big_ones=True)
        yield connection
    assert (Facts(journal).rows(SCHEMA), all_rows(journal)) == before


KILLED = """
import os, signal, sys
from contextlib import closing
from pathlib import Path
from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import upgrade

journal, last = Path(sys.argv[1]), int(sys.argv[2])
executed = []

def execute(sql):
    executed.append(sql)
    if len(executed) == last:
        os.kill(os.getpid(), signal.SIGKILL)

connection = open_writer(journal)
connection.set_trace_callback(execute)
upgrade(connection, journal, big_ones=True)
connection.set_trace_callback(None)
if last < 0:
    os.kill(os.getpid(), signal.SIGKILL)  # with all of it in the log only
print(len(executed), [sql.split()[0] for sql in executed].index("COMMIT") + 1)
"""


def run_until(journal: Path, statement: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", KILLED, str(journal), str(statement)]
    return subprocess.run(command, env=environment(), timeout=60, capture_output=True, text=True)
