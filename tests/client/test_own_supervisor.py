"""A client with a supervisor of its own: how it begins, is interrupted, ends, and finds its app again."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from apps import collecting, plain
from daemons import Daemon, client_of
from interrupts import interrupt_within
from support import PATIENCE_S, Facts, RunLog, environment, kill, outcome, program, until, until_gone

from durable_bus.app.bus import Bus
from durable_bus.app.finding import app_spec
from durable_bus.client import connection as link
from durable_bus.client.client import Client
from durable_bus.client.embedded import open_client, running
from durable_bus.errors import BusNotImportable, SupervisorLost, UsageError


@pytest.mark.slow
def test_leaving_gives_open_work_back_and_the_same_call_goes_on(
    journal: Path, run_log: RunLog, tmp_path: Path
) -> None:
    facts, door = Facts(journal), tmp_path / "door"
    items = [*[""] * 50, *[str(door)] * 50]
    with running(plain.bus, journal=journal, workers=2, grace=0) as client:
        client.start("gate", items, buffer_id="b")
        facts.until_recorded("b", 50)
    assert facts.rows("SELECT * FROM in_flight") == []
    assert facts.value("SELECT ended FROM runs") == "clean"
    door.touch()
    with running(plain.bus, journal=journal, workers=2) as client:
        assert client.start("gate", items, buffer_id="b").wait(60).successful == 100
    assert facts.failures("b") == []
    assert all(times == 1 for index, times in run_log.times().items() if index < 50)


def interrupt_amid_a_frame(client: Client, supervisor_pid: int) -> None:
    """Ctrl-C while a start waits for room to send the rest of a chunk, as the supervisor is stopped."""
    connection = client._session.connection._socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # no chunk fits
    os.kill(supervisor_pid, signal.SIGSTOP)

    def sent_bytes() -> int:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)

    def interrupt() -> None:
        until(lambda: sent_bytes() > 16 * 1024, "a part of a chunk was sent")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            client.start("echo", ["x" * 1_000_000] * 100, buffer_id="interrupted")
    finally:
        thread.join()
        os.kill(supervisor_pid, signal.SIGCONT)


@pytest.mark.slow
def test_ctrl_c_amid_a_frame_ends_the_supervisor_and_what_runs_is_finished(
    journal: Path, run_log: RunLog, tmp_path: Path
) -> None:
    """What came after half a frame would be read as its rest, and nobody would ever hear of the end."""
    facts, door = Facts(journal), tmp_path / "door"
    with running(plain.bus, journal=journal, workers=1) as client:
        client.start("gate", [str(door)], buffer_id="b")
        run_log.until_started(0)
        interrupt_amid_a_frame(client, client.supervisor_pid or 0)
        with pytest.raises(SupervisorLost, match="interrupted while it was sent"):
            client.start("echo", ["a"])
        door.touch()
    assert facts.value("SELECT ended FROM runs") == "clean"
    facts.assert_whole("b", 1)
    with running(plain.bus, journal=journal, workers=1) as client:
        assert client.start("echo", ["a"], buffer_id="interrupted").wait(60).successful == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", [subprocess, link])
def test_ctrl_c_at_any_moment_of_closing_leaves_nothing_that_hangs(journal: Path, module: ModuleType) -> None:
    """Popen's own lock, say, held for good by a `poll` that was interrupted: each later `wait` would hang."""
    interrupted, moments = True, 0
    while interrupted:
        client = open_client(app_spec(plain.bus), "plain", journal, 1)
        moments += 1
        interrupted = interrupt_within(client.close, module, moments)
        closing = threading.Thread(target=client.close, kwargs={"at_once": True}, daemon=True)
        closing.start()
        closing.join(PATIENCE_S)
        assert not closing.is_alive(), f"interrupted before line {moments} of {module}, it cannot be closed"
        until_gone(client.supervisor_pid or 0)
    assert moments >= 5


def test_a_daemons_client_goes_on_after_ctrl_c_amid_a_frame(journal: Path) -> None:
    with Daemon(journal, "apps.plain:bus", workers=1) as daemon, client_of(journal) as client:
        interrupt_amid_a_frame(client, daemon.process.pid)
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1


def test_a_client_whose_supervisor_is_gone_can_still_read_what_was_recorded(journal: Path) -> None:
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("echo", ["a"], buffer_id="b")
        buffer.wait(60)
        kill(client.supervisor_pid or 0)
        assert buffer.wait(60).successful == 1
        assert [result.payload for result in buffer.results()] == ["a"]
        with pytest.raises(SupervisorLost):
            client.start("echo", ["b"])


