"""A supervisor of one's own that is started before it is known what there is to do touches nothing yet, and
neither do its workers.
"""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from apps import plain
from command_line import durable_bus
from support import children_of, command_of, environment, until, until_gone

from durable_bus import map as durable_map
from durable_bus.app.finding import app_spec
from durable_bus.cli.starting import started_ahead
from durable_bus.client.embedded import OwnSupervisor, open_client
from durable_bus.payloads.settings import AppSpec

pytestmark = pytest.mark.real_start

VANISHES = """
import os, sys, time
from pathlib import Path
from apps import plain
from durable_bus import map as durable_map
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import OwnSupervisor

own = OwnSupervisor(app_spec(plain.bus), "plain", Path(sys.argv[1]), 1)
pid = own.start()
if sys.argv[2] == "forked" and os.fork() == 0:
    time.sleep(600)  # it holds the client's end of the socket
print(pid, flush=True)
time.sleep(600)
"""


def waits(pid: int) -> bool:
    """It has loaded what opens a journal, and sleeps: what it does at its start is over."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return "_sqlite3" in maps and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def has_booted(pid: int) -> bool:
    """A worker that has loaded what reads payloads, and sleeps."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return "etree" in maps and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def leaves_a_trace(tmp_path: Path) -> tuple[AppSpec, Path]:
    """An app, and the file that its import makes."""
    app, trace = tmp_path / "app", tmp_path / "app" / "imported"
    app.mkdir()
    lines = [
        "from pathlib import Path",
        "from durable_bus import Bus",
        f"Path({str(trace)!r}).touch()",
        "bus = Bus('app')",
        "@bus.listener('echo')",
        "def echo(item: str) -> str:",
        "    return item",
    ]
    (app / "leaves_a_trace.py").write_text("\n".join(lines))
    return AppSpec("module", "leaves_a_trace", "bus", [str(app), *sys.path]), trace


def test_it_touches_nothing_and_imports_no_app_until_it_is_spoken_to(
    leaves_a_trace: tuple[AppSpec, Path], tmp_path: Path
) -> None:
    app, trace = leaves_a_trace
    journal = tmp_path / "new" / "journal.db"
    journal.parent.mkdir()
    own = OwnSupervisor(app, "app", journal, 1)
    pid = own.start()
    until(lambda: waits(pid), "the supervisor waits")
    (worker,) = children_of(pid)
    until(lambda: has_booted(worker), "its worker waits, too")
    assert list(journal.parent.iterdir()) == []
    assert not trace.exists()
    with own.client() as client:
        assert client.start("echo", ["a"], buffer_id="b").wait().total == 1
        assert children_of(pid) == [worker]
    assert trace.exists()
    until_gone(pid)


def test_it_ends_with_whoever_closes_it_unused(journal: Path) -> None:
    own = OwnSupervisor(app_spec(plain.bus), "plain", journal, 1)
    pid = own.start()
    assert own._spawned is not None
    process, _ = own._spawned
    (worker,) = until(lambda: children_of(pid), "it has started its worker")
    own.close()
    assert process.returncode == -signal.SIGKILL
    until_gone(worker)
    assert list(journal.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "forked"])
def test_it_ends_when_its_client_dies_without_a_word(journal: Path, how: str) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", VANISHES, str(journal), how],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    supervisor = int(client.stdout.readline())
    others = [pid for pid in children_of(client.pid) if pid != supervisor]
    try:
        until(lambda: waits(supervisor), "the supervisor waits")
        workers = children_of(supervisor)
        client.kill()
        client.wait()
        for pid in (supervisor, *workers):
            until_gone(pid)
        assert list(journal.parent.iterdir()) == []
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        client.stdout.close()


def test_where_there_is_a_journal_nobody_is_started_ahead(journal: Path) -> None:
    journal.touch()
    own = OwnSupervisor(app_spec(plain.bus), "plain", journal, 1)
    own.start_ahead()
    assert own._spawned is None


@pytest.mark.slow
def test_items_that_are_refused_leave_neither_a_journal_nor_a_process(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"a": 1}\n{"a": \n')
    refused = durable_bus(
        "run", "apps.plain:bus", "echo", "--items", "items.jsonl", "--journal", "new.db", cwd=tmp_path
    )
    assert refused.code == 2
    assert "line 2 of items.jsonl" in refused.err
    assert {path.name for path in tmp_path.iterdir()} == {"items.jsonl"}
    assert not [pid for pid in children_of(os.getpid()) if "new.db" in command_of(pid)]


def test_a_supervisor_of_map_or_run_knows_that_nobody_waits_for_another_job(journal: Path) -> None:
    """Its batches are longer than those of one that serves whatever its client asks for next."""

    def said(pid: int) -> bool:
        return '"one_job": true' in command_of(pid)

    values = durable_map(str, range(10), journal=journal, workers=1)
    next(values)
    (of_map,) = [pid for pid in children_of(os.getpid()) if str(journal) in command_of(pid)]
    assert said(of_map)
    values.close()  # type: ignore[attr-defined]
    with closing(started_ahead("apps.plain:bus", journal.with_name("run.db"), 1)) as own:
        pid = own.start()
        until(lambda: str(journal.with_name("run.db")) in command_of(pid), "it is the supervisor's program")
        assert said(pid)
    with open_client(app_spec(plain.bus), "plain", journal.with_name("own.db"), 1) as client:
        assert client.supervisor_pid is not None
        assert not said(client.supervisor_pid)
