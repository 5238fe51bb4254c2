"""The journal's schema is the same by either way that applies it, and is there whole or not at all."""

import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database, Migrations
from support import REPOSITORY

MIGRATIONS = REPOSITORY / "migrations"

Way = Callable[[Path, Path], None]


def as_the_daemon(journal: Path, folder: Path) -> None:
    """One immediate transaction around the whole set; each migration becomes a savepoint in it."""
    migrations: Migrations = runpy.run_path(str(folder / "migrations.py"))["durable_bus"]
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrations.apply(Database(connection, execute_plugins=False))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def by_the_library(journal: Path, folder: Path) -> None:
    """As anybody would in Python: one transaction a migration."""
    migrations: Migrations = runpy.run_path(str(folder / "migrations.py"))["durable_bus"]
    with closing(sqlite3.connect(journal)) as connection:
        migrations.apply(Database(connection, execute_plugins=False))


def by_the_command(journal: Path, folder: Path) -> None:
    """`sqlite-utils migrate`, with a relative path as its documentation shows."""
    command = [sys.executable, "-m", "sqlite_utils", "migrate", str(journal), f"{folder.name}/"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


every_way = pytest.mark.parametrize(
    "apply",
    [as_the_daemon, *(pytest.param(way, marks=pytest.mark.slow) for way in (by_the_library, by_the_command))],
)


def schema(journal: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(journal)) as connection:
        return {
            "sqlite_master": sorted(
                connection.execute(
                    "SELECT type, name, tbl_name, sql FROM sqlite_master"
                    " WHERE name NOT LIKE '%_sqlite_migrations%' AND tbl_name <> '_sqlite_migrations'"
                ),
                key=str,
            ),
            "application_id": connection.execute("PRAGMA application_id").fetchone(),
            "user_version": connection.execute("PRAGMA user_version").fetchone(),
        }


def recorded(journal: Path) -> list[tuple[str, str]]:
    """The migrations applied, in order; none when not even their table is there."""
    with closing(sqlite3.connect(journal)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
            return []
        return connection.execute("SELECT migration_set, name FROM _sqlite_migrations ORDER BY id").fetchall()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A migrations folder of the test's own, with one script that works."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    shutil.copy(MIGRATIONS / "migrations.py", folder)
    (folder / "0001_first.sql").write_text(
        "-- it's a comment; with a quote and a semicolon\n"
        "PRAGMA application_id = 77;\n"
        "CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;\n"
        "CREATE TRIGGER thing_is_kept BEFORE DELETE ON thing\n"
        "BEGIN\n    SELECT RAISE(ABORT, 'kept; always');\nEND;\n"
        "CREATE VIEW things AS SELECT name FROM thing;\n"
        "INSERT INTO thing (name) VALUES ('a;b');\n"
        "PRAGMA user_version = 1;\n"
        "-- the end\n",
        encoding="utf-8",
    )
    return folder


def test_every_way_makes_the_same_schema(tmp_path: Path) -> None:
    ways = (as_the_daemon, by_the_library, by_the_command)
    journals = {way: tmp_path / f"{way.__name__}.db" for way in ways}
    for way, journal in journals.items():
        way(journal, MIGRATIONS)
    daemons = schema(journals[as_the_daemon])
    assert daemons["sqlite_master"]
    assert daemons["application_id"] != (0,)
    assert daemons["user_version"] != (0,)
    assert [schema(journal) for journal in journals.values()] == [daemons] * 3
    scripts = [("durable_bus", path.stem) for path in sorted(MIGRATIONS.glob("*.sql"))]
    assert [recorded(journal) for journal in journals.values()] == [scripts] * 3


@every_way
def test_applying_again_changes_nothing(apply: Way, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    apply(journal, MIGRATIONS)
    before = schema(journal), recorded(journal)
    for again in (as_the_daemon, by_the_library, by_the_command):
        again(journal, MIGRATIONS)
        assert (schema(journal), recorded(journal)) == before


@every_way
def test_a_script_that_fails_in_the_middle_leaves_nothing(apply: Way, tmp_path: Path, folder: Path) -> None:
    journal = tmp_path / "journal.db"
    apply(journal, folder)
    before = schema(journal), recorded(journal)
    assert before[0]["user_version"] == (1,)

    broken = folder / "0002_second.sql"
    broken.write_text(
        "CREATE TABLE other (id INTEGER PRIMARY KEY) STRICT;\n"
        "ALTER TABLE thing ADD COLUMN size INTEGER;\n"
        "DROP VIEW things;\n"
        "PRAGMA user_version = 2;\n"
        "INSERT INTO no_such_table VALUES (1);\n",
        encoding="utf-8",
    )
    with pytest.raises((sqlite3.OperationalError, RuntimeError), match="no_such_table"):
        apply(journal, folder)
    assert (schema(journal), recorded(journal)) == before

    broken.write_text(
        "ALTER TABLE thing ADD COLUMN size INTEGER;\nPRAGMA user_version = 2;\n", encoding="utf-8"
    )
    apply(journal, folder)
    assert schema(journal)["user_version"] == (2,)
    assert recorded(journal) == [("durable_bus", "0001_first"), ("durable_bus", "0002_second")]


KILLED = """
import os, runpy, signal, sqlite3, sys
from sqlite_utils import Database

journal, folder, immediate = sys.argv[1:]
connection = sqlite3.connect(journal, isolation_level=None)
connection.execute("PRAGMA journal_mode = wal")
connection.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
if immediate == "True":
    connection.execute("BEGIN IMMEDIATE")
runpy.run_path(folder + "/migrations.py")["durable_bus"].apply(Database(connection, execute_plugins=False))
"""


@pytest.mark.parametrize("immediate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_leaves_nothing(tmp_path: Path, folder: Path, immediate: bool) -> None:
    journal = tmp_path / "journal.db"
    first = folder / "0001_first.sql"
    whole = first.read_text(encoding="utf-8")
    first.write_text(f"{whole}SELECT die();\nCREATE TABLE last (id INTEGER);\n", encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(journal), str(folder), str(immediate)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert schema(journal) == {"sqlite_master": [], "application_id": (0,), "user_version": (0,)}
    assert recorded(journal) == []

    first.write_text(whole, encoding="utf-8")
    as_the_daemon(journal, folder)
    assert recorded(journal) == [("durable_bus", "0001_first")]


@pytest.mark.parametrize("names", [(), ("0002_second.sql",), ("0001_first.sql", "0003_third.sql")])
def test_an_incomplete_folder_is_refused(tmp_path: Path, folder: Path, names: tuple[str, ...]) -> None:
    (folder / "0001_first.sql").unlink()
    for name in names:
        (folder / name).write_text("SELECT 1;\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="without a gap"):
        as_the_daemon(tmp_path / "journal.db", folder)


def test_a_start_with_a_new_journal_or_one_of_this_version_does_not_load_sqlite_utils(tmp_path: Path) -> None:
    opening = (
        "import sys\nfrom pathlib import Path\nfrom durable_bus.journal.journal import Journal\n"
        "Journal.open(Path(sys.argv[1])).close()\nprint('sqlite_utils' in sys.modules)"
    )
    loaded = [
        subprocess.run(
            [sys.executable, "-c", opening, str(tmp_path / "journal.db")], capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert loaded == ["False", "False"], "it makes the schema, and finds it"
