"""Nobody else has a hand in a journal that is written: what another user has put in its place, or beside it,
is refused by every way in; and what is no file at all, by readers too.
"""

import os
import shutil
import socket
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from apps import plain
from command_line import durable_bus, write_items
from cut_short import cut_short
from services import NOBODY, as_nobody
from ways_in import COMMANDS, EVERY_WAY, enter

from durable_bus.errors import JournalUnreachable, NotAJournal
from durable_bus.journal.admin.backup import back_up
from durable_bus.journal.connection import open_reader, open_writer
from durable_bus.journal.lock import JournalLock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can put files there as another user")


BESIDE = ("", "-wal", "-shm", "-journal", ".lock", ".sock")


@pytest.fixture(scope="module")
def open_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a buffer that has not ended, so that every way in has something to do."""
    folder = tmp_path_factory.mktemp("open_work")
    with plain.bus.running(journal=folder / "journal.db", workers=1, grace=0) as client:
        client.start("gate", [str(folder / "door")], buffer_id="b")
    (folder / "door").touch()
    return folder / "journal.db"


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder like /tmp."""
    with tempfile.TemporaryDirectory(prefix="durable_bus-") as name:
        os.chmod(name, 0o1777)
        yield Path(name)


def contents(folder: Path) -> dict[str, object]:
    """What lies in a folder, and whose it is."""
    return {
        path.name: (path.lstat().st_uid, path.lstat().st_mode, path.lstat().st_size)
        for path in folder.iterdir()
    }


def refused(way: str, journal: Path, tmp_path: Path, folder: Path) -> str:
    """Why: in one line, with exit code 5, and nothing is left behind."""
    before = contents(folder)
    ran = enter(way, journal, tmp_path)
    assert (ran.code, ran.out) == (5, ""), ran
    assert contents(folder) == before
    return ran.error


