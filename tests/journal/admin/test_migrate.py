"""An older journal becomes a newer one whole or not at all, after a backup; a daemon takes small steps."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import Command, Ran, durable_bus
from eventful import supervised
from support import REPOSITORY, TESTS, Facts, environment, until

from durable_bus.cli.journal import migrate_command
from durable_bus.errors import JournalTooOld, StorageFull
from durable_bus.journal.admin.check import check
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, open_writer
from durable_bus.journal.schema import Step, migrate, migrations_folder, pending_steps, upgrade


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """This version's migrations, and a small and a big one after them."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), folder)
    number = len(list(folder.glob("*.sql")))
    (folder / f"{number + 1:04d}_small.sql").write_text(
        "-- Adds a column.\nALTER TABLE run ADD COLUMN host TEXT;\n"
    )
    (folder / f"{number + 2:04d}_big.sql").write_text(
        "-- Writes every result again.\n-- big: as long as a copy of the journal takes\n"
        "UPDATE result SET payload = payload || '!';\n"
    )
    return folder


def columns(journal: Path, table: str) -> set[str]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}


def test_what_is_pending_says_what_it_does_and_whether_it_is_big(copied: Path, steps: Path) -> None:
    with closing(open_reader(copied)) as connection:
        assert pending_steps(connection) == []
        small, big = pending_steps(connection, steps)
    assert small == Step(small.name, "Adds a column.", None)
    assert big == Step(big.name, "Writes every result again.", "as long as a copy of the journal takes")


def test_a_daemon_takes_a_small_step_after_a_backup(copied: Path, steps: Path) -> None:
    for script in steps.glob("*_big.sql"):
        script.unlink()
    with closing(open_writer(copied)) as connection:
        backup = upgrade(connection, copied, big_ones=False, folder=steps)
    assert "host" in columns(copied, "run")
    assert backup is not None
    assert backup.parent == copied.parent
    assert "host" not in columns(backup, "run")
    assert check(backup).ok


def test_a_daemon_refuses_a_big_step_and_changes_nothing(copied: Path, steps: Path) -> None:
    with closing(open_writer(copied)) as connection:
        with pytest.raises(JournalTooOld, match=r"as long as a copy.*durable-bus migrate"):
            upgrade(connection, copied, big_ones=False, folder=steps)
    assert "host" not in columns(copied, "run")
    assert not list(copied.parent.glob("*.before-*"))


def test_asked_for_the_big_step_is_taken_too(copied: Path, steps: Path) -> None:
    with closing(open_writer(copied)) as connection:
        backup = upgrade(connection, copied, big_ones=True, folder=steps)
        assert upgrade(connection, copied, big_ones=True, folder=steps) is None
    assert "host" in columns(copied, "run")
    results = "SELECT payload FROM results WHERE buffer_id = 'plain' AND item_index = 0"
    assert Facts(copied).value(results) == "did fine!"
    assert backup is not None
    assert Facts(backup).value(results) == "did fine"


KILLED = """
import os, signal, sys
from pathlib import Path
from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import upgrade

journal = Path(sys.argv[1])
connection = open_writer(journal)
connection.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
upgrade(connection, journal, big_ones=True, folder=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_in_the_second_step_the_first_has_not_happened_either(copied: Path, steps: Path) -> None:
    (big,) = steps.glob("*_big.sql")
    whole = big.read_text()
    big.write_text(whole + "SELECT die();\n")
    before = check(copied).to_json()["checks"]
    command = [sys.executable, "-c", KILLED, str(copied), str(steps)]
    killed = subprocess.run(command, env=environment(), timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert "host" not in columns(copied, "run")
    assert check(copied).to_json()["checks"] == before
    assert all(finding["ok"] for finding in before)
    big.write_text(whole)
    with closing(open_writer(copied)) as connection:
        assert upgrade(connection, copied, big_ones=True, folder=steps) is not None
    assert "host" in columns(copied, "run")


def test_a_new_journal_needs_no_backup(tmp_path: Path, steps: Path) -> None:
    journal = tmp_path / "new.db"
    with closing(open_writer(journal)) as connection:
        assert upgrade(connection, journal, big_ones=False, folder=steps) is None
    assert "host" in columns(journal, "run")
    assert not list(tmp_path.glob("*.before-*"))


def made_by(make: Callable[[sqlite3.Connection, Path], object], journal: Path) -> bytes:
    """A new journal's bytes, without the times at which the steps were taken."""
    with closing(open_writer(journal)) as connection:
        make(connection, journal)
        times = [time for (time,) in connection.execute("SELECT applied_at FROM _sqlite_migrations")]
    content = journal.read_bytes()
    for time in times:
        assert datetime.fromisoformat(time).tzinfo is not None
        content = content.replace(time.encode(), b"the time")
    return content


