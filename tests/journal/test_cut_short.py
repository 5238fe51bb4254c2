"""A journal is put into WAL mode by one write of its first page. A kill in the middle of it leaves SQLite's
rollback journal beside it; so does one in the middle of any other program's change of a backup. That change
is undone by whoever opens the journal next, be it only to read: SQLite lets no reader do it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from cut_short import HALF_MADE, cut_short, make_half_a_journal
from eventful import Story
from old_journals import all_rows
from support import Facts

from durable_bus.errors import NotAJournal
from durable_bus.journal.admin.backup import back_up
from durable_bus.journal.admin.check import check
from durable_bus.journal.connection import open_reader
from durable_bus.journal.reader import JournalReader


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def backup(story: Story, folder: Path) -> Path:
    copy = folder / "copy.db"
    back_up(story.journal, copy)
    return copy


@pytest.mark.parametrize("half", HALF_MADE)
def test_a_command_that_was_killed_while_it_made_its_journal_goes_on(
    folder: Path, tmp_path: Path, half: str
) -> None:
    journal = folder / "journal.db"
    make_half_a_journal(journal, half, tmp_path)
    items = write_items(tmp_path, "a", "b")
    command = ("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1, "--buffer-id", "b")
    ran = durable_bus(*command, "--journal", journal, cwd=tmp_path)
    assert ran.code == 0, ran
    Facts(journal).assert_whole("b", 2)
    assert check(journal).ok


@pytest.mark.parametrize("half", HALF_MADE)
def test_a_journal_whose_making_was_killed_is_empty(folder: Path, tmp_path: Path, half: str) -> None:
    journal = folder / "journal.db"
    make_half_a_journal(journal, half, tmp_path)
    ran = durable_bus("status", "--journal", journal, cwd=tmp_path)
    assert (ran.code, ran.error) == (3, f"the journal {journal} is empty")


def test_a_reader_undoes_it_and_reads_what_was_there_before(backup: Path, tmp_path: Path) -> None:
    before = all_rows(backup)
    cut_short(backup, tmp_path)
    JournalReader(backup).close()
    assert all_rows(backup) == before
    assert check(backup).ok


def test_also_when_its_first_page_was_not_yet_written(folder: Path, tmp_path: Path) -> None:
    journal = folder / "journal.db"
    journal.touch()
    cut_short(journal, tmp_path)
    ran = durable_bus("status", "--journal", journal, cwd=tmp_path)
    assert (ran.code, ran.error) == (3, f"the journal {journal} is empty")


def test_nothing_is_undone_in_a_database_that_is_none_of_ours(folder: Path, tmp_path: Path) -> None:
    database = folder / "other.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    cut_short(database, tmp_path)
    before = content_of(folder)
    with pytest.raises(NotAJournal):
        open_reader(database)
    assert content_of(folder) == before


def test_who_may_not_write_is_told_who_can_undo_it(backup: Path, tmp_path: Path) -> None:
    cut_short(backup, tmp_path)
    backup.chmod(0o400)
    ran = durable_bus("status", "--journal", backup, cwd=tmp_path, almighty=False)
    assert (ran.code, ran.out) == (5, "")
    assert ran.error == (
        f"cannot open the journal {backup}: a change of it was cut short, and only who may write to it can "
        "undo that"
    )
