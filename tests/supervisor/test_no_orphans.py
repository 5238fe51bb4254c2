"""Nobody outlives whom it works for."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from apps import plain, unruly
from support import Facts, RunLog, children_of, kill, program, until, until_gone, workers_of

CLIENT = (
    "import sys\n"
    "from apps import {app}\n"
    "with {app}.bus.running(journal='journal.db', workers=2) as client:\n"
    "    buffer = client.start(*{start!r}, buffer_id='b')\n"
    "    print(client.supervisor_pid, flush=True)\n"
    "    buffer.wait()\n"
)


def running_client(tmp_path: Path, app: str, *start: object) -> tuple["subprocess.Popen[str]", int]:
    """A program with a supervisor of its own that waits for a buffer; and that supervisor's pid."""
    process = program(tmp_path / "main.py", CLIENT.format(app=app, start=start))
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_workers_die_with_their_supervisor_whatever_their_handlers_do(journal: Path, facts: Facts) -> None:
    """One of the two sleeps with every signal blocked."""
    with unruly.bus.running(journal=journal, workers=2) as client:
        assert client.supervisor_pid is not None
        client.start("blocked-for-ever", ["a", "b"], buffer_id="b")
        facts.until("SELECT count(DISTINCT worker_pid) = 2 FROM in_flight")
        workers = workers_of(client.supervisor_pid)
        assert len(workers) == 2
        kill(client.supervisor_pid)
        for pid in workers:
            until_gone(pid)


@pytest.mark.slow
def test_workers_that_still_boot_die_with_their_supervisor(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        for pid in before:
            kill(pid)
        booting = until(lambda: set(workers_of(client.supervisor_pid or 0)) - set(before), "new workers boot")
        kill(client.supervisor_pid)
        for pid in booting:
            until_gone(pid)


def test_supervisor_and_workers_die_with_their_client(
    journal: Path, tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    process, supervisor = running_client(tmp_path, "plain", "gate", [str(tmp_path / "door")] * 4)
    run_log.until_each_started(1, workers=2)
    workers = workers_of(supervisor)
    assert len(workers) == 2
    kill(process.pid)
    process.communicate()
    for pid in (supervisor, *workers):
        until_gone(pid)
    assert facts.value("SELECT ended FROM runs") == "running", "it has not said that it ended"
    assert facts.value("SELECT state FROM buffers") == "open"


@pytest.mark.slow
def test_a_supervisor_dies_with_its_client_also_when_that_has_forked(tmp_path: Path) -> None:
    """A child, such as any fork-based pool has, holds the socket of its killed parent open."""
    source = (
        "import os, signal\n"
        "from apps import plain\n"
        "with plain.bus.running(journal='journal.db', workers=1) as client:\n"
        "    child = os.fork()\n"
        "    if child == 0: signal.pause()\n"
        "    print(client.supervisor_pid, child, flush=True)\n"
        "    signal.pause()\n"
    )
    process = program(tmp_path / "main.py", source)
    assert process.stdout is not None
    supervisor, child = map(int, process.stdout.readline().split())
    try:
        kill(process.pid)
        until_gone(supervisor, patience_s=30)
    finally:
        kill(child)
        process.communicate()


@pytest.mark.slow
def test_a_stopped_supervisor_dies_with_its_client_once_it_goes_on(
    journal: Path, tmp_path: Path, run_log: RunLog
) -> None:
    process, supervisor = running_client(tmp_path, "plain", "gate", [str(tmp_path / "door")] * 4)
    run_log.until_each_started(1, workers=2)
    os.kill(supervisor, signal.SIGSTOP)
    kill(process.pid)
    os.kill(supervisor, signal.SIGCONT)
    process.communicate()
    until_gone(supervisor)


@pytest.mark.slow
def test_ctrl_c_in_a_program_ends_all_of_it_and_the_work_goes_on_next_time(
    journal: Path, tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    """The signal reaches the whole group; supervisor and workers leave it to the program to decide."""
    door = tmp_path / "door"
    started, supervisor = running_client(tmp_path, "plain", "gate", [str(door)] * 4)
    run_log.until_each_started(1, workers=2)
    workers = workers_of(supervisor)
    for pid in (*workers, supervisor):
        os.kill(pid, signal.SIGINT)
    os.kill(started.pid, signal.SIGINT)
    door.touch()
    _, err = started.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    for pid in (supervisor, *workers):
        until_gone(pid)
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert facts.rows("SELECT * FROM in_flight") == []
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 4
    assert facts.failures("b") == []
    assert set(run_log.times().values()) == {1}


@pytest.mark.slow
def test_leaving_the_block_leaves_no_process_behind(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("echo", ["a"]).wait(60)
        assert client.supervisor_pid is not None
        everybody = [client.supervisor_pid, *children_of(client.supervisor_pid)]
        assert len(everybody) == 3
    for pid in everybody:
        until_gone(pid)
