"""`durable-bus tour`: the demo, a console, and a browser, in one command; and what is left of them."""

import os
import signal
import stat
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import httpx
import pytest
from command_line import Command, Ran, durable_bus
from small_library import smaller
from support import Facts, children_of, command_of, until

from durable_bus.cli import tour as tour_module
from durable_bus.errors import JournalUnreachable

pytestmark = pytest.mark.slow

BROWSER = """#!/bin/sh
# Stands for a browser: it notes who started it with what, and what is there.
umask 077
printf '%s\\n' "$1" > "$TOUR_SEEN/address.part"
cat "${1#file://}" > "$TOUR_SEEN/page"
mv "$TOUR_SEEN/address.part" "$TOUR_SEEN/address"
"""


class Tour:
    """The command in a folder of its own, until Ctrl-C."""

    def __init__(self, folder: Path, *arguments: object, **variables: str) -> None:
        self.journal = folder / "code-audit.db"
        self.facts = Facts(self.journal)
        self.command = Command("tour", "--workers", 2, *arguments, cwd=folder, **variables)
        stdout = self.command.process.stdout
        assert stdout is not None
        self.address = stdout.readline().decode().strip()
        assert self.address, self.command.ended()

    def daemon(self) -> int:
        (pid,) = (pid for pid in children_of(self.command.process.pid) if "serve" in command_of(pid))
        return pid

    def end(self) -> Ran:
        self.command.ctrl_c()
        return self.command.ended()


def test_it_shows_the_demo_while_it_runs_and_leaves_only_the_journal(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "--no-browser")
    daemon = tour.daemon()
    parts = urlsplit(tour.address)
    with httpx.Client(base_url=f"http://{parts.netloc}", trust_env=False) as browser:
        assert browser.get(f"/?{parts.query}").status_code == 200
        until(lambda: "/buffers/audit-" in browser.get("/").text, "the page shows the buffer")
    ran = tour.end()
    assert ran.code == 0, ran
    assert ran.out == ""
    assert "durable-bus web --journal code-audit.db" in ran.err
    until(lambda: not command_of(daemon), "the daemon has ended")
    assert {path.name for path in tmp_path.iterdir()} == {"code-audit.db", "code-audit.db.lock"}
    assert tour.facts.rows("SELECT ended FROM runs") == [("clean",)]
    assert durable_bus("check", "--journal", tour.journal, cwd=tmp_path).code == 0


def test_the_same_command_goes_on_and_demo_finds_its_buffer(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    variables = smaller(tmp_path_factory.mktemp("small"), 150)
    tour = Tour(tmp_path, "--no-browser", **variables)
    tour.facts.until("SELECT count(*) FROM buffers")
    tour.command.kill()
    tour.command.ended()
    again = Tour(tmp_path, "--no-browser", **variables)
    again.facts.until("SELECT count(*) FROM buffers WHERE state = 'complete'")
    ran = again.end()
    assert "was started before: delete" in ran.err
    demo = durable_bus("demo", "--quiet", cwd=tmp_path, **variables)
    assert "all recorded before" in demo.out


def test_a_kill_of_the_tour_ends_its_daemon(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "--no-browser")
    daemon = tour.daemon()
    os.kill(tour.command.process.pid, signal.SIGKILL)
    tour.command.ended()
    until(lambda: not command_of(daemon), "the daemon has ended")


def test_the_browser_gets_a_file_that_only_we_can_read_and_no_token(tmp_path: Path) -> None:
    seen, program, work = tmp_path / "seen", tmp_path / "browser", tmp_path / "work"
    seen.mkdir()
    work.mkdir()
    program.write_text(BROWSER)
    program.chmod(0o700)
    tour = Tour(work, BROWSER=f"{program} %s", TOUR_SEEN=str(seen))
    until((seen / "address").exists, "the browser was opened")
    address = (seen / "address").read_text().strip()
    assert address.startswith("file:///")
    assert tour.address.partition("?token=")[2] not in address
    assert tour.address in (seen / "page").read_text()
    page = Path(address.removeprefix("file://"))
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    ran = tour.end()
    assert ran.code == 0
    assert not page.exists()


def test_a_file_that_is_no_journal_is_refused_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "code-audit.db").write_text("this is no journal, and it is long enough to be looked at")
    ran = durable_bus("tour", "--no-browser", cwd=tmp_path)
    assert ran.code == 5
    assert "is not a durable_bus journal" in ran.error


def test_what_ends_a_tour_of_a_journal_that_somebody_serves_is_said_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour_module, "Client", MagicMock())
    with (
        pytest.raises(JournalUnreachable, match="gone meanwhile"),
        tour_module._daemon(tmp_path / "code-audit.db", None),
    ):
        raise JournalUnreachable("gone meanwhile")
