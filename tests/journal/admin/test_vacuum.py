"""`vacuum` gives the room of deleted rows back, and whatever kills it when, the journal is whole."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import Command, Ran, durable_bus
from daemons import Daemon, client_of
from disks import small_disk
from old_journals import OLD, old_journal
from support import Facts, environment, until
from synthetic import make

from durable_bus.errors import Interrupted, StorageFull
from durable_bus.journal.admin import vacuum as vacuum_module
from durable_bus.journal.admin.check import check
from durable_bus.journal.admin.vacuum import pages_of, refuse_no_room, vacuum
from durable_bus.journal.connection import open_writer
from durable_bus.journal.lock import JournalLock, noted_commit
from durable_bus.journal.reader import JournalReader

ROWS = "SELECT count(*), sum(length(payload)), sum(item_key % 1000003) FROM results"


def with_free_pages(journal: Path, pages: int = 1_000) -> Path:
    """Free pages as a prune leaves them, and `check` finds nothing to say about them."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE filler (text)")
        connection.execute(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO filler SELECT hex(zeroblob(3800)) FROM n",
            (pages,),
        )
        connection.execute("DROP TABLE filler")
    return journal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 results, and as much room that nothing needs."""
    path = tmp_path_factory.mktemp("vacuum") / "journal.db"
    make(path, 20_000, 1_000)
    return with_free_pages(path)


@pytest.fixture
def spacious(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "journal.db"))


def free_pages(journal: Path) -> int:
    return int(Facts(journal).value("PRAGMA freelist_count"))


def vacuumed(journal: Path) -> Ran:
    return durable_bus("vacuum", "--journal", journal, cwd=journal.parent)


def test_the_room_of_deleted_rows_goes_back_to_the_file_system(spacious: Path) -> None:
    before, rows = spacious.stat().st_size, Facts(spacious).rows(ROWS)
    ran = vacuumed(spacious)
    after = spacious.stat().st_size
    assert (ran.code, free_pages(spacious)) == (0, 0)
    assert before - after > 7_000_000
    assert ran.out == f"{spacious}: {before - after:,} bytes given back, {after:,} are left\n"
    assert Facts(spacious).rows(ROWS) == rows
    assert check(spacious).ok
    assert Facts(spacious).value("PRAGMA journal_mode") == "wal"


def test_how_much_room_it_takes_is_said_first(spacious: Path) -> None:
    ran = vacuumed(spacious)
    with closing(open_writer(spacious)) as connection:
        used_mib = 2 * pages_of(connection).used_bytes / 1024**2
    said = ran.err.splitlines()[0]
    assert said.startswith(f"durable-bus: it takes {used_mib:.1f} MiB of the ")
    assert said.endswith(f"that are free in {spacious.parent}")


def test_where_all_pages_are_used_nothing_is_written(spacious: Path) -> None:
    vacuumed(spacious)
    before = spacious.read_bytes()
    ran = vacuumed(spacious)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{spacious}: no room to give back, all of its pages are used\n"
    assert spacious.read_bytes() == before


@pytest.mark.parametrize("page_bytes", [4096, 16384])
def test_the_page_size_stays(spacious: Path, page_bytes: int) -> None:
    with closing(sqlite3.connect(spacious, isolation_level=None)) as connection:
        for sql in ("journal_mode = DELETE", f"page_size = {page_bytes}"):
            connection.execute(f"PRAGMA {sql}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
    with_free_pages(spacious)
    assert vacuumed(spacious).code == 0
    assert Facts(spacious).value("PRAGMA page_size") == page_bytes
    assert free_pages(spacious) == 0
    assert check(spacious).ok


def test_what_the_last_supervisor_has_noted_stays(spacious: Path) -> None:
    newest = int(Facts(spacious).value("SELECT max(commit_id) FROM journal_commit"))
    lock = JournalLock(spacious)
    lock.begin_to_note(newest)
    lock.release()
    noted = noted_commit(spacious)
    assert noted == (newest, True)
    assert vacuumed(spacious).code == 0
    assert noted_commit(spacious) == noted


@pytest.mark.parametrize("name", OLD)
def test_a_journal_of_an_older_version_stays_one(name: str, tmp_path: Path) -> None:
    journal = with_free_pages(old_journal(tmp_path / "old.db", name))
    facts = Facts(journal)
    before = facts.value("PRAGMA user_version"), facts.rows("SELECT * FROM results ORDER BY 1, 2")
    Path(f"{journal}.lock").unlink(missing_ok=True)
    with closing(open_writer(journal)) as connection:
        assert vacuum(connection, journal, lambda: False).is_cut
    assert (facts.value("PRAGMA user_version"), facts.rows("SELECT * FROM results ORDER BY 1, 2")) == before
    assert facts.rows("PRAGMA integrity_check") == [("ok",)]


def test_without_a_journal_it_says_so_and_makes_none(tmp_path: Path) -> None:
    ran = vacuumed(tmp_path / "none.db")
    assert (ran.code, ran.error) == (3, f"no journal at {tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_while_somebody_has_the_journal_it_is_refused(spacious: Path) -> None:
    before = spacious.read_bytes()
    lock = JournalLock(spacious)
    try:
        ran = vacuumed(spacious)
    finally:
        lock.release()
    assert (ran.code, ran.error) == (5, f"journal {spacious} is served by process {os.getpid()}")
    assert spacious.read_bytes() == before


def test_a_journal_that_may_lack_its_last_commits_is_refused(spacious: Path) -> None:
    lock = JournalLock(spacious)
    lock.begin_to_note(1_000_000)
    lock.release()
    before = spacious.read_bytes()
    ran = vacuumed(spacious)
    assert ran.code == 5
    assert "are missing" in ran.error
    assert spacious.read_bytes() == before


def test_where_there_is_no_room_it_is_refused(spacious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with closing(open_writer(spacious)) as connection:
        used = pages_of(connection).used_bytes
        with pytest.raises(StorageFull, match=rf"needs {2 * used:,} bytes in .*, and 1,000,000 are free"):
            refuse_no_room(connection, spacious)


def test_a_disk_that_fills_meanwhile_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        journal = disk.folder / "journal.db"
        make(journal, 5_000, 1_000)
        with_free_pages(journal, 100)
        rows = Facts(journal).rows(ROWS)
        with closing(open_writer(journal)) as connection:
            refuse_no_room(connection, journal)
            disk.fill()
            with pytest.raises(StorageFull, match="no room on disk"):
                vacuum(connection, journal, lambda: False)
            disk.empty()
            assert Facts(journal).rows(ROWS) == rows
            assert free_pages(journal) >= 100
            refuse_no_room(connection, journal)
            assert vacuum(connection, journal, lambda: False).is_cut
        assert Facts(journal).rows(ROWS) == rows
        assert (check(journal).ok, free_pages(journal)) == (True, 0)


def test_a_reader_is_not_disturbed_and_is_named_where_it_holds_the_file(spacious: Path) -> None:
    """It sees what it saw; the file is cut when it has gone."""
    held = "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
    held += "c.execute('BEGIN'); print(c.execute('SELECT count(*) FROM results').fetchone()[0], flush=True); "
    held += "sys.stdin.read(); print(c.execute('SELECT count(*) FROM results').fetchone()[0]); c.close()"
    before = spacious.stat().st_size
    with subprocess.Popen(
        [sys.executable, "-c", held, str(spacious)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "20000\n"
        ran = vacuumed(spacious)
        assert ran.code == 0
        assert f"process {reader.pid} (" in ran.err
        assert "still reads the journal as it was" in ran.err
        assert ran.out == f"{spacious}: no bytes given back yet, the next start of a daemon cuts the file\n"
        assert reader.communicate("")[0] == "20000\n"
    assert check(spacious).ok
    with closing(open_writer(spacious)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert before - spacious.stat().st_size > 7_000_000


def test_asked_to_stop_it_leaves_the_journal_as_it_was(spacious: Path) -> None:
    before = spacious.read_bytes()
    with closing(open_writer(spacious)) as connection:
        with pytest.raises(Interrupted, match="is as it was"):
            vacuum(connection, spacious, lambda: True)
    assert spacious.read_bytes() == before
    assert sorted(path.name for path in spacious.parent.iterdir()) == [spacious.name]


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from durable_bus import cli
from durable_bus.journal.admin import vacuum

looks = 0
def look(looked):
    global looks
    looks += 1
    if looks == 5:
        os.kill(os.getpid(), int(sys.argv[2]))
    return looked()

whole = vacuum.vacuum
vacuum.vacuum = lambda connection, path, is_stopped: whole(connection, path, lambda: look(is_stopped))
sys.exit(cli.main(["vacuum", "--journal", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_leaves_the_journal_as_it_was(spacious: Path, number: signal.Signals) -> None:
    before = spacious.read_bytes()
    command = [sys.executable, "-c", INTERRUPTED, str(spacious), str(number.value)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.splitlines()[-1] == f"durable-bus: interrupted: {spacious} is as it was"
    assert spacious.read_bytes() == before
    assert check(spacious).ok


KILLED = """
import os, signal, sys
from pathlib import Path
from durable_bus.journal.admin import vacuum
from durable_bus.journal.connection import open_writer
from durable_bus.journal.lock import JournalLock