def test_a_new_journal_is_what_sqlite_utils_would_make(tmp_path: Path, steps: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    as_we_do = partial(upgrade, big_ones=False, folder=steps)
    assert made_by(as_we_do, ours) == made_by(lambda connection, _: migrate(connection, steps), theirs)
    with closing(open_reader(ours)) as connection:
        assert pending_steps(connection, steps) == []


@pytest.mark.parametrize("cut", ["no_such_table", "die"])
def test_a_new_journal_is_made_whole_or_not_at_all(tmp_path: Path, steps: Path, cut: str) -> None:
    journal = tmp_path / "new.db"
    (big,) = steps.glob("*_big.sql")
    whole = big.read_text()
    big.write_text(whole + ("SELECT die();\n" if cut == "die" else "INSERT INTO no_such_table VALUES (1);\n"))
    command = [sys.executable, "-c", KILLED, str(journal), str(steps)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL if cut == "die" else "no_such_table" in ended.stderr
    with closing(sqlite3.connect(journal)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    big.write_text(whole)
    with closing(open_writer(journal)) as connection:
        assert upgrade(connection, journal, big_ones=False, folder=steps) is None
    assert "host" in columns(journal, "run")


def test_an_incomplete_copy_of_the_scripts_makes_no_journal(tmp_path: Path, steps: Path) -> None:
    (steps / "0001_journal.sql").unlink()
    with closing(open_writer(tmp_path / "new.db")) as connection:
        with pytest.raises(FileNotFoundError, match="without a gap"):
            upgrade(connection, tmp_path / "new.db", big_ones=False, folder=steps)


def test_the_command_says_that_there_is_nothing_to_do(copied: Path, tmp_path: Path) -> None:
    ran = durable_bus("migrate", "--journal", copied, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert "nothing to do" in ran.out
    assert durable_bus("migrate", "--journal", "absent.db", cwd=tmp_path).code == 3
    assert not (tmp_path / "absent.db").exists()


# The command, of a version that has steps to take


class NextVersion:
    """A copy of this program as a later one: its journal has a schema version more, and scripts for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts = folder / "migrations"
        shutil.copytree(migrations_folder(), self.scripts)
        shutil.copytree(
            REPOSITORY / "durable_bus", folder / "durable_bus", ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "pyproject.toml").touch()  # by which a checkout is known
        source = folder / "durable_bus" / "journal" / "connection.py"
        source.write_text(
            source.read_text().replace(
                f"SCHEMA_VERSION = {SCHEMA_VERSION}", f"SCHEMA_VERSION = {SCHEMA_VERSION + 1}"
            )
        )
        self.small = self.add(1, "-- Adds a column.\nALTER TABLE run ADD COLUMN host TEXT;\n")
        self.big = self.add(
            2,
            "-- Writes every result again.\n-- big: as long as a copy of the journal takes\n"
            f"UPDATE result SET payload = payload || '!';\nPRAGMA user_version = {SCHEMA_VERSION + 1};\n",
        )

    def add(self, number: int, sql: str) -> Path:
        path = self.scripts / f"{SCHEMA_VERSION + number:04d}_step.sql"
        path.write_text(sql)
        return path

    @property
    def variables(self) -> dict[str, str]:
        return {"PYTHONPATH": f"{self.folder}:{TESTS}"}

    def run(self, *arguments: object) -> Ran:
        return durable_bus(*arguments, cwd=self.folder, **self.variables)


@pytest.fixture
def later(tmp_path: Path) -> NextVersion:
    folder = tmp_path / "later"
    folder.mkdir()
    return NextVersion(folder)


SAID = f"""\
{SCHEMA_VERSION + 1:04d}_step: Adds a column.
{SCHEMA_VERSION + 2:04d}_step: Writes every result again. (a big step: as long as a copy of the journal takes)
"""
COST = r"[0-9.]+ KiB of the [0-9,.]+ [GM]iB that are free, about [0-9.]+ s"
SAID_ON_STDERR = "durable-bus: first comes a backup: …\ndurable-bus: …\n"
FIRST_RESULT = "SELECT payload FROM results WHERE buffer_id = 'plain' AND item_index = 0"


def test_the_command_says_what_it_will_do_backs_up_and_does_it(copied: Path, later: NextVersion) -> None:
    before = copied.read_bytes()
    dry = later.run("migrate", "--dry-run", "--journal", copied)
    assert (dry.code, dry.err) == (0, "")
    assert dry.out.startswith(
        f"{SAID}{copied} has schema version {SCHEMA_VERSION}: 2 steps to go, after a backup: "
    )
    assert re.search(COST, dry.out)
    assert copied.read_bytes() == before
    backup = copied.with_name(f"{copied.name}.before-{SCHEMA_VERSION + 1:04d}")
    assert not backup.exists()
    ran = later.run("migrate", "--journal", copied)
    assert (ran.code, re.sub(COST + "|done in [0-9.]+ s", "…", ran.err)) == (0, SAID_ON_STDERR)
    now = f"{copied} has schema version {SCHEMA_VERSION + 1} now; how it was before is in {backup}\n"
    assert ran.out == SAID + now
    assert (Facts(copied).value(FIRST_RESULT), Facts(backup).value(FIRST_RESULT)) == ("did fine!", "did fine")
    assert "host" not in columns(backup, "run")
    assert check(backup).ok
    assert later.run("check", "--journal", copied).code == 0
    again = later.run("migrate", "--journal", copied)
    assert (again.code, "nothing to do" in again.out) == (0, True)
    this = durable_bus("migrate", "--journal", copied, cwd=copied.parent)
    assert (this.code, "upgrade durable_bus" in this.error) == (5, True)


def test_a_journal_whose_backup_has_no_room_is_left_alone(
    copied: Path, later: NextVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, whose disk is said to be full; the steps are those of the next version."""
    monkeypatch.setattr("durable_bus.journal.schema.migrations_folder", lambda: later.scripts)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=copied.stat().st_size - 1))
    assert migrate_command.callback is not None
    for dry_run in (True, False):
        with pytest.raises(StorageFull, match=r"a backup of .* takes .* beside it, and .* are free"):
            migrate_command.callback(copied, dry_run)
    assert "host" not in columns(copied, "run")
    assert not list(copied.parent.glob("*.before-*"))


def test_a_step_that_has_no_room_is_one_line_and_not_taken(copied: Path, later: NextVersion) -> None:
    """It gets no more pages than there are."""
    sql = later.big.read_text()
    more = "CREATE TABLE more AS SELECT zeroblob(1000000) AS x;"
    later.big.write_text(f"{sql}PRAGMA max_page_count = 1;\n{more}\n")
    ran = later.run("migrate", "--journal", copied)
    assert (ran.code, ran.err.splitlines()[1:]) == (
        5,
        [f"durable-bus: no room on disk for the journal {copied}"],
    )
    assert "host" not in columns(copied, "run")
    assert check(copied).ok


@pytest.mark.slow
def test_a_daemon_leaves_the_big_step_to_the_command(copied: Path, later: NextVersion) -> None:
    before = copied.read_bytes()
    ran = later.run("serve", "apps.eventful:bus", "--journal", copied)
    assert (ran.code, ran.out) == (5, "")
    assert f"run durable-bus migrate --journal {copied}" in ran.err
    assert "host" not in columns(copied, "run")
    assert not list(copied.parent.glob("*.before-*"))
    assert before[100:] == copied.read_bytes()[100:]


@pytest.mark.slow
def test_a_daemon_takes_a_small_step_and_serves(copied: Path, later: NextVersion) -> None:
    later.big.unlink()
    with later.small.open("a") as script:
        script.write(f"PRAGMA user_version = {SCHEMA_VERSION + 1};\n")
    daemon = Command("serve", "apps.eventful:bus", "--journal", copied, cwd=later.folder, **later.variables)
    Facts(copied).until("SELECT count(*) = 5 AND max(ended) = 'running' FROM runs")
    assert "host" in columns(copied, "run")
    assert "host" not in columns(copied.with_name(f"{copied.name}.before-{SCHEMA_VERSION + 1:04d}"), "run")
    daemon.process.terminate()
    assert daemon.ended().code == 0
    assert later.run("check", "--journal", copied).code == 0


@pytest.mark.slow
def test_the_command_waits_for_no_daemon_and_changes_nothing_under_one(
    copied: Path, later: NextVersion
) -> None:
    with supervised(copied) as client:
        ran = later.run("migrate", "--journal", copied)
        assert (ran.code, ran.out) == (5, SAID)
        assert f"process {client.supervisor_pid}" in ran.error
    assert "host" not in columns(copied, "run")


# Endless, and seen to be on: what it writes spills into the log, uncommitted.
ENDLESS = """
CREATE TABLE filler AS
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT randomblob(4000) FROM n;
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["backup", "small", "big"])
def test_the_command_killed_between_has_changed_nothing(
    copied: Path, later: NextVersion, killed_in: str
) -> None:
    backup, wal = copied.with_name(f"{copied.name}.before-{SCHEMA_VERSION + 1:04d}"), Path(f"{copied}-wal")
    script = later.big if killed_in == "big" else later.small
    whole = script.read_text()
    script.write_text(whole + ENDLESS)
    command = Command("migrate", "--journal", copied, cwd=later.folder, **later.variables)
    until(backup.exists, "the backup is there")
    if killed_in != "backup":
        until(lambda: wal.stat().st_size > 1_000_000, "the endless step is on")
    assert command.kill().code == -signal.SIGKILL
    script.write_text(whole)
    for journal in (copied, backup):
        assert "host" not in columns(journal, "run")
        assert Facts(journal).value(FIRST_RESULT) == "did fine"
        assert check(journal).ok
    ran = later.run("migrate", "--journal", copied)
    assert ran.code == 0
    assert Facts(copied).value(FIRST_RESULT) == "did fine!"


@pytest.mark.slow
def test_a_newer_journal_is_refused_by_everything(copied: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(copied)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = copied.read_bytes()
    for command in ("migrate", "check", "status", "replay show", "query --named stuck"):
        ran = durable_bus(*command.split(), "--journal", copied, cwd=tmp_path)
        assert ran.code == 5, command
        assert "schema version 99" in ran.error
    assert copied.read_bytes() == before
