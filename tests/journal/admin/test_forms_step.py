"""Migration 0002 on journals that version 1 has written: whole or not at all, and everything is as it was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import synthetic
from apps import two_forms
from old_journals import (
    SCHEMA,
    VIEWS,
    all_rows,
    as_before,
    old_journal,
    refused_once_changed,
    upgraded,
    version_of,
)
from support import Facts

from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import open_client
from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.history import History
from durable_bus.journal.admin.salvage import Salvage
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader, open_writer
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.schema import migrate, upgrade
from durable_bus.payloads.messages import Text, Xml


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """With text and XML; items in hand, waiting and passed on; a pruned buffer; messages that wait."""
    return old_journal(tmp_path / "old.db", "v1.forms")


def test_every_view_shows_what_it_showed_and_what_is_new(old: Path) -> None:
    before = all_rows(old)
    after = all_rows(upgraded(old))
    for view in VIEWS:
        assert as_before(after[view], before[view]) == before[view]
    for view in ("items", "results", "messages"):
        assert {row["form"] for row in after[view]} == {"text", "xml"}
        assert all(row["form"] == ("xml" if row["is_xml"] else "text") for row in after[view])
        assert {row["json"] for row in after[view]} == {None}


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
    """However many there are: what is written is the schema, some pages of it, and a page for each new table
    and index.
    """
    written, grown = [], []
    for results in (100, 10_000):
        journal = tmp_path / f"{results}.db"
        synthetic.make(journal, results, 10, schema_version=1)
        pages = Facts(journal).value("PRAGMA page_count")
        with closing(open_writer(journal)) as connection:
            migrate(connection)
            written.append(connection.execute("PRAGMA wal_checkpoint").fetchone()[1])
        grown.append(Facts(journal).value("PRAGMA page_count") - pages)
    assert max(grown) <= min(grown) + 2 < 20
    assert max(written) <= min(written) + 2 < 40


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
    with refused_once_changed(old, "result", change) as connection:
        assert connection.execute("SELECT is_xml FROM item LIMIT 1").fetchone()


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
