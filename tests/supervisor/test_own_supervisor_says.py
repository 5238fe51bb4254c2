"""What a supervisor of a command's own says by itself: what its user would wait for without knowing."""

from pathlib import Path

import pytest
from command_line import Command, write_items
from disks import small_disk
from no_room import no_room
from support import Facts, RunLog, kill, workers_of

pytestmark = [pytest.mark.real_start, pytest.mark.slow]


def gates(folder: Path, journal: Path, *, items: int) -> Command:
    """A `run` whose items wait for one door."""
    run = ("run", "apps.plain:bus", "gate", "--workers", 2, "--buffer-id", "b", "--journal", journal)
    given = write_items(folder, *[folder / "door"] * items)
    return Command(*run, "--items", given, "--quiet", cwd=folder)


def test_a_full_disk(tmp_path: Path, run_log: RunLog) -> None:
    """The first answers fit into what room the log has left."""
    with small_disk(tmp_path / "disk") as disk:
        journal = disk.folder / "journal.db"
        command = gates(tmp_path, journal, items=20_000)
        run_log.until_each_started(1, workers=2)
        disk.fill()
        (tmp_path / "door").touch()
        said = command.until_said("no room")
        assert said == f'durable_bus: no room on disk journal={journal} action="retrying every second"\n'
        disk.empty()
        assert command.until_said("room") == "durable_bus: room on disk again\n"
        assert command.ended().code == 0
        Facts(journal).assert_whole("b", 20_000)


def test_no_room_for_another_worker(tmp_path: Path, journal: Path, facts: Facts, run_log: RunLog) -> None:
    command = gates(tmp_path, journal, items=4)
    run_log.until_each_started(1, workers=2)
    supervisor = command.supervisor()
    with no_room(supervisor):
        for worker in workers_of(supervisor):
            kill(worker)
        assert command.until_said("worker").startswith("durable_bus: cannot start a worker reason=")
        assert workers_of(supervisor) == []
    (tmp_path / "door").touch()
    assert command.ended().code == 0
    facts.assert_whole("b", 4)


def test_an_app_that_can_be_imported_no_more(
    tmp_path: Path, journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """At the start the command says so itself, once."""
    app = tmp_path / "gone_bad.py"
    app.write_text("from apps.plain import bus\n")
    door = tmp_path / "door"
    items = write_items(tmp_path, *[door] * 4)
    run = ("run", "gone_bad:bus", "gate", "--workers", 1, "--items", items, "--quiet", "--journal", journal)
    command = Command(*run, cwd=tmp_path)
    run_log.until_started(0)
    app.write_text("raise RuntimeError('broken')\n")
    kill(workers_of(command.supervisor())[0])
    said = command.until_said("worker")
    assert said.startswith("durable_bus: worker cannot import the app error=")
    app.write_text("from apps.plain import bus\n")
    door.touch()
    assert command.ended().code == 0

    app.write_text("import os, sys\nfrom apps.plain import bus\n" + FAILS_IN_A_WORKER)
    told = Command(*run, "--buffer-id", "c", cwd=tmp_path).ended()
    assert told.code != 0
    assert "durable_bus: worker cannot import" not in told.err
    assert told.err.count("\n") == 1, told.err
    assert facts.rows("SELECT 1 FROM buffers WHERE buffer_id = 'c'") == []


FAILS_IN_A_WORKER = "if 'durable_bus.worker' in ' '.join(sys.orig_argv): raise RuntimeError('broken')\n"
