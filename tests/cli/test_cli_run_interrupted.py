"""`run` that is interrupted or killed: the same command goes on, and nothing that was recorded runs again."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from support import Facts, RunLog, kill, until, until_gone, workers_of

GATE = ("run", "apps.plain:bus", "gate", "--workers", 2)


def _half_way(tmp_path: Path, facts: Facts, run_log: RunLog) -> Command:
    """A command that has recorded its first half. Each item of the other waits for a door of its own."""
    doors = [tmp_path / f"door-{index}" for index in range(50, 100)]
    items = write_items(tmp_path, *[tmp_path] * 50, *doors)
    command = Command(*GATE, "--items", items, "--buffer-id", "b", cwd=tmp_path)
    facts.until_recorded("b", 50)
    until(lambda: len(_at_the_doors(run_log)) >= 2, "two items wait at their doors")
    return command


def _at_the_doors(run_log: RunLog) -> list[int]:
    return [index for index in run_log.indexes() if index >= 50]


def _open(tmp_path: Path, indexes: Iterable[int]) -> None:
    for index in indexes:
        (tmp_path / f"door-{index}").touch()


def _again(tmp_path: Path, facts: Facts) -> str:
    """The same command, with every door open; what it said."""
    _open(tmp_path, range(50, 100))
    ran = durable_bus(*GATE, "--items", tmp_path / "items.txt", "--buffer-id", "b", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out.count('success="true">open</item>') == 100
    facts.assert_whole("b", 100)
    return ran.err


@pytest.mark.slow
def test_ctrl_c_finishes_what_runs_and_the_same_command_goes_on(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _half_way(tmp_path, facts, run_log)
    command.ctrl_c()
    running = _at_the_doors(run_log)
    _open(tmp_path, running)
    ran = command.ended()
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.splitlines()[-1].startswith("durable-bus: interrupted with ")
    assert "Traceback" not in ran.err
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert facts.failures("b") == []
    assert facts.recorded("b") >= 52
    assert "items are recorded, going on" in _again(tmp_path, facts)
    assert {run_log.times()[index] for index in (*range(50), *running)} == {1}


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_what_runs(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    command = _half_way(tmp_path, facts, run_log)
    supervisor = command.supervisor()
    assert command.process.stderr is not None
    command.ctrl_c()
    said = b""
    while b"Ctrl-C again stops at once" not in said:
        said += os.read(command.process.stderr.fileno(), 4096)
    command.ctrl_c()
    ran = command.ended()  # the doors are still closed
    assert ran.code == 4
    assert ran.error == "interrupted with 50 of 100 items recorded; run the same command again to go on"
    until_gone(supervisor)
    _again(tmp_path, facts)


@pytest.mark.slow
def test_sigterm_ends_it_like_ctrl_c(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    command = _half_way(tmp_path, facts, run_log)
    command.process.send_signal(signal.SIGTERM)
    _open(tmp_path, _at_the_doors(run_log))
    assert command.ended().code == 4
    assert facts.value("SELECT ended FROM runs") == "clean"
    _again(tmp_path, facts)


@pytest.mark.slow
def test_ctrl_c_while_the_app_is_imported_ends_at_once(tmp_path: Path, run_log: RunLog) -> None:
    (tmp_path / "endless.py").write_text(
        "import time\nfrom apps.plain import log_run\nlog_run(0)\ntime.sleep(600)\n"
    )
    command = Command("run", "endless:bus", "x", "--items", write_items(tmp_path, "a"), cwd=tmp_path)
    run_log.until_started(0)
    command.ctrl_c()
    ran = command.ended()
    assert ran.code == 4
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("victim", ["supervisor", pytest.param("worker", marks=pytest.mark.slow), "command"])
def test_kill_9_costs_nothing_that_is_recorded(
    tmp_path: Path, facts: Facts, run_log: RunLog, victim: str
) -> None:
    command = _half_way(tmp_path, facts, run_log)
    supervisor = command.supervisor()
    workers = workers_of(supervisor)
    kill({"supervisor": supervisor, "worker": workers[0], "command": command.pid}[victim])
    if victim == "worker":
        _open(tmp_path, range(50, 100))
        ran = command.ended()
        assert ran.code == 0
        facts.assert_whole("b", 100)
    else:
        ran = command.ended()
        for pid in (supervisor, *workers):
            until_gone(pid)
        assert ran.code == (4 if victim == "supervisor" else -signal.SIGKILL)
        assert facts.recorded("b") == 50
        _again(tmp_path, facts)
    twice = {index for index, times in run_log.times().items() if times > 1}
    assert twice <= {run.index for run in run_log.runs() if run.word == "run" and run.index >= 50}
    assert max(run_log.times().values()) <= 2


@pytest.mark.slow
def test_a_killed_supervisor_is_one_line_and_exit_code_4(
    tmp_path: Path, facts: Facts, run_log: RunLog
) -> None:
    command = _half_way(tmp_path, facts, run_log)
    kill(command.supervisor())
    ran = command.ended()
    assert (ran.code, ran.out) == (4, "")
    assert "run the same again to go on" in ran.err.splitlines()[-1]
