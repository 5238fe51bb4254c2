"""Journals of other versions, and journals with nothing in them."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from everything import Everything
from golden_journal import GOLDEN
from old_journals import old_journal
from pages_read import Pages, words
from support import Facts

from durable_bus.errors import JournalTooNew
from durable_bus.journal.connection import SCHEMA_VERSION, open_reader
from durable_bus.journal.journal import Journal

ALL = sorted(path.name.removesuffix(".gz") for path in GOLDEN.glob("*.gz"))
NEWER = "made by a newer durable_bus"


def every_page(pages: Pages) -> int:
    """Open all of them; how many there were."""
    facts = Facts(pages.journal)
    addresses = ["/", "/buffers", "/workers", "/messages", "/questions", "/time"]
    for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers"):
        addresses += [f"/buffers/{buffer_id}", f"/buffers/{buffer_id}?state=waiting"]
    keys = "SELECT buffer_id, {}(item_index) FROM items GROUP BY 1"
    keys = f"{keys.format('min')} UNION {keys.format('max')}"
    addresses += [f"/buffers/{buffer_id}/items/{index}" for buffer_id, index in facts.rows(keys)]
    addresses += [
        f"/messages/{message_id}" for (message_id,) in facts.rows("SELECT message_id FROM messages LIMIT 20")
    ]
    newest = facts.value("SELECT max(commit_id) FROM journal_commit")
    for address in addresses:
        pages.get(address)
    for address in ("/", "/buffers", "/workers", "/messages", "/time"):
        for at in (1, newest // 2, newest):
            pages.get(address, at=at)
    return len(addresses)


OLDEST, NEWEST = ALL[0], ALL[-1]


@pytest.mark.parametrize(
    "name",
    [OLDEST, NEWEST, *(pytest.param(name, marks=pytest.mark.slow) for name in ALL[1:-1])],
)
def test_every_page_opens_on_a_journal_of_an_older_version(tmp_path: Path, name: str) -> None:
    pages = Pages(old_journal(tmp_path / "old.db", name))
    assert every_page(pages) > 10
    assert pages.get("/").notices() == []


@pytest.mark.parametrize("name", ALL)
def test_an_old_journal_says_what_its_views_say(tmp_path: Path, name: str) -> None:
    pages = Pages(old_journal(tmp_path / "old.db", name))
    facts = Facts(pages.journal)
    rows = {row["Buffer"]: row for row in pages.get("/buffers").rows()}
    sql = "SELECT buffer_id, state, paused, total, completed FROM buffers"
    for buffer_id, state, paused, total, completed in facts.rows(sql):
        shown = rows[buffer_id]
        assert shown["State"].split(" (")[0].split(",")[0] == (
            "paused" if paused and state == "open" else state
        )
        assert shown["Items"] == (f"{total:,}" if total == completed else f"{completed:,} of {total:,}")


@pytest.fixture
def newer(everything_told: Everything, tmp_path: Path) -> Path:
    """A journal of the next version, of which nobody knows yet what it will bring."""
    path = Path(shutil.copy(everything_told.copies[max(everything_told.copies)], tmp_path / "newer.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.execute("ALTER TABLE buffer ADD COLUMN of_tomorrow INTEGER")
        connection.commit()
    return path


def test_of_a_newer_version_every_page_opens_and_says_so(newer: Path) -> None:
    pages = Pages(newer)
    assert every_page(pages) > 20
    for address in ("/", "/buffers", "/buffers/plain", "/workers", "/messages", "/questions", "/time"):
        page = pages.get(address)
        assert [text for text in page.notices() if NEWER in text], address
        assert not page.tree.xpath("//form[@method='post']")
    page = pages.get("/questions", sql="SELECT count(*) AS buffers FROM buffers")
    assert len(page.rows("1 row")) == 1
    page = pages.get("/questions", name="failed-items")
    assert page.main.xpath(".//tbody/tr")


def test_only_who_asks_for_it_reads_a_newer_version(newer: Path) -> None:
    with pytest.raises(JournalTooNew):
        open_reader(newer)
    open_reader(newer, newer=True).close()


def test_of_a_newer_version_a_page_whose_rows_are_elsewhere_says_why(newer: Path) -> None:
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute("ALTER TABLE limit_change RENAME TO limit_changes_of_tomorrow")
        connection.commit()
    pages = Pages(newer)
    status, why = pages.refusal("/workers")
    assert (status, "made by a newer durable_bus" in why) == (503, True)
    assert pages.get("/buffers").rows()


def test_a_journal_with_nothing_in_it_says_what_to_do(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    Journal.open(journal).close()
    pages = Pages(journal)
    told = {
        "/": "Start something: durable-bus submit",
        "/buffers": "Start one: durable-bus submit",
        "/workers": "durable-bus serve APP starts some",
        "/messages": "There are no messages.",
        "/time": "Nobody has served this journal yet.",
    }
    for address, text in told.items():
        assert text in words(pages.get(address).main)
    pages.get("/questions")
    status, why = pages.refusal("/buffers/nothing")
    assert (status, "no buffer 'nothing'" in why) == (404, True)
    for address in ("/buffers/nothing/items/0", "/messages/nothing"):
        assert pages.refusal(address)[0] == 404
    assert pages.refusal("/", at=1)[0] == 400