def test_a_client_and_its_handlers_may_change_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's path means what it meant at the start."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    facts = Facts(tmp_path / "journal.db")
    with running(collecting.bus, journal="journal.db", workers=1) as client:
        monkeypatch.chdir("sub")
        buffer = client.start("move", ["/"], buffer_id="b", return_to="digest")
        assert buffer.wait(60).successful == 1
        assert repr(buffer) == "<Buffer 'b' in 'journal.db'>"
        ended = "SELECT state FROM messages WHERE message_id = 'b/complete' AND settled_at IS NOT NULL"
        assert facts.until(ended) == "settled"
    assert facts.rows("SELECT * FROM failures") == []


@pytest.mark.real_start
@pytest.mark.parametrize("given", [None, "/of/the/user"])
def test_handlers_and_what_they_start_see_the_python_path_of_who_started_it_all(
    journal: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Another Python would find our packages first, compiled for this one."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if given is not None:
        monkeypatch.setenv("PYTHONPATH", given)
    with running(plain.bus, journal=journal, workers=1) as client:
        buffer = client.start("variable", ["PYTHONPATH"])
        buffer.wait(60)
        assert [result.payload for result in buffer.results()] == [given or "none"]


@pytest.mark.real_start
def test_a_supervisor_that_crashes_at_its_start_is_heard(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nobody is told to run the same again, which would crash again."""
    (tmp_path / "selectors.py").write_text("raise RuntimeError('my last words')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SupervisorLost, match=r"crashed at its start \(exit code 1\)"):
        with running(plain.bus, journal=journal):
            pass
    assert "RuntimeError: my last words" in capfd.readouterr().err


IMPOSSIBLE = [
    ("workers", 0),
    ("workers", -1),
    ("workers", 1.5),
    ("workers", "2"),
    ("workers", True),
    ("durability", "fast"),
    ("durability", None),
    ("durability", []),
    ("grace", "x"),
    ("grace", -1),
    ("grace", None),
    ("grace", float("nan")),
    ("name", "\ud800"),
    ("name", 1),
]


@pytest.mark.parametrize(("option", "value"), IMPOSSIBLE)
def test_an_option_that_cannot_be_is_refused_before_anything_is_started(
    journal: Path, option: str, value: object
) -> None:
    options: Any = {option: value}
    with pytest.raises(UsageError, match="client name" if option == "name" else f"{option}="):
        with running(plain.bus, journal=journal, **options):
            pass
    assert not list(journal.parent.iterdir())


# Where a Bus can be found again

SCRIPT = """
from durable_bus import Bus
bus = Bus("script")

@bus.listener("double")
def double(text: str) -> str:
    return text * 2

print("imported as", __name__, flush=True)
{guard}
    with bus.running(journal="journal.db", workers=1) as client:
        buffer = client.start("double", ["ab"])
        buffer.wait(60)
        print([result.payload for result in buffer.results()])
"""


@pytest.mark.slow
def test_a_script_can_use_its_own_bus_behind_a_guard(tmp_path: Path) -> None:
    process = program(tmp_path / "script.py", SCRIPT.format(guard='if __name__ == "__main__":'))
    code, out, err = outcome(process)
    assert (code, out) == (0, "imported as __main__\n['abab']\n"), err
    assert "imported as __mp_main__" in err, "workers' prints go to stderr"


def test_a_script_without_a_guard_is_told_so_in_one_line(tmp_path: Path) -> None:
    code, out, err = outcome(program(tmp_path / "script.py", SCRIPT.format(guard="if True:")))
    assert code != 0
    assert "abab" not in out
    assert "BusNotImportable" in err


def test_a_bus_made_where_no_worker_can_import_it_is_refused_at_once(tmp_path: Path) -> None:
    source = (
        "from durable_bus import Bus\n"
        "from durable_bus.errors import BusNotImportable\n"
        "bus = Bus('typed')\n"
        "try:\n"
        "    with bus.running(journal='journal.db'): pass\n"
        "except BusNotImportable as error: print('refused:', error)\n\n"
    )
    for arguments, stdin in ((["-c", source], ""), (["-"], source)):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=60,
        )
        assert done.stdout.startswith("refused: "), done.stderr
    assert not (tmp_path / "journal.db").exists()


def test_a_bus_without_a_name_in_any_module_is_refused_at_once(journal: Path) -> None:
    with pytest.raises(BusNotImportable, match="no module has a name for Bus 'local'"):
        with running(Bus("local"), journal=journal):
            pass
    assert not journal.exists()


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        "from durable_bus import Bus\n"
        "bus = Bus('broken')\n"
        "if 'durable_bus.worker' in ' '.join(sys.orig_argv):\n"
        "    raise ImportError('only here')\n"
    )
    main = (
        "import broken\n"
        "from durable_bus.errors import BusNotImportable\n"
        "try:\n"
        "    with broken.bus.running(journal='journal.db', workers=2): pass\n"
        "except BusNotImportable as error: print(error)\n"
    )
    code, out, _ = outcome(program(tmp_path / "main.py", main))
    assert code == 0
    assert out.startswith("importing broken failed: ImportError: only here")
    assert out.count("\n") == 1
