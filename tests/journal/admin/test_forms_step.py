"""Migration 0002 on journals that version 1 has written: whole or not at all, and everything is as it was."""

import gzip
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import synthetic
from apps import two_forms
from command_line import durable_bus
from golden_journal import GOLDEN, golden_journal
from support import Facts, environment

from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client
from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.history import History
from durable_bus.journal.admin.query import ask, question, questions
from durable_bus.journal.admin.salvage import Salvage
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, open_writer
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.schema import migrate, upgrade
from durable_bus.payloads.messages import Text, Xml

VIEWS = (
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


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """With text and XML; items in hand, waiting and passed on; a pruned buffer; messages that wait."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress((GOLDEN / "v1.forms.gz").read_bytes()))
    return path


def all_rows(journal: Path) -> dict[str, list[dict[str, Any]]]:
    facts = Facts(journal)
    return {view: facts.dicts(f"SELECT * FROM {view} ORDER BY 1, 2") for view in VIEWS}


def version_of(journal: Path) -> int:
    return int(Facts(journal).value("PRAGMA user_version"))


def upgraded(journal: Path) -> Path:
    with closing(open_writer(journal)) as connection:
        assert upgrade(connection, journal, big_ones=False) is not None
    return journal


def test_an_upgraded_journal_has_the_schema_of_a_new_one_to_the_letter(old: Path, tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "new.db")) as connection:
        migrate(connection)
    new = Facts(tmp_path / "new.db").rows(SCHEMA)
    assert Facts(upgraded(old)).rows(SCHEMA) == new
    assert not [name for _, name, _, sql in new if "is_xml_is_bool" in (sql or "")]


def test_every_view_shows_what_it_showed_and_what_is_new(old: Path) -> None:
    before = all_rows(old)
    after = all_rows(upgraded(old))
    for view in VIEWS:
        assert [
            {name: row[name] for name in was} for was, row in zip(before[view], after[view], strict=True)
        ] == (before[view])
    for view in ("items", "results", "messages"):
        assert {row["form"] for row in after[view]} == {"text", "xml"}
        assert all(row["form"] == ("xml" if row["is_xml"] else "text") for row in after[view])
        assert {row["json"] for row in after[view]} == {None}


def test_sqlite_and_every_invariant_are_content(old: Path) -> None:
    assert durable_bus("migrate", "--journal", old, cwd=old.parent).code == 0
    with closing(open_reader(old)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    ran = durable_bus("check", "--journal", old, "--json", cwd=old.parent)
    report = json.loads(ran.out)
    assert (ran.code, report["schema_version"]) == (0, SCHEMA_VERSION)
    assert "schema_is_as_migrated" in {finding["name"] for finding in report["checks"]}


def test_who_has_it_open_sees_the_new_schema_and_who_writes_next_writes_it(old: Path) -> None:
    with closing(open_reader(old)) as reader:
        names = [column[0] for column in reader.execute("SELECT * FROM items LIMIT 1").description]
        assert "form" not in names
        upgraded(old)
        names = [column[0] for column in reader.execute("SELECT * FROM items LIMIT 1").description]
        assert names[-3:] == ["form", "json", "item_key"]
        with closing(open_writer(old)) as writer:
            writer.execute("UPDATE result SET form = 2, payload = '[1]' WHERE form = 0")
            with pytest.raises(sqlite3.IntegrityError, match="form_is_known"):
                writer.execute("UPDATE result SET form = 4")
        assert reader.execute("SELECT DISTINCT json FROM results WHERE form = 'json'").fetchall() == [
            ("[1]",)
        ]


def test_the_same_connection_writes_on_under_the_new_schema(old: Path) -> None:
    with closing(open_writer(old)) as connection:
        upgrade(connection, old, big_ones=False)
        with pytest.raises(sqlite3.IntegrityError, match="form_is_known"):
            connection.execute("UPDATE item SET form = 4")
        assert connection.execute("UPDATE item SET form = 3").rowcount > 0
        assert connection.execute("PRAGMA writable_schema").fetchone() == (0,)


def test_no_row_is_touched(tmp_path: Path) -> None:
    """However many there are: what is written is the schema, some pages of it."""
    written = []
    for results in (100, 10_000):
        journal = tmp_path / f"{results}.db"
        synthetic.make(journal, results, 10, schema_version=1)
        pages = Facts(journal).value("PRAGMA page_count")
        with closing(open_writer(journal)) as connection:
            migrate(connection)
            written.append(connection.execute("PRAGMA wal_checkpoint").fetchone()[1])
        assert Facts(journal).value("PRAGMA page_count") - pages <= 2
    assert written[0] == written[1] < 20


CHANGED = [
    ("is_xml IN (0, 1)", "is_xml IN (0,1)"),
    ("is_xml_is_bool", "other"),
    ("is_xml INTEGER NOT NULL", "is_xml INTEGER  NOT NULL"),
]


@pytest.mark.parametrize("change", CHANGED)
def test_tables_that_are_not_as_version_1_made_them_are_left_alone(
    old: Path, change: tuple[str, str]
) -> None:
    """As somebody's own migration may have: the CHECK would stay, and the first JSON would be refused."""
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'result'", change)
        connection.commit()
    before = Facts(old).rows(SCHEMA), all_rows(old)
    with closing(open_writer(old)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
            upgrade(connection, old, big_ones=True)
        assert connection.execute("SELECT is_xml FROM item LIMIT 1").fetchone()
    assert (Facts(old).rows(SCHEMA), all_rows(old)) == before


def test_an_index_that_somebody_has_made_of_the_column_must_go_first(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE INDEX mine ON result (is_xml)")
    before = Facts(old).rows(SCHEMA), all_rows(old)
    with closing(open_writer(old)) as connection:
        with pytest.raises(sqlite3.DatabaseError, match=r"malformed database schema \(mine\)"):
            upgrade(connection, old, big_ones=True)
        assert connection.execute("SELECT is_xml FROM item LIMIT 1").fetchone()
        assert (Facts(old).rows(SCHEMA), all_rows(old)) == before
        connection.execute("DROP INDEX mine")
        upgrade(connection, old, big_ones=True)
    assert version_of(old) == SCHEMA_VERSION


def test_what_somebody_has_added_stays(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT buffer_id, is_xml FROM items")
        connection.execute("CREATE TABLE note (buffer_id TEXT, said TEXT)")
    mine = "SELECT is_xml, count(*) FROM mine GROUP BY 1 ORDER BY 1"
    before = Facts(old).rows(mine)
    assert Facts(upgraded(old)).rows(mine) == before
    assert Facts(old).rows("SELECT * FROM note") == []


# Killed


def is_right(journal: Path) -> bool:
    """But for its -wal: the supervisor of then was killed, too, and here no lock file says more."""
    return [finding.name for finding in check(journal).checks if not finding.ok] in ([], ["wal_is_here"])


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
POINTS = 12


def run_until(journal: Path, statement: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", KILLED, str(journal), str(statement)]
    return subprocess.run(command, env=environment(), timeout=60, capture_output=True, text=True)


def test_killed_at_any_statement_it_is_old_and_after_the_last_it_is_new(old: Path, tmp_path: Path) -> None:
    """Evenly through all statements, and at those around the commit."""
    trial = tmp_path / "trial.db"
    trial.write_bytes(old.read_bytes())
    statements, commit = map(int, run_until(trial, 0).stdout.split())
    points = sorted({*(1 + statements * n // POINTS for n in range(POINTS)), commit - 1, commit})
    assert len([point for point in points if point <= commit]) > 10
    before = Facts(old).rows(SCHEMA), all_rows(old)
    for point in [point for point in points if point <= commit]:
        assert run_until(old, point).returncode == -signal.SIGKILL
        assert (version_of(old), Facts(old).rows(SCHEMA), all_rows(old)) == (1, *before)
        assert is_right(old)
    assert run_until(old, -1).returncode == -signal.SIGKILL
    assert version_of(old) == SCHEMA_VERSION
    assert is_right(old)
    assert [row["payload"] for row in all_rows(old)["items"]] == [
        row["payload"] for row in before[1]["items"]
    ]


# Read and gone on with


def test_a_journal_that_nobody_has_upgraded_is_read_all_the_same(old: Path) -> None:
    """It may be on a medium that nobody can write to."""
    with JournalReader(old) as reader:
        seq = reader.buffer_seq("mixed")
        assert list(reader.items(seq))[:2] == [Text("one"), Xml("<two>2</two>")]
        results = list(reader.results(seq, with_items=True))
    assert [(one.is_xml, one.form, one.item) for one in results[:2]] == [
        (False, "text", ("one", 0)),
        (True, "xml", ("<two>2</two>", 1)),
    ]
    with closing(Salvage(old, "mixed")) as salvage:
        assert list(salvage.results()) == [
            one._replace(item=None, error=None if one.success else one.payload) for one in results
        ]
    for name in questions():
        sql, given = question(name, {})
        if ":" not in sql and "item_key" not in sql:
            list(ask(old, sql, given, time_limit_s=60))
    assert check(old).ok
    assert version_of(old) == 1


@pytest.mark.slow
def test_a_daemon_takes_the_step_by_itself_and_ends_what_was_open(old: Path) -> None:
    facts = Facts(old)
    recorded = facts.dicts("SELECT * FROM results ORDER BY buffer_id, item_index")
    with open_client(app_spec(two_forms.bus), "two_forms", old, 2, name="cli", grace_s=0.5) as client:
        assert version_of(old) == SCHEMA_VERSION
        complete = client.buffer("open").wait(60)
        assert (complete.total, complete.successful) == (12, 12)
        assert client.buffer("forwarded").wait(60).successful == 2
        answers = list(client.buffer("open").results())
    assert [answer.payload for answer in answers[2:4]] == ["said gate", "<said><gate>3</gate></said>"]
    assert [(answer.is_xml, answer.form) for answer in answers[2:4]] == [(False, "text"), (True, "xml")]
    assert check(old).ok
    assert version_of(old.with_name(f"{old.name}.before-0002")) == 1
    for was in recorded:
        now = facts.dicts(
            "SELECT * FROM results WHERE buffer_id = ? AND item_index = ?",
            was["buffer_id"],
            was["item_index"],
        )
        assert [{name: row[name] for name in was} for row in now] == [was]
    with History(old) as history:
        assert [run["ended"] for run in history.runs(served=False)] == ["crashed", "clean"]


def test_the_golden_journal_of_each_version_can_be_read_without_being_upgraded(tmp_path: Path) -> None:
    for version in range(1, SCHEMA_VERSION + 1):
        with JournalReader(golden_journal(tmp_path / f"{version}.db", version)) as reader:
            results = list(reader.results(reader.buffer_seq("failing"), with_items=True))
        assert [result.item for result in results][:2] == [("flaky", 0), ("fine", 0)]
