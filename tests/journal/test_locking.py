"""One journal, one supervisor."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from apps import plain
from support import Facts, environment, is_alive, outcome, until

from durable_bus import __version__
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import spawn_supervisor
from durable_bus.errors import JournalLocked
from durable_bus.journal.journal import Journal
from durable_bus.journal.lock import JournalLock, holder_pid, lock_path
from durable_bus.wire.framing import encode
from durable_bus.wire.ids import new_id
from durable_bus.wire.protocol import Hello

SECOND = (
    "import sys\n"
    "from apps import plain\n"
    "from durable_bus.errors import DurableBusError\n"
    "try:\n"
    "    with plain.bus.running(journal=sys.argv[1], workers=1) as client:\n"
    "        print(client.start('echo', ['a'], buffer_id='second').wait(60).successful)\n"
    "except DurableBusError as error:\n"
    "    print(type(error).__name__, getattr(error, 'holder_pid', None), error, sep='|')\n"
    "    sys.exit(error.exit_code)\n"
)


@pytest.mark.slow
def test_a_second_supervisor_is_refused_and_told_who_holds_the_journal(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    """By any name of the journal, and whoever asks; nothing of it changes."""
    (tmp_path / "link.db").symlink_to(journal)
    (tmp_path / "second.py").write_text(SECOND)
    with plain.bus.running(journal=journal, workers=1) as client:
        command = [sys.executable, str(tmp_path / "second.py")]
        others = [
            subprocess.Popen(
                [*command, str(path)],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for path in (journal, tmp_path / "link.db")
        ]
        supervisor, connection = spawn_supervisor(app_spec(plain.bus), "plain", journal, 1)
        connection.sendall(encode(Hello(new_id(), version=__version__)))
        with pytest.raises(JournalLocked) as refused:
            with plain.bus.running(journal=journal, workers=1):
                pass
        assert refused.value.holder_pid == client.supervisor_pid
        assert refused.value.exit_code == 5
        with closing(connection):
            assert supervisor.wait(60) == 5
        for other in others:
            code, out, err = outcome(other)
            assert code == 5, err
            name, holder, message = out.strip().split("|")
            assert (name, holder) == ("JournalLocked", str(client.supervisor_pid))
            assert f"process {client.supervisor_pid}" in message
            assert err == ""
        assert client.start("echo", ["a"]).wait(60).successful == 1
    assert facts.rows("SELECT run_id, ended FROM runs") == [(1, "clean")]


@pytest.mark.slow
def test_a_second_supervisor_takes_over_when_the_first_dies_while_it_waits(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    (tmp_path / "second.py").write_text(SECOND)
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        second = subprocess.Popen(
            [sys.executable, str(tmp_path / "second.py"), str(journal)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: waits_for_lock(journal), "somebody else has the lock's file open")
        os.kill(client.supervisor_pid, signal.SIGKILL)
        assert outcome(second)[:2] == (0, "1\n")
    assert facts.rows("SELECT run_id, ended FROM runs ORDER BY run_id") == [(1, "crashed"), (2, "clean")]


def waits_for_lock(journal: Path) -> bool:
    """Two processes have the lock's file open: its holder and one that waits."""
    holders = 0
    for fds in Path("/proc").glob("[0-9]*/fd"):
        try:
            holders += any(os.readlink(fd) == str(lock_path(journal)) for fd in fds.iterdir())
        except OSError:
            continue
    return holders >= 2


def test_the_lock_goes_with_its_process_and_a_left_pid_holds_nothing(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        pid = client.supervisor_pid
        assert pid is not None
        assert holder_pid(journal) == pid
        os.kill(pid, signal.SIGKILL)
    assert not is_alive(pid)
    assert lock_path(journal).read_text().splitlines()[0] == str(pid)
    assert holder_pid(journal) is None
    lock = JournalLock(journal, wait_s=0)
    assert holder_pid(journal) == os.getpid()
    lock.release()


def test_a_lock_file_that_is_a_symbolic_link_is_not_followed(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    lock_path(journal).symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match="it is a symbolic link"):
        JournalLock(journal, wait_s=0)
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.slow
def test_journal_and_lock_are_their_owners_alone(journal: Path) -> None:
    before = os.umask(0)
    try:
        with plain.bus.running(journal=journal, workers=1) as client:
            client.start("echo", ["a"]).wait(60)
            files = [path for path in journal.parent.iterdir() if path.name.startswith("journal.db")]
            assert len(files) >= 3
            assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
                path.name: 0o600 for path in files
            }
    finally:
        os.umask(before)


def test_a_commit_is_noted_as_soon_as_it_is_on_disk(journal: Path) -> None:
    """Before anybody can be told of it: a copy that lacks what a client knew of is found out by the note."""
    noted: list[int] = []
    with closing(Journal.open(journal)) as opened:
        opened.note_commit = noted.append
        with opened.commit(1):
            opened.start_run(1, "app", "1")
            assert noted == []
        assert noted == [1]
        with opened.commit(2):
            pass  # nothing was written
        assert noted == [1]
