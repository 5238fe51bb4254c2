"""A journal that lacks its -wal, or part of it, is named and not gone on with before that is back."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command_line import durable_bus, write_items
from eventful import supervised, texts
from support import Facts, fingerprint, kill, until

from durable_bus.errors import JournalDamaged
from durable_bus.journal.admin.check import check
from durable_bus.journal.completeness import refuse_incomplete
from durable_bus.journal.lock import noted_commit

SERVED_BY = (
    "serve apps.eventful:bus",
    "run apps.eventful:bus work --items items.txt",
    "replay finish apps.eventful:bus",
)


LACKS_WAL = "may lack whatever was committed last: its run 1 has not said that it ended, and the copy.db-wal"


@pytest.fixture
def crashed(journal: Path, facts: Facts) -> Path:
    """A journal whose supervisor was killed with commits in its log that were not brought home."""
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="home").wait(60)
        until(lambda: wal_bytes(journal) == 0, "an idle supervisor brings the log home")
        client.start("work", texts("fine"), buffer_id="in-the-log").wait(60)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    assert wal_bytes(journal) > 0
    return journal


def wal_bytes(journal: Path) -> int:
    return Path(f"{journal}-wal").stat().st_size


def buffers(journal: Path, folder: Path) -> list[str]:
    ran = durable_bus(
        "query", "SELECT buffer_id FROM buffers", "--format", "csv", "--journal", journal, cwd=folder
    )
    assert ran.code == 0
    return ran.out.split()[1:]


def assert_refused(journal: Path, folder: Path, says: str) -> None:
    before = fingerprint(journal)
    write_items(folder, "fine")
    checked = durable_bus("check", "--journal", journal, cwd=folder)
    assert (checked.code, says in checked.out) == (5, True), checked.out
    for command in SERVED_BY:
        ran = durable_bus(*command.split(), "--journal", journal, cwd=folder)
        assert (ran.code, ran.out) == (5, ""), command
        assert says in ran.err, command
        assert "durable-bus backup NEW" in ran.err
    assert fingerprint(journal) == before


def assert_gone_on_with(journal: Path, *buffer_ids: str) -> None:
    with supervised(journal) as client:
        for buffer_id in buffer_ids:
            assert client.buffer(buffer_id).wait(60).successful == 1
        assert client.start("work", texts("fine"), buffer_id="after").wait(60).successful == 1
    assert check(journal, noted=noted_commit(journal)).ok


@pytest.mark.slow
def test_a_copy_without_its_wal_is_named_and_not_gone_on_with(crashed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    shutil.copy(crashed, copy)
    assert_refused(copy, tmp_path, LACKS_WAL)
    # Whoever reads it leaves an empty -wal there, which must not look like one.
    assert buffers(copy, tmp_path) == ["home"]
    assert wal_bytes(copy) == 0
    assert_refused(copy, tmp_path, LACKS_WAL)
    assert durable_bus("export", "home", "--journal", copy, cwd=tmp_path).code == 0
    assert durable_bus("backup", "taken.db", "--journal", copy, cwd=tmp_path).code == 0
    assert_gone_on_with(tmp_path / "taken.db", "home")


def cut_to_a_header(wal: Path) -> None:
    os.truncate(wal, 32)


def cut_within_a_frame(wal: Path) -> None:
    os.truncate(wal, 100)


def cut_in_half(wal: Path) -> None:
    os.truncate(wal, wal.stat().st_size // 2)


def overwritten(wal: Path) -> None:
    wal.write_bytes(random.Random(1).randbytes(wal.stat().st_size))


def copied_with(journal: Path, folder: Path, *suffixes: str) -> Path:
    folder.mkdir()
    for suffix in suffixes:
        shutil.copy(f"{journal}{suffix}", folder / f"copy.db{suffix}")
    return folder / "copy.db"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut_to_a_header, cut_within_a_frame, cut_in_half, overwritten])
def test_a_copy_whose_wal_is_not_whole_is_known_by_its_lock(
    crashed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = copied_with(crashed, tmp_path / "elsewhere", "", "-wal", ".lock")
    assert durable_bus("check", "--journal", copy, cwd=tmp_path).code == 0
    damage(Path(f"{copy}-wal"))
    assert_refused(copy, tmp_path, "copy.db may lack the last ")
    assert durable_bus("backup", "taken.db", "--journal", copy, cwd=tmp_path).code == 0
    assert_gone_on_with(tmp_path / "taken.db", "home")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut_to_a_header, cut_within_a_frame, overwritten])
def test_a_wal_that_is_no_log_counts_as_empty_without_a_lock(
    crashed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = copied_with(crashed, tmp_path / "elsewhere", "", "-wal")
    assert durable_bus("check", "--journal", copy, cwd=tmp_path).code == 0
    damage(Path(f"{copy}-wal"))
    assert_refused(copy, tmp_path, LACKS_WAL)


@pytest.mark.slow
def test_an_older_copy_of_a_run_that_ended_lacks_nothing_whatever_the_lock_says(
    journal: Path, tmp_path: Path
) -> None:
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="home").wait(60)
    older = copied_with(journal, tmp_path / "elsewhere", "")
    assert_gone_on_with(journal, "home")  # so that its lock file tells of more commits
    os.replace(older, journal)
    assert durable_bus("check", "--journal", journal, cwd=tmp_path).code == 0
    assert_gone_on_with(journal, "home")


@pytest.mark.slow
def test_a_lock_that_has_not_said_of_which_file_it_tells_accuses_none(crashed: Path, tmp_path: Path) -> None:
    """As with --durability normal: a power cut may leave fewer commits than were noted."""
    copy = copied_with(crashed, tmp_path / "elsewhere", "", "-wal", ".lock")
    lock = Path(f"{copy}.lock")
    pid, socket, _ = lock.read_text().splitlines()
    lock.write_text(f"{pid}\n{socket}\n{10**6:020d} 0\n")
    assert noted_commit(copy) == (10**6, None)
    assert durable_bus("check", "--journal", copy, cwd=tmp_path).code == 0
    assert_gone_on_with(copy, "home", "in-the-log")


@pytest.mark.slow
def test_a_young_journal_is_known_without_its_wal_too(journal: Path, tmp_path: Path) -> None:
    """Nothing but its run's first commit was brought home yet."""
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="young").wait(60)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    copy = Path(shutil.copy(journal, tmp_path / "copy.db"))
    assert_refused(copy, tmp_path, LACKS_WAL)


