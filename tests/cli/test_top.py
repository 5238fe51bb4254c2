"""`top`: read in 80 columns, quits cleanly, plain text when it is no terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Service, stopped
from support import PATIENCE_S, Facts, environment, kill

LONG = "a-buffer-with-a-name-that-is-far-too-long-for-eighty-columns-and-ends-in-17"


def plain(journal: Path, *, columns: int = 80) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "durable_bus", "top", "--journal", str(journal)],
        env=environment(COLUMNS=str(columns)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Screen:
    """`durable-bus top` in a terminal of its own, 80 x 24. Its variables say something else."""

    def __init__(self, journal: Path) -> None:
        self.master, slave = pty.openpty()
        self.resize(80)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "durable_bus", "top", "--journal", str(journal)],
            env=environment(TERM="xterm-256color", COLUMNS="50", LINES="10"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, pattern: str) -> "re.Match[str]":
        """Read on until what was drawn since the last time holds this. Colours are left out."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (match := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"{pattern!r} was never drawn:\n{self.seen}"
            self.seen += re.sub(r"\x1b\[[\d;]*m", "", os.read(self.master, 65536).decode(errors="replace"))
        self.seen = self.seen[match.end() :]
        return match

    def ended(self) -> int:
        """Its exit code; the screen and the terminal's modes are as they were."""
        self.until(r"\x1b\[\?1049l")
        code = self.process.wait(60)
        assert termios.tcgetattr(self.slave)[3] == self.before[3]
        return code

    def close(self) -> None:
        kill(self.process.pid)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def service(journal: Path, facts: Facts) -> Iterator[Service]:
    """Something of everything: a buffer that runs, one that is paused, one that has failures."""
    with Service(journal, "apps.unruly:bus") as service, service.client() as client:
        client.start("misbehave", ["raise", "good", "answer NUL"], buffer_id="failing").wait(60)
        client.start("misbehave", ["good"] * 10, buffer_id=LONG).wait(60)
        client.start("blocked-for-ever", ["x"] * 10, buffer_id="running")
        facts.until("SELECT sum(item_count) = 4 FROM in_flight")  # which is all that two workers take
        client.pause(client.start("blocked-for-ever", ["x"] * 1000, buffer_id="paused").buffer_id)
        yield service
        service.kill()  # nobody waits for what is blocked for ever


@pytest.fixture
def screen(service: Service) -> Iterator[Screen]:
    screen = Screen(service.journal)
    try:
        yield screen
    finally:
        screen.close()


def test_without_a_terminal_it_prints_everything_once_as_plain_text(service: Service) -> None:
    text = plain(service.journal)
    assert "\x1b" not in text
    assert f"supervisor alive, process {service.pid}, run 1 of apps.unruly:bus" in text
    assert re.search(r"^2 open +state +done +failed +rate +left", text, re.MULTILINE)
    assert re.search(r"^running +open .*0/10 ", text, re.MULTILINE)
    assert re.search(r"^paused +paused .*/1,000 ", text, re.MULTILINE)
    assert re.search(r"^failing +complete .*3/3 +2", text, re.MULTILINE)
    assert re.search(r"^a-buffer-with…ends-in-17 +complete .*10/10 ", text, re.MULTILINE)
    assert re.search(r"^failing\[0\] exception: ValueError", text, re.MULTILINE)
    for worker in service.workers():
        assert re.search(rf"^{worker} +ready +blocked-for-ever running\[\d+\] +[\d.]+ s", text, re.MULTILINE)


@pytest.mark.slow
def test_it_is_readable_in_eighty_columns(service: Service) -> None:
    lines = plain(service.journal).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert any(line.startswith("running ") and "0/10" in line for line in lines)


@pytest.mark.slow
def test_it_tells_of_a_supervisor_that_is_stopped_gone_or_cannot_import(journal: Path) -> None:
    (journal.parent / "broken.py").write_text("import nothing_of_that_name\n")
    with Service(journal, "broken:bus", cwd=journal.parent) as service:
        service.until_logged("cannot import")
        assert "the app cannot be imported: importing broken failed" in plain(journal)
        stopped(service.pid)
        assert "hung: the process is stopped" in plain(journal)
        service.kill()
        assert "supervisor crashed, run 1 of broken:bus" in plain(journal)


@pytest.mark.slow
def test_a_run_that_ended_well_is_not_called_a_crash(journal: Path) -> None:
    with Service(journal, "apps.plain:bus") as service:
        service.until_ready()
        service.send(signal.SIGTERM)
        service.process.wait(60)
    assert "supervisor ended, run 1 of apps.plain:bus" in plain(journal)


def test_a_journal_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "durable_bus", "top", "--journal", str(tmp_path / "none.db")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("key", ["q", "\x03"])
def test_it_draws_again_and_again_until_a_key_ends_it(screen: Screen, key: str) -> None:
    screen.until(r"\x1b\[\?1049h")
    for _ in range(3):
        screen.until("running")
        screen.until("q quits")
    os.write(screen.master, key.encode())
    assert screen.ended() == 0


@pytest.mark.slow
def test_it_is_as_wide_as_the_terminal_is_now(screen: Screen) -> None:
    screen.until(r"2 open +state +done +failed +rate +left")
    screen.resize(160)
    screen.until(rf"{LONG[:30]}\S+ +complete +misbehave +━+")
    screen.resize(50)
    screen.until(r"2 open +state +done +failed[ \r]*\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(screen: Screen, number: signal.Signals) -> None:
    screen.until("q quits")
    screen.process.send_signal(number)
    assert screen.ended() == 0


@pytest.mark.slow
def test_it_goes_on_while_the_daemon_goes_and_comes_back(screen: Screen, service: Service) -> None:
    screen.until(f"process {service.pid}")
    service.kill()
    screen.until("supervisor crashed")
    service.process = service.spawn()
    screen.until("supervisor alive")
    os.write(screen.master, b"q")
    assert screen.ended() == 0
