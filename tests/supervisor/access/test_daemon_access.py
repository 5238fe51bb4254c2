"""Who may talk to a daemon, and by which files and names it is found."""

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services import NOBODY, Service, as_nobody, connected, start_as_nobody, works
from support import until

from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable
from durable_bus.journal.lock import lock_path
from durable_bus.wire.socket_file import socket_path

pytestmark = pytest.mark.real_start

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can look into; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="durable_bus-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def refused(journal: Path, **options: Any) -> str:
    """Why a daemon does not start: one line, exit code 5."""
    service = Service(journal, **options)
    assert service.process.wait(60) == 5
    (line,) = service.log().splitlines()
    service.log_path.unlink()
    return line


# Files


@pytest.mark.slow
def test_socket_lock_and_journal_are_their_owners_alone(journal: Path) -> None:
    before = os.umask(0)
    try:
        with Service(journal) as service, service.client() as client:
            assert works(client)
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in journal.parent.iterdir()
                if path.name.startswith("journal.db")
            }
    finally:
        os.umask(before)
    assert {"journal.db", "journal.db.lock", "journal.db.sock", "journal.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


@pytest.mark.slow
def test_a_folder_that_everybody_may_write_to_is_refused(journal: Path) -> None:
    journal.parent.chmod(0o777)
    assert "everybody may write to the folder" in refused(journal)
    assert not journal.exists()
    journal.parent.chmod(0o1777)  # like /tmp: nobody can take away what is another's
    with Service(journal) as service, service.client() as client:
        assert works(client)


@as_root
@pytest.mark.parametrize("name", ["", "journal.db", "journal.db.lock", "journal.db.sock"])
def test_a_folder_or_file_of_another_user_is_refused(journal: Path, name: str) -> None:
    path = journal.parent / name
    if name:
        path.write_text("")
    os.chown(path, NOBODY, NOBODY)
    assert f"belongs to another user (uid {NOBODY})" in refused(journal)
    os.chown(path, 0, 0)


SERVE = """
config = daemon.DaemonConfig(
    journal=daemon.Path(sys.argv[1]), app=finding.parse_spec("apps.plain:bus"), app_name="plain", workers=1
)
try:
    daemon.supervise(config, None)
except errors.DurableBusError as error:
    print(type(error).__name__, error.exit_code, error)
"""


@as_root
def test_an_unwritable_folder_is_one_clear_line(open_folder: Path) -> None:
    out = as_nobody(SERVE, str(open_folder / "journal.db"))
    assert out.startswith("JournalUnreachable 5 cannot open the lock")
    assert out.count("\n") == 1
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize("planted", [lock_path, socket_path])
def test_a_symbolic_link_planted_at_lock_or_socket_is_not_followed(
    journal: Path, tmp_path: Path, planted: Any
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted(journal).symlink_to(victim)
    assert str(planted(journal)) in refused(journal)
    assert victim.read_text() == "precious"
    assert planted(journal).is_symlink()


def test_a_symbolic_link_to_another_socket_is_neither_followed_nor_removed(
    journal: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        socket_path(journal).symlink_to(tmp_path / "other")
        with pytest.raises(JournalUnreachable):
            Client(journal)
        assert "is in the way of the daemon's socket" in refused(journal)
    assert (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_file_or_folder_in_the_sockets_place_is_refused(journal: Path) -> None:
    socket_path(journal).write_text("precious")
    assert "is in the way of the daemon's socket" in refused(journal)
    assert socket_path(journal).read_text() == "precious"
    socket_path(journal).unlink()
    socket_path(journal).mkdir()
    assert "is in the way of the daemon's socket" in refused(journal)


@pytest.mark.slow
def test_a_stale_socket_is_replaced(journal: Path) -> None:
    with Service(journal) as service:
        service.kill()
        assert socket_path(journal).is_socket()
        with pytest.raises(JournalUnreachable, match="no daemon serves"):
            service.client()
        service.process = service.spawn()
        with connected(journal) as client:
            assert works(client)


def test_a_daemon_that_ends_before_it_answers_is_nobody(journal: Path) -> None:
    """Such as one that was killed while a child of it, not yet another program, still held its socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_path(journal)))
        listening.listen()
        hanging_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hanging_up.start()
        with pytest.raises(JournalUnreachable, match=r"no daemon serves .* ended before it answered"):
            Client(journal)
        hanging_up.join()


# Names


@pytest.mark.slow
def test_a_folder_too_deep_for_a_socket_serves_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    with Service(folder / "journal.db") as service, service.client() as client:
        assert len(str(socket_path(service.journal))) > 250
        assert works(client)


@pytest.mark.slow
def test_a_name_too_long_for_a_socket_serves_all_the_same(tmp_path: Path) -> None:
    journal = tmp_path / ("n" * 200)
    with Service(journal) as service, service.client() as client:
        assert works(client)
        assert socket_path(journal).is_socket()
        assert stat.S_IMODE(socket_path(journal).stat().st_mode) == 0o600
        assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_clients_find_a_socket_that_lies_elsewhere(journal: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    with Service(journal, socket=str(elsewhere / "bus.sock")) as service, service.client() as client:
        assert works(client)
        assert not socket_path(journal).exists()
        service.kill()
        service.process = Service(journal).process  # beside the journal again
        assert works(client)


@pytest.mark.slow
def test_a_socket_in_a_folder_that_is_not_there_is_one_clear_line(journal: Path, tmp_path: Path) -> None:
    assert "No such file or directory" in refused(journal, socket=str(tmp_path / "nowhere" / "s"))
    assert "everybody may write" in refused(journal, socket=str(public(tmp_path / "public") / "s"))


def public(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.mark.slow
def test_by_any_name_of_the_journal_it_is_one_daemon(service: Service, journal: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(journal)
    with Client(tmp_path / "link.db") as client:
        assert works(client)


# Users

CONNECT = """
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
        print(connection.recv(65536).decode(errors="replace"))
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
@as_root
def test_another_user_is_kept_out_by_the_mode_and_told_off_by_the_uid(open_folder: Path) -> None:
    with Service(open_folder / "journal.db") as service, service.client() as client:
        path = socket_path(service.journal)
        assert "Permission denied" in as_nobody(CONNECT, str(path))
        path.chmod(0o666)
        assert "this daemon belongs to another user (uid 0)" in as_nobody(CONNECT, str(path))
        service.until_logged(f"client refused uid={NOBODY}")
        assert works(client)


PLANT = """
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.chmod(sys.argv[1], 0o666)
while True:
    listener.accept()
"""


@pytest.mark.slow
@as_root
def test_a_socket_that_another_user_has_planted_is_not_spoken_to(open_folder: Path) -> None:
    journal = open_folder / "journal.db"
    with Service(journal):
        pass  # the journal is ours
    open_folder.chmod(0o1777)
    with start_as_nobody(PLANT, str(socket_path(journal))) as planter:
        try:
            until(lambda: socket_path(journal).exists(), "it is planted")
            until(lambda: "belongs to another user" in why_not(journal), "it is not spoken to")
        finally:
            planter.kill()


def why_not(journal: Path) -> str:
    with pytest.raises(JournalUnreachable) as refused:
        Client(journal)
    return str(refused.value)