journal, moment = Path(sys.argv[1]), sys.argv[2]
lock = JournalLock(journal)
connection = open_writer(journal)
vacuum.refuse_no_room(connection, journal)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

looks = 0
def look():
    global looks
    looks += 1
    if moment == f"look {looks}":
        die()
    return False

if moment == "log":
    # The log is the longer of the two files that are written: its last frames do not fit any more.
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    bytes_max = vacuum.pages_of(connection).used_bytes + 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
if moment == "committed":
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.set_trace_callback(lambda sql: sql.startswith("PRAGMA wal_checkpoint") and die())
vacuum.vacuum(connection, journal, look)
die()
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["look 1", "look 10", "look 20", "log", "committed", "done"])
def test_killed_at_any_moment_the_journal_is_whole_and_a_daemon_serves_it(
    spacious: Path, moment: str
) -> None:
    """In the middle of copying; when the log is nearly written; committed, and all is in the log; cut."""
    rows = Facts(spacious).rows(ROWS)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(spacious), moment], env=environment(), timeout=60
    )
    assert killed.returncode == -(signal.SIGXFSZ if moment == "log" else signal.SIGKILL)
    assert check(spacious).ok
    assert Facts(spacious).rows(ROWS) == rows
    with Daemon(spacious, "apps.plain:bus", workers=1), client_of(spacious) as client:
        assert client.start("echo", ["on"]).wait(60).successful == 1
    assert (free_pages(spacious) > 900) == (moment not in ("committed", "done"))
    assert check(spacious).ok
    assert vacuumed(spacious).code == 0
    assert free_pages(spacious) == 0


