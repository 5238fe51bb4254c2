"""Journals that older versions have written, and what a step to this version makes of them."""

import gzip
import signal
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


_UPGRADES = """
import os, signal, sys
from pathlib import Path
import sqlite_utils  # which an upgrade imports
from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import upgrade

def upgrade_until(last, journal):
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
    connection.close()
    return len(executed), [sql.split()[0] for sql in executed].index("COMMIT") + 1

for line in sys.stdin:
    last, journal = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if not child:
        print(*upgrade_until(int(last), Path(journal)), flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Upgrades:
    """Processes that upgrade a journal, and die on the way. One that has imported all forks for each."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", _UPGRADES],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Upgrades":
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate(timeout=60)

    def _run(self, last: int, journal: Path) -> str:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{last} {journal}\n")
        self._parent.stdin.flush()
        return self._parent.stdout.readline()

    def whole(self, journal: Path) -> tuple[int, int]:
        """How many statements there are, and which of them is the first COMMIT."""
        statements, commit = map(int, self._run(0, journal).split())
        assert self._parent.stdout is not None
        assert self._parent.stdout.readline() == "0\n"
        return statements, commit

    def killed_at(self, statement: int, journal: Path) -> None:
        """Before that statement; -1: after the last one, with the connection open."""
        assert int(self._run(statement, journal)) == -signal.SIGKILL