@as_root
@pytest.mark.parametrize(
    ("way", "name"),
    [*product(COMMANDS, ("", "-wal")), *product(("lock", "writer"), BESIDE)],
)
def test_a_file_of_another_user_is_refused_by_every_way_in(
    everybodys: Path, open_work: Path, tmp_path: Path, way: str, name: str
) -> None:
    journal = everybodys / "journal.db"
    shutil.copy(open_work, journal)
    planted = Path(f"{journal}{name}")
    planted.touch()
    planted.chmod(0o666)
    os.chown(planted, NOBODY, NOBODY)
    assert f"{planted} belongs to another user (uid {NOBODY})" in refused(way, journal, tmp_path, everybodys)


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("way", [*COMMANDS, "lock"])
def test_a_link_of_another_user_to_our_own_journal_is_refused_by_every_way_in(
    everybodys: Path, open_work: Path, tmp_path: Path, way: str
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    shutil.copy(open_work, ours / "journal.db")
    for link, target, journal in (
        ("journal.db", ours / "journal.db", "journal.db"),
        ("folder", ours, "folder/journal.db"),
        ("folder", ours, "folder/../ours/journal.db"),
    ):
        (everybodys / link).symlink_to(target)
        os.chown(everybodys / link, NOBODY, NOBODY, follow_symlinks=False)
        said = refused(way, everybodys / journal, tmp_path, ours)
        assert f"the symbolic link {everybodys / link} belongs to another user (uid {NOBODY})" in said
        (everybodys / link).unlink()


@pytest.mark.parametrize(("way", "mode"), [*product(EVERY_WAY, [0o666]), ("lock", 0o660), ("writer", 0o602)])
def test_a_journal_that_others_may_write_to_is_refused_by_every_way_in(
    open_work: Path, journal: Path, way: str, mode: int
) -> None:
    shutil.copy(open_work, journal)
    journal.chmod(mode)
    elsewhere = journal.parent / "elsewhere"
    elsewhere.mkdir()
    before = set(journal.parent.iterdir())
    ran = enter(way, journal, elsewhere)
    assert (ran.code, ran.error) == (5, f"other users may write to {journal}: chmod go-w {journal}")
    assert set(journal.parent.iterdir()) == before


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_folder_that_everybody_may_write_to_is_refused_by_every_way_in(
    open_work: Path, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "everybodys"
    folder.mkdir()
    shutil.copy(open_work, folder)
    folder.chmod(0o777)
    said = refused(way, folder / "journal.db", tmp_path, folder)
    assert said == f"everybody may write to the folder {folder}: chmod o-w {folder}"


@as_root
def test_a_log_that_was_planted_brings_no_commit_into_the_journal(
    everybodys: Path, open_work: Path, tmp_path: Path
) -> None:
    """SQLite takes any -wal whose checksums are right for the newest commits."""
    journal, other = everybodys / "journal.db", tmp_path / "other.db"
    shutil.copy(open_work, journal)
    shutil.copy(open_work, other)
    before = journal.read_bytes()
    with closing(open_writer(other)) as connection:
        connection.execute("CREATE TABLE evil (x)")
        shutil.copy(f"{other}-wal", f"{journal}-wal")
    os.chown(f"{journal}-wal", NOBODY, NOBODY)
    assert "belongs to another user" in refused("run", journal, tmp_path, everybodys)
    assert journal.read_bytes() == before


@as_root
def test_a_rollback_journal_that_was_planted_undoes_nothing(
    everybodys: Path, open_work: Path, tmp_path: Path
) -> None:
    journal = everybodys / "journal.db"
    back_up(open_work, journal)
    cut_short(journal, tmp_path)
    planted = Path(f"{journal}-journal")
    os.chown(planted, NOBODY, NOBODY)
    before = journal.read_bytes()
    with pytest.raises(JournalUnreachable, match=f"{planted} belongs to another user"):
        open_reader(journal)
    assert journal.read_bytes() == before


@as_root
@pytest.mark.parametrize("kind", ["new", "old", "backup"])
def test_nobody_can_put_anything_beside_a_journal_between_the_look_and_its_opening(
    everybodys: Path, open_work: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nor would it help to put it there and to take it away again: what SQLite opens is there before."""
    journal = everybodys / "journal.db"
    if kind == "old":
        shutil.copy(open_work, journal)
    elif kind == "backup":
        back_up(open_work, journal)
    real = sqlite3.connect
    beside = [Path(f"{journal}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        for path in beside:
            with pytest.raises(FileExistsError):
                os.open(path, os.O_CREAT | os.O_EXCL)
        return real(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with closing(open_writer(journal)) as connection:
        connection.execute("CREATE TABLE one (x)")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert {path.name for path in everybodys.iterdir()} == {
            "journal.db",
            "journal.db-wal",
            "journal.db-shm",
        }
    assert [path.name for path in everybodys.iterdir()] == ["journal.db"]
    with closing(real(journal)) as connection:
        assert connection.execute("SELECT count(*) FROM one").fetchone() == (0,)


def test_nothing_is_left_beside_a_database_that_is_none_of_ours(everybodys: Path) -> None:
    database = everybodys / "other.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE one (x)")
    with pytest.raises(NotAJournal):
        open_writer(database)
    assert [path.name for path in everybodys.iterdir()] == ["other.db"]


def test_what_lies_beside_a_journal_has_its_mode_so_that_others_can_read_it(
    everybodys: Path, open_work: Path
) -> None:
    journal = everybodys / "journal.db"
    shutil.copy(open_work, journal)
    journal.chmod(0o644)
    with closing(open_writer(journal)):
        for suffix in ("-wal", "-shm"):
            assert stat.S_IMODE(Path(f"{journal}{suffix}").stat().st_mode) == 0o644


@pytest.mark.slow
@as_root
def test_run_takes_no_results_from_another_users_journal(everybodys: Path, tmp_path: Path) -> None:
    """Nothing would be written, as all is recorded: but who asks for a run asks for results of his own."""
    journal, items = everybodys / "journal.db", write_items(tmp_path, "a")
    command = ("run", "apps.plain:bus", "echo", "--items", items, "--workers", 1, "--journal", journal)
    assert durable_bus(*command, cwd=tmp_path).code == 0
    os.chown(journal, NOBODY, NOBODY)
    ran = durable_bus(*command, cwd=tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert f"{journal} belongs to another user (uid {NOBODY})" in ran.error


@as_root
def test_a_backup_is_not_written_into_another_users_file_or_through_his_link(
    everybodys: Path, open_work: Path, tmp_path: Path
) -> None:
    partial = everybodys / ".copy.db.durable_bus_backup"
    partial.touch()
    os.chown(partial, NOBODY, NOBODY)
    with pytest.raises(JournalUnreachable, match="belongs to another user"):
        back_up(open_work, everybodys / "copy.db")
    assert partial.stat().st_size == 0
    (everybodys / "link.db").symlink_to(tmp_path / "elsewhere.db")
    os.chown(everybodys / "link.db", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(JournalUnreachable, match=r"the symbolic link .* belongs to another user"):
        back_up(open_work, everybodys / "link.db")
    assert not (tmp_path / "elsewhere.db").exists()


# What goes on


@as_root
def test_root_reads_the_journal_of_another_user(everybodys: Path, open_work: Path, tmp_path: Path) -> None:
    journal = everybodys / "journal.db"
    shutil.copy(open_work, journal)
    os.chown(journal, NOBODY, NOBODY)
    for command in (("status",), ("check",), ("query", "SELECT buffer_id FROM buffers"), ("results", "b")):
        ran = durable_bus(*command, "--journal", journal, cwd=tmp_path)
        assert ran.code in (0, 1), ran


OPEN = """
from durable_bus.journal.connection import open_reader, open_writer
try:
    lock = daemon.JournalLock(daemon.Path(sys.argv[1]), wait_s=0)
    open_writer(lock.journal).close()
    print("opened", lock.journal)
except errors.DurableBusError as error:
    print(type(error).__name__, error.exit_code, error)
"""


@pytest.mark.slow
@as_root
def test_an_ordinary_user_writes_his_own_journal_where_everybody_may(everybodys: Path) -> None:
    """A new one, an old one, and one that a link of his own leads to."""
    journal = everybodys / "journal.db"
    link = "os.symlink(sys.argv[1], sys.argv[1] + '.link')\nsys.argv[1] += '.link'\n"
    for source in (OPEN, OPEN, link + OPEN):
        assert as_nobody(source, str(journal)) == f"opened {journal}\n"
    assert journal.stat().st_uid == NOBODY


@as_root
def test_an_ordinary_user_is_refused_what_a_third_one_has_put_there(everybodys: Path) -> None:
    journal = everybodys / "journal.db"
    journal.touch()
    journal.chmod(0o666)
    os.chown(journal, NOBODY - 1, NOBODY - 1)
    assert as_nobody(OPEN, str(journal)) == (
        f"JournalUnreachable 5 {journal} belongs to another user (uid {NOBODY - 1})\n"
    )


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("way", ["run", "running", "finish"])
def test_a_journal_of_ours_in_another_users_folder_is_worked_on(
    everybodys: Path, open_work: Path, tmp_path: Path, way: str
) -> None:
    """So is one that a link of that user leads to, in a folder that is his alone."""
    everybodys.chmod(0o755)
    ours = tmp_path / "ours"
    ours.mkdir()
    shutil.copy(open_work, ours)
    (everybodys / "link").symlink_to(ours)
    os.chown(everybodys / "link", NOBODY, NOBODY, follow_symlinks=False)
    shutil.copy(open_work, everybodys)
    os.chown(everybodys, NOBODY, NOBODY)
    for journal in (everybodys / "journal.db", everybodys / "link" / "journal.db"):
        assert enter(way, journal, tmp_path).code == 0


# What is no file

READERS = (
    ("status",),
    ("check",),
    ("wait", "b"),
    ("results", "b"),
    ("query", "SELECT 1"),
    ("migrate",),
    ("export", "b"),
    ("backup", "copy.db"),
    ("replay", "show"),
    ("replay", "plan"),
)


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a socket": lambda path: bind(path),
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_by_readers_and_writers_and_nothing_is_left_beside_it(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = folder / "journal.db"
    KINDS[kind](journal)
    beside = journal.resolve().parent
    before = {path.name for path in beside.iterdir()}
    for way in EVERY_WAY:
        ran = enter(way, journal, tmp_path)
        assert ran.code == 5, (way, ran)
        assert ran.error.startswith("cannot open "), (way, ran)
        assert ran.error.endswith(f"it is {kind}"), (way, ran)
    for command in READERS:
        ran = durable_bus(*command, "--journal", journal, cwd=tmp_path)
        said = f"cannot open the journal {journal}: it is {kind}"
        assert (ran.code, ran.out, ran.error) == (5, "", said), (command, ran)
    assert {path.name for path in beside.iterdir()} - before == set()
    assert stat.S_IFMT(journal.stat().st_mode) != stat.S_IFREG


def test_a_named_pipe_in_the_locks_place_keeps_nobody_waiting(open_work: Path, journal: Path) -> None:
    shutil.copy(open_work, journal)
    lock = Path(f"{journal}.lock")
    os.mkfifo(lock)
    assert durable_bus("status", cwd=journal.parent, patience_s=30).code == 0
    ran = durable_bus("serve", "apps.plain:bus", cwd=journal.parent)
    assert (ran.code, ran.error) == (5, f"cannot open {lock}: it is a named pipe")


def test_a_full_path_is_taken_also_where_the_current_folder_is_gone(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    lock = JournalLock(journal)
    lock.release()
    assert lock.journal == journal.resolve()