@pytest.mark.slow
def test_a_journal_whose_wal_was_deleted_is_not_gone_on_with_before_it_is_back(
    crashed: Path, tmp_path: Path
) -> None:
    wal = Path(f"{crashed}-wal")
    kept = wal.rename(tmp_path / "kept")
    newest = noted_commit(crashed)
    assert newest is not None
    assert buffers(crashed, tmp_path) == ["home"]
    assert_refused(crashed, tmp_path, f"its supervisor has made {newest[0]}: the last ")
    kept.rename(wal)
    assert durable_bus("check", "--journal", crashed, cwd=tmp_path).code == 0
    assert_gone_on_with(crashed, "home", "in-the-log")


@pytest.mark.slow
def test_a_wal_that_somebody_brought_home_is_not_missed(crashed: Path, tmp_path: Path) -> None:
    """Any program that opens the journal for writing and closes it does so."""
    with closing(sqlite3.connect(crashed)) as connection:
        connection.execute("SELECT count(*) FROM buffers").fetchall()
    assert not Path(f"{crashed}-wal").exists()
    assert durable_bus("check", "--journal", crashed, cwd=tmp_path).code == 0
    assert_gone_on_with(crashed, "home", "in-the-log")


@pytest.mark.slow
def test_a_supervisor_killed_while_idle_has_an_empty_wal_and_lacks_nothing(
    journal: Path, tmp_path: Path
) -> None:
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="home").wait(60)
        until(lambda: wal_bytes(journal) == 0, "an idle supervisor brings the log home")
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    assert wal_bytes(journal) == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("journal.db*"):  # what the lock file says comes along
        shutil.copy(path, moved / path.name)
    for where in (journal, moved / "journal.db"):
        assert durable_bus("check", "--journal", where, cwd=tmp_path).code == 0
        assert_gone_on_with(where, "home")


@pytest.mark.slow
def test_a_backup_of_an_open_run_lacks_nothing_also_in_the_journals_place(
    crashed: Path, tmp_path: Path
) -> None:
    assert durable_bus("backup", "whole.db", "--journal", crashed, cwd=tmp_path).code == 0
    whole = tmp_path / "whole.db"
    assert durable_bus("check", "--journal", whole, cwd=tmp_path).code == 0
    early = tmp_path / "early.db"
    shutil.copy(whole, early)
    assert_gone_on_with(crashed, "home", "in-the-log")  # so that its lock file tells of more commits
    shutil.copyfile(early, crashed)
    assert durable_bus("check", "--journal", crashed, cwd=tmp_path).code == 0
    assert_gone_on_with(crashed, "home", "in-the-log")


@pytest.mark.slow
def test_a_migration_refuses_what_lacks_its_wal_too(crashed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(crashed, tmp_path / "copy.db"))
    before = fingerprint(copy)
    with pytest.raises(JournalDamaged, match="may lack whatever was committed last"):
        refuse_incomplete(copy, noted_commit(copy))
    assert fingerprint(copy) == before
    assert not Path(f"{copy}-wal").exists()
