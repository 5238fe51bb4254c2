"""A backup is consistent while the journal is written; killed at any moment it leaves the old copy whole."""

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from eventful import HALTED, Story, supervised, texts
from support import Facts, environment, until
from synthetic import make

from durable_bus.errors import UsageError
from durable_bus.journal.admin import backup
from durable_bus.journal.admin.backup import back_up
from durable_bus.journal.admin.check import check

BESIDE = ("-wal", "-shm", ".lock", ".sock")


def wrong(journal: Path) -> list[str]:
    return [finding.name for finding in check(journal).checks if not finding.ok]


def content(journal: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def test_a_backup_is_the_same_journal_in_one_private_file(story: Story, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    ran = durable_bus("backup", copy, "--journal", story.journal, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")
    assert content(copy) == content(story.journal)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert wrong(copy) == []


@pytest.mark.slow
def test_a_backup_made_while_the_daemon_writes_is_consistent_and_can_be_gone_on_with(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    copies = [tmp_path / f"copy{number}.db" for number in range(3)]
    with supervised(journal) as client:
        client.start("work", texts(*["fine"] * 20_000), buffer_id="long")
        for number, copy in enumerate(copies):
            facts.until_recorded("long", number * 1_000 + 1)
            assert durable_bus("backup", copy, "--journal", journal, cwd=tmp_path).code == 0
    for copy in copies:
        assert wrong(copy) == []
    recorded = [Facts(copy).recorded("long") for copy in copies]
    assert recorded == sorted(recorded)
    assert recorded[0] > 0
    with supervised(copies[0]) as client:
        assert client.buffer("long").wait(60).successful == 20_000
    Facts(copies[0]).assert_whole("long", 20_000)


@pytest.mark.slow
def test_a_backup_is_read_where_nobody_may_write(story: Story, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    back_up(story.journal, folder / "copy.db")
    (folder / "copy.db").chmod(0o444)
    folder.chmod(0o555)
    try:
        ran = durable_bus("check", "--journal", folder / "copy.db", cwd=tmp_path, almighty=False)
        assert ran.code == 0, ran.out
    finally:
        folder.chmod(0o755)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_the_old_copy_whole(story: Story, tmp_path: Path) -> None:
    large = tmp_path / "large" / "journal.db"
    large.parent.mkdir()
    make(large, 100_000, 10)
    old, new = content(story.journal), content(large)
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _kill_a_backup(story.journal, old, large, new, folder, seed)


def _kill_a_backup(small: Path, old: list[str], large: Path, new: list[str], folder: Path, seed: int) -> None:
    copy = folder / "copy.db"
    back_up(small, copy)
    command = [sys.executable, "-m", "durable_bus", "backup", str(copy), "--journal", str(large)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    partial = folder / ".copy.db.durable_bus_backup"
    killed_at = random.Random(seed).randrange(0, large.stat().st_size)
    # The partial file's size says how far the backup is.
    until(lambda: process.poll() is not None or size(partial) >= killed_at, "the backup has come so far")
    process.kill()
    if process.wait() == -signal.SIGKILL:
        assert content(copy) in (old, new)
    assert durable_bus("backup", copy, "--journal", large, cwd=folder).code == 0
    assert content(copy) == new
    assert [path.name for path in folder.iterdir()] == ["copy.db"]


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


@pytest.mark.slow
def test_a_backup_of_nothing_or_over_something_else_is_refused(story: Story, tmp_path: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("dear journal,\n" * 100)
    used = tmp_path / "used.db"
    shutil.copy(story.journal, used)
    Path(f"{used}-wal").write_text("what was committed last")
    stopped = tmp_path / "stopped.db"
    shutil.copy(story.journal, stopped)
    linked = tmp_path / "linked.db"
    os.link(story.journal, linked)
    for destination, code, says in (
        (other, 5, "not a durable_bus journal"),
        (used, 2, "in use"),
        (stopped, 2, "a journal, not a backup"),
        (story.journal, 2, "the journal itself"),
        (linked, 2, "the journal itself"),
        (tmp_path, 2, "is a folder"),
        (tmp_path / "nowhere" / "copy.db", 2, "no folder"),
    ):
        ran = durable_bus("backup", destination, "--journal", story.journal, cwd=tmp_path)
        assert (ran.code, ran.out) == (code, "")
        assert says in ran.error
    linked.unlink()
    assert other.read_text().startswith("dear journal,")
    assert durable_bus("backup", "copy.db", "--journal", "absent.db", cwd=tmp_path).code == 3
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_replaces_nothing_but_files(story: Story, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for path in (pipe, tmp_path / "socket"):
        ran = durable_bus("backup", path, "--journal", story.journal, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, "")
        assert "is not a file that can be replaced" in ran.error
    assert pipe.is_fifo()
    assert (tmp_path / "socket").is_socket()


def test_a_backup_leaves_the_files_beside_it_alone(story: Story, tmp_path: Path) -> None:
    mine = tmp_path / "copy.db.partial"
    mine.write_text("a half of something")
    assert durable_bus("backup", "copy.db", "--journal", story.journal, cwd=tmp_path).code == 0
    assert mine.read_text() == "a half of something"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", BESIDE)
def test_nothing_is_written_over_what_lies_beside_the_journal(
    story: Story, tmp_path: Path, suffix: str
) -> None:
    """Nor where it is not there, or empty: it will be when somebody serves the journal."""
    journal = tmp_path / "journal.db"
    back_up(story.journal, journal)
    for there in (False, True):
        path = Path(f"{journal}{suffix}")
        if there:
            path.touch()
        for command in (
            ["backup", path],
            ["export", "plain", "--output", path],
            ["results", "plain", "--output", path],
            ["run", "apps.eventful:bus", "work", "--items", "-", "--output", path],
        ):
            ran = durable_bus(*command, "--journal", "journal.db", cwd=tmp_path, stdin=b"fine")
            assert (ran.code, ran.out) == (2, ""), command
            assert "belongs to the journal" in ran.error
        assert (path.read_bytes() if there else path.exists()) == (b"" if there else False)


def test_results_are_not_written_over_a_journal_that_is_yet_to_be(tmp_path: Path) -> None:
    command = ["run", "apps.eventful:bus", "work", "--items", "-", "--output", "journal.db"]
    ran = durable_bus(*command, "--journal", "journal.db", cwd=tmp_path, stdin=b"fine")
    assert (ran.code, ran.out) == (2, "")
    assert "belongs to the journal" in ran.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_backup_over_a_journal_that_an_idle_daemon_serves_is_refused(
    story: Story, journal: Path, tmp_path: Path
) -> None:
    """Its -wal is empty then: nothing but its mode and its lock tell."""
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="precious").wait(60)
        wal = Path(f"{journal}-wal")
        until(lambda: size(wal) == 0, "an idle supervisor brings the log home")
        ran = durable_bus("backup", journal, "--journal", story.journal, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, "")
        assert f"in use, by process {client.supervisor_pid}" in ran.error
        with pytest.raises(UsageError, match="a journal, not a backup"):
            back_up(story.journal, journal)
        assert wal.exists()
        client.start("work", texts("fine"), buffer_id="later").wait(60)
    ids = durable_bus("query", "SELECT buffer_id FROM buffers", "--format", "csv", cwd=tmp_path)
    assert set(ids.out.split()) == {"buffer_id", "precious", "later"}


@pytest.mark.slow
def test_a_supervisor_that_was_started_on_the_old_backup_meanwhile_keeps_it(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.db"
    back_up(story.journal, copy)
    copying = backup._copy

    def serve_meanwhile(source: sqlite3.Connection, partial: Path, *others: Any) -> None:
        copying(source, partial, *others)
        with supervised(copy) as client:
            client.start("work", texts("fine"), buffer_id="precious").wait(60)

    monkeypatch.setattr(backup, "_copy", serve_meanwhile)
    with pytest.raises(UsageError, match="a journal, not a backup"):
        back_up(story.journal, copy)
    assert Facts(copy).recorded("precious") == 1


def test_a_full_disk_leaves_the_old_copy(story: Story, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    back_up(story.journal, copy)
    old = content(copy)
    ran = durable_bus("backup", copy, "--journal", story.journal, cwd=tmp_path)
    assert ran.code == 0
    # A limit on the size of files is how a process meets a full disk without a disk of its own.
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
    limited += "from durable_bus.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", limited, "backup", str(copy), "--journal", str(story.journal)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert content(copy) == old
    assert [path.name for path in tmp_path.iterdir()] == ["copy.db"]


@pytest.mark.slow
def test_an_export_is_one_file_in_each_format(story: Story, tmp_path: Path) -> None:
    for name in ("xml", "jsonl", "csv"):
        shown = durable_bus("results", "plain", "--journal", story.journal, "--format", name, cwd=tmp_path)
        ran = durable_bus(
            "export",
            "plain",
            "--journal",
            story.journal,
            "--format",
            name,
            "--output",
            f"plain.{name}",
            cwd=tmp_path,
        )
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        assert (tmp_path / f"plain.{name}").read_text() == shown.out
    assert durable_bus("export", "nobody", "--journal", story.journal, cwd=tmp_path).code == 3


def test_an_export_of_a_buffer_that_has_not_ended_says_so(story: Story, tmp_path: Path) -> None:
    command = ["halted", "--journal", story.journal]
    shown = durable_bus("results", *command, cwd=tmp_path)
    assert f" of {HALTED} items are recorded" in shown.error
    ran = durable_bus("export", *command, "--output", "halted.xml", cwd=tmp_path)
    assert ran == (1, "", shown.err)
    assert (tmp_path / "halted.xml").read_text() == shown.out


def test_the_library_refuses_like_the_command(story: Story) -> None:
    with pytest.raises(UsageError):
        back_up(story.journal, story.journal)