@pytest.mark.slow
def test_killed_while_the_log_is_written_the_journal_is_as_it_was(spacious: Path) -> None:
    rows = Facts(spacious).rows(ROWS)
    wal = Path(f"{spacious}-wal")
    command = Command("vacuum", "--journal", spacious, cwd=spacious.parent)
    until(lambda: command.process.poll() is not None or (wal.exists() and wal.stat().st_size), "a log")
    command.kill()
    assert check(spacious).ok
    assert Facts(spacious).rows(ROWS) == rows


@pytest.mark.slow
def test_what_a_prune_has_left_goes_back_once_its_daemon_has_ended(journal: Path, facts: Facts) -> None:
    make(journal, 20_000, 1_000)
    with Daemon(journal, "apps.plain:bus", workers=1) as daemon, client_of(journal) as client:
        ran = vacuumed(journal)
        assert (ran.code, ran.error) == (5, f"journal {journal} is served by process {daemon.process.pid}")
        assert client.prune(4_000_000_000_000) == 1
        facts.until("SELECT received = 0 FROM buffer WHERE buffer_id = 'big'")
        assert facts.value("PRAGMA freelist_count") > 400
    ran = vacuumed(journal)
    assert ran.code == 0
    assert journal.stat().st_size < 1_000_000
    assert check(journal).ok


def test_of_pruned_buffers_that_still_have_rows_it_says_so(spacious: Path) -> None:
    with closing(sqlite3.connect(spacious, isolation_level=None)) as connection:
        connection.execute("UPDATE buffer SET pruned_commit = ended_commit")
    assert "the rows of 1 pruned buffers are not deleted yet" in vacuumed(spacious).err
    with JournalReader(spacious) as reader:
        assert reader.row("buffers_to_clear") == {"buffers": 1}
