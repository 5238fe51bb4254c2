"""`serve` and `submit`: a daemon on the command line, and other commands beside it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command, durable_bus, write_items
from support import Facts, RunLog, until, workers_of


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Command]:
    """A daemon for `apps.plain`; it must end cleanly."""
    command = Command("serve", "apps.plain:bus", "--workers", 2, cwd=tmp_path)
    _until_ready(tmp_path)
    yield command
    command.process.terminate()
    assert command.ended().code == 0


def _until_ready(tmp_path: Path) -> None:
    def ready() -> bool:
        ran = durable_bus("status", "--json", cwd=tmp_path)
        if ran.code != 0:
            return False
        workers = json.loads(ran.out)["supervisor"].get("workers", [])
        return bool(workers) and all(worker["state"] == "ready" for worker in workers)

    until(ready, "a daemon with workers")


@pytest.mark.slow
def test_submit_prints_the_id_once_all_is_on_disk(tmp_path: Path, facts: Facts, daemon: Command) -> None:
    items = write_items(tmp_path, *range(100))
    ran = durable_bus("submit", "echo", "--items", items, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    buffer_id = ran.out.strip()
    assert facts.value("SELECT total FROM buffers WHERE buffer_id = ?", buffer_id) == 100
    assert durable_bus("wait", buffer_id, cwd=tmp_path).code == 0
    results = durable_bus("results", buffer_id, "--format", "csv", cwd=tmp_path)
    assert (results.code, results.out.count("\n")) == (0, 101)


@pytest.mark.slow
def test_submit_wait_says_how_it_ended(tmp_path: Path, daemon: Command) -> None:
    items = write_items(tmp_path, "0", "no number")
    ran = durable_bus("submit", "sleep", "--items", items, "--buffer-id", "b", "--wait", cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "b\n")
    assert ran.error == "b: 2 items, 1 failed"


@pytest.mark.slow
def test_submit_again_is_the_same_buffer_and_other_items_are_refused(
    tmp_path: Path, facts: Facts, daemon: Command
) -> None:
    items = write_items(tmp_path, "one")
    for _ in range(2):
        ran = durable_bus("submit", "echo", "--items", items, "--buffer-id", "b", cwd=tmp_path)
        assert (ran.code, ran.out) == (0, "b\n")
    assert facts.value("SELECT count(*) FROM buffers") == 1
    other = write_items(tmp_path, "two", name="other.txt")
    ran = durable_bus("submit", "echo", "--items", other, "--buffer-id", "b", cwd=tmp_path)
    assert ran.code == 2
    assert ran.error.startswith("buffer b: this id is used already, with other items")
    ran = durable_bus("submit", "nobody", "--items", other, cwd=tmp_path)
    assert ran.code == 2
    assert "unknown target 'nobody'" in ran.error


@pytest.mark.slow
def test_no_collect_is_journaled_and_sends_no_completion(
    tmp_path: Path, facts: Facts, daemon: Command
) -> None:
    items = write_items(tmp_path, "one")
    command = ("submit", "echo", "--items", items, "--buffer-id", "b", "--no-collect", "--wait")
    assert durable_bus(*command, cwd=tmp_path).code == 0
    assert facts.value("SELECT count(*) FROM results WHERE buffer_id = 'b'") == 1
    assert facts.value("SELECT count(*) FROM messages WHERE kind = 'BufferComplete'") == 0


@pytest.mark.slow
def test_status_shows_the_daemon_and_its_workers(tmp_path: Path, daemon: Command) -> None:
    text = durable_bus("status", cwd=tmp_path).out
    assert f"alive, process {daemon.pid}, run 1 of apps.plain:bus since" in text
    assert "listeners   describe, echo, gate, sleep" in text
    for pid in workers_of(daemon.pid):
        assert f"worker      {pid} ready, 0 in hand" in text


@pytest.mark.slow
def test_status_of_a_stopped_daemon_is_hung(tmp_path: Path, daemon: Command) -> None:
    daemon.process.send_signal(signal.SIGSTOP)
    told = until(
        lambda: (
            (t := json.loads(durable_bus("status", "--json", cwd=tmp_path).out)["supervisor"])["state"]
            == "hung"
            and t
        ),
        "it counts as hung",
    )
    assert told["pid"] == daemon.pid
    daemon.process.send_signal(signal.SIGCONT)
    assert "alive" in durable_bus("status", cwd=tmp_path).out


def test_submit_wait_survives_a_killed_daemon(tmp_path: Path, facts: Facts, run_log: RunLog) -> None:
    door = tmp_path / "door"
    first = Command("serve", "apps.plain:bus", "--workers", 2, cwd=tmp_path)
    _until_ready(tmp_path)
    items = write_items(tmp_path, door)
    waiting = Command("submit", "gate", "--items", items, "--buffer-id", "b", "--wait", cwd=tmp_path)
    run_log.until_started(0)
    first.process.kill()
    first.ended()
    door.touch()
    second = Command("serve", "apps.plain:bus", "--workers", 2, cwd=tmp_path)
    ran = waiting.ended()
    assert (ran.code, ran.out) == (0, "b\n")
    second.process.terminate()
    assert second.ended().code == 0
    facts.assert_whole("b", 1)


@pytest.mark.slow
def test_a_socket_elsewhere_is_found_by_the_journal(tmp_path: Path) -> None:
    (tmp_path / "sockets").mkdir()
    command = Command(
        "serve", "apps.plain:bus", "--workers", 1, "--socket", tmp_path / "sockets" / "bus.sock", cwd=tmp_path
    )
    _until_ready(tmp_path)
    assert (tmp_path / "sockets" / "bus.sock").is_socket()
    items = write_items(tmp_path, "one")
    assert durable_bus("submit", "echo", "--items", items, "--wait", "--quiet", cwd=tmp_path).code == 0
    command.process.terminate()
    assert command.ended().code == 0


@pytest.mark.slow
def test_a_daemon_whose_app_cannot_be_imported_stays_up_and_status_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 0\n1 / x\n")
    command = Command("serve", "broken:bus", "--workers", 1, cwd=tmp_path)
    says = (
        "cannot be imported: importing broken failed: ZeroDivisionError: division by zero (broken.py, line 2)"
    )
    until(lambda: says in durable_bus("status", cwd=tmp_path).out, "status says why")
    assert command.process.poll() is None
    command.process.terminate()
    ran = command.ended()
    assert ran.code == 0
    assert "1 / x" in ran.err  # the log has the traceback


@pytest.mark.slow
def test_logs_are_json_when_asked_for(tmp_path: Path) -> None:
    command = Command("serve", "apps.plain:bus", "--workers", 1, "--log-format", "json", cwd=tmp_path)
    _until_ready(tmp_path)
    command.ctrl_c()
    ran = command.ended()
    assert (ran.code, ran.out) == (0, "")
    events = [json.loads(line)["event"] for line in ran.err.splitlines()]
    assert events[0] == "run started"
    assert events[-1] == "stopped"
