"""A daemon is stopped, signalled, starved, blocked and left alone, and tells the truth about itself."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus, write_items
from services import Raw, Service, connected, stopped
from support import Facts, RunLog, environment, is_alive, kill, outcome, program, until, until_gone

from durable_bus.client import session as contact
from durable_bus.client.client import Client
from durable_bus.errors import BusNotImportable, JournalUnreachable
from durable_bus.journal.lock import lock_path

GOOD_APP = """
from durable_bus import Bus

bus = Bus("changing")


@bus.listener("echo")
def echo(text: str) -> str:
    return text
"""


def command(*arguments: str) -> tuple[int, str, str]:
    """`durable-bus`, to its end: exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "durable_bus", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def status(journal: Path) -> dict[str, Any]:
    code, out, err = command("status", "--json", "--journal", str(journal))
    assert code == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


# Signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_runs_and_gives_back_the_rest(
    journal: Path, facts: Facts, run_log: RunLog, number: signal.Signals
) -> None:
    door = journal.parent / "door"
    with Service(journal) as service:
        with service.client() as client:
            client.start("gate", [str(door)] * 10, buffer_id="b")
            until(lambda: len(run_log.runs()) == 2, "each worker has begun with an item")
            begun = set(run_log.indexes())
            service.send(number)
            service.until_logged("stopping")
            door.touch()
            assert service.process.wait(60) == 0
        assert {index for (index,) in facts.rows("SELECT item_index FROM results")} == begun
        assert facts.rows("SELECT * FROM in_flight") == []
        assert facts.value("SELECT ended FROM runs") == "clean"
        assert set(run_log.indexes()) == begun
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("b").wait(60).successful == 10
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(10), 1)


@pytest.mark.slow
def test_a_second_stop_ends_at_once_and_charges_nobody(journal: Path, facts: Facts, run_log: RunLog) -> None:
    door = journal.parent / "door"
    with Service(journal, workers=1, grace_s=600) as service:
        with service.client() as client:
            client.start("gate", [str(door)] * 3, buffer_id="b")
            run_log.until_started(0)
            service.send(signal.SIGTERM)
            service.until_logged("stopping")
            service.send(signal.SIGTERM)
            assert service.process.wait(60) == 0
        assert facts.rows("SELECT * FROM in_flight") == []
        door.touch()
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("b").wait(60).successful == 3
    assert facts.failures("b") == []
    assert facts.value("SELECT max(attempts) FROM items") == 1


def test_a_stop_waits_no_longer_than_its_grace(journal: Path, facts: Facts, run_log: RunLog) -> None:
    with Service(journal, workers=1, grace_s=0.05) as service:
        with service.client() as client:
            client.start("gate", [str(journal.parent / "never")], buffer_id="b")
            run_log.until_started(0)
            assert service.stop() == 0
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert facts.failures("b") == []


@pytest.mark.slow
def test_what_is_acknowledged_while_the_daemon_drains_is_done_by_the_next(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with Service(journal, workers=1) as service:
        with service.client() as client:
            client.start("gate", [str(door)], buffer_id="first")
            run_log.until_started(0)
            service.send(signal.SIGTERM)
            service.until_logged("stopping")
            client.start("echo", ["late"], buffer_id="late")
            door.touch()
            assert service.process.wait(60) == 0
        assert facts.recorded("late") == 0
        service.process = service.spawn()
        with connected(journal) as client:
            assert client.buffer("late").wait(60).successful == 1


def test_nothing_is_left_of_a_daemon_that_ended(journal: Path) -> None:
    with Service(journal) as service:
        workers = until(lambda: len(service.workers()) == 2 and service.workers(), "it has workers")
        assert service.stop() == 0
        assert not any(is_alive(pid) for pid in workers)
        names = sorted(path.name for path in journal.parent.iterdir())
        assert names == ["daemon.log", "journal.db", "journal.db.lock"]


@pytest.mark.slow
def test_a_second_daemon_is_refused_and_the_first_serves_on(journal: Path) -> None:
    with Service(journal) as service:
        second = service.spawn()
        assert second.wait(60) == 5
        assert re.search(f"^journal .* is served by process {service.pid}$", service.log(), re.MULTILINE)
        with service.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


def serving(journal: Path, address: Path) -> Service:
    """A daemon of `journal`, beside others in one folder, that is told to listen at `address`."""
    journal.parent.mkdir(exist_ok=True)
    return Service(journal, workers=1, socket=str(address))


@pytest.mark.slow
def test_a_daemon_leaves_a_socket_to_the_daemon_of_another_journal_that_has_it(tmp_path: Path) -> None:
    address = tmp_path / "bus.sock"
    with serving(tmp_path / "a" / "a.db", address) as first:
        second = serving(tmp_path / "b" / "b.db", address)
        assert second.process.wait(60) == 5
        (line,) = [line for line in second.log().splitlines() if "another journal" in line]
        assert line == f"cannot listen at {address}: process {first.pid} does, and serves another journal"
        with first.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1
        first.kill()
        assert address.is_socket()
        second.process = second.spawn()  # a stale one is replaced
        with second, second.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
def test_what_is_meant_for_one_journal_never_comes_into_another(tmp_path: Path) -> None:
    """A socket was removed under its daemon, and another journal's daemon has made its own there."""
    address = tmp_path / "bus.sock"
    mine, other = tmp_path / "a" / "a.db", tmp_path / "b" / "b.db"
    with serving(mine, address) as first:
        first.until_ready()
        address.unlink()
        with serving(other, address) as second:
            second.until_ready()
            items = write_items(tmp_path, "a")
            ran = durable_bus("submit", "echo", "--items", items, "--journal", mine, cwd=tmp_path)
            assert (ran.code, ran.out) == (5, "")
            assert f"no daemon serves {mine} (the daemon at its socket serves another journal" in ran.error
            assert str(other) in ran.error
            told = status(mine)["supervisor"]
            assert (told["state"], told["pid"], told.get("workers", [])) == ("alive", first.pid, [])
            assert len(status(other)["supervisor"]["workers"]) == 1
            assert first.stop() == 0
            assert address.is_socket(), "it is the other daemon's"
            with second.client() as client:
                assert client.start("echo", ["a"]).wait(60).successful == 1
        assert Facts(other).value("SELECT count(*) FROM buffers") == 1
        assert Facts(mine).value("SELECT count(*) FROM buffers") == 0


# What it says


def test_every_event_is_one_line(journal: Path) -> None:
    """Also one whose facts hold line feeds, quotes and spaces."""
    (journal.parent / "broken.py").write_text("raise RuntimeError('one\\ntwo = \"three\"')\n")
    with Service(journal, "broken:bus", workers=1, cwd=journal.parent) as service:
        service.until_logged("cannot import")
        service.until_logged("worker ended")
    lines = service.log().splitlines()
    value = r'"(\\.|[^"])*"|[^ "=]+'
    for line in lines:
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT[\d:]{{8}}\.\d{{3}}Z [a-z ]+( [a-z_]+=({value}))*", line), (
            line
        )
    (error,) = {line.partition("error=")[2] for line in lines if "cannot import" in line}
    said, _ = json.JSONDecoder().raw_decode(error)
    assert said.startswith('importing broken failed: RuntimeError: one two = "three"')


@pytest.mark.slow
def test_the_log_as_json_is_one_object_a_line(journal: Path) -> None:
    with Service(journal, log_format="json") as service, service.client() as client:
        client.start("echo", ["a", "b"], buffer_id="b").wait(60)
        service.until_logged("buffer ended")
    lines = [json.loads(line) for line in service.log().splitlines()]
    assert all({"at", "event"} <= line.keys() for line in lines)
    events = {line["event"]: line for line in lines}
    assert events["buffer opened"]["items"] == 2
    assert events["buffer ended"]["recorded"] == 2
    assert {"run started", "worker ready", "stopping", "stopped"} <= events.keys()


@pytest.mark.slow
def test_a_blocked_stderr_stops_nothing_and_lost_lines_are_counted(journal: Path, facts: Facts) -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_fd, b"x" * 4096)
    os.set_blocking(write_fd, True)
    with os.fdopen(read_fd, "rb") as reader, os.fdopen(write_fd, "wb") as writer:
        with Service(journal, stderr=writer) as service, service.client() as client:
            for number in range(700):
                client.start("echo", ["a"], buffer_id=f"b{number}")
            client.buffer("b699").wait(60)
            os.set_blocking(reader.fileno(), False)
            seen = b""

            def lost() -> "re.Match[bytes] | None":
                nonlocal seen
                seen += reader.read() or b""
                client.start("echo", ["a"]).wait(60)
                return re.search(rb"dropped_lines=(\d+)", seen)

            assert int(until(lost, "it says how many lines were lost").group(1)) > 0
    assert facts.value("SELECT count(*) FROM buffers WHERE state <> 'complete'") == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told_when_the_daemon_serves(
    journal: Path, facts: Facts, tmp_path: Path, abstract: bool
) -> None:
    address = f"@durable_bus-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(60)
        with Service(journal, variables={"NOTIFY_SOCKET": address}) as service:
            assert manager.recv(100) == b"READY=1"
            assert facts.value("SELECT pid FROM runs") == service.pid


# Its workers


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_is_told_and_the_daemon_stays_up(journal: Path, facts: Facts) -> None:
    app = journal.parent / "changing.py"
    app.write_text("raise RuntimeError('not today')\n")
    with Service(journal, "changing:bus", cwd=journal.parent) as service:
        service.until_logged("cannot import", times=4)
        with service.client() as client:
            with pytest.raises(BusNotImportable, match="not today"):
                client.start("echo", ["a"])
            told = client.supervisor_status(60)
        assert "not today" in told["import_error"]
        code, out, _ = command("status", "--journal", str(journal))
        assert code == 0
        assert "cannot be imported: importing changing failed: RuntimeError: not today" in out
        assert is_alive(service.pid)
        app.write_text(GOOD_APP)
        service.send(signal.SIGHUP)
        service.until_ready()
        assert "cannot be imported" not in command("status", "--journal", str(journal))[1]
        with service.client() as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
def test_workers_that_die_in_boot_are_tried_again_less_and_less_often(journal: Path) -> None:
    (journal.parent / "dying.py").write_text("import os\n\nos._exit(7)\n")
    with Service(journal, "dying:bus", workers=1, cwd=journal.parent) as service:
        service.until_logged("worker ended", times=5)
    at = [
        int(minute) * 60 + float(second)
        for minute, second in re.findall(r":(\d\d):([\d.]+)Z worker ended", service.log())
    ]
    waits = [(later - earlier) % 3600 for earlier, later in itertools.pairwise(at)]
    assert waits[2] >= 0.5
    assert waits[3] >= 1.0
    assert 'reason="worker exited with code 7"' in service.log()


DEATHS_IN_IMPORT = [
    ("import ctypes\n\nctypes.string_at(0)\n", "killed by SIGSEGV"),
    ("import os\n\nos._exit(3)\n", "exited with code 3"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "how"), DEATHS_IN_IMPORT)
def test_an_app_that_ends_its_workers_while_it_is_imported_is_told(
    journal: Path, code: str, how: str
) -> None:
    """No worker says why: how they ended is what is known. The daemon tries on, until one lives."""
    app = journal.parent / "dying.py"
    app.write_text(code)
    with Service(journal, "dying:bus", cwd=journal.parent) as service:
        with service.client() as client:
            with pytest.raises(BusNotImportable, match=f"a worker died while it imported the app: {how}"):
                client.start("echo", ["a"])
            assert how in client.supervisor_status(60)["import_error"]
        assert how in status(journal)["run"]["worker_error"]
        assert is_alive(service.pid)
        service.until_logged("worker ended", times=4)
        app.write_text(GOOD_APP)
        service.until_ready()
        assert status(journal)["run"]["worker_error"] is None
        with service.client() as client:
            assert client.supervisor_status(60)["import_error"] is None
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
@pytest.mark.parametrize(("code", "how"), DEATHS_IN_IMPORT)
def test_a_run_of_an_app_that_ends_its_workers_ends_in_one_line(tmp_path: Path, code: str, how: str) -> None:
    (tmp_path / "dying.py").write_text(code)
    items = write_items(tmp_path, "a")
    ran = durable_bus("run", "dying:bus", "echo", "--items", items, "--workers", 1, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.endswith(f"a worker died while it imported the app: {how}")


@pytest.mark.slow
def test_an_import_that_hangs_is_told_as_one_that_fails(journal: Path) -> None:
    (journal.parent / "hanging.py").write_text("import time\n\ntime.sleep(3600)\n")
    with Service(journal, "hanging:bus", cwd=journal.parent, boot_timeout_s=0.5) as service:
        with service.client() as client:
            with pytest.raises(BusNotImportable, match=r"a worker had not imported the app after 0\.5 s"):
                client.start("echo", ["a"])
        assert "had not imported" in status(journal)["run"]["worker_error"]
        assert is_alive(service.pid)


@pytest.mark.slow
def test_buffers_can_be_cancelled_and_paused_while_the_app_cannot_be_imported(
    journal: Path, facts: Facts
) -> None:
    app = journal.parent / "changing.py"
    app.write_text(GOOD_APP)
    with Service(journal, "changing:bus", cwd=journal.parent) as service:
        with service.client() as client:
            client.pause(client.start("echo", ["a"] * 100_000, buffer_id="b").buffer_id)
        app.write_text("broken\n")
        service.restart()
        service.until_logged("cannot import")
        with connected(journal) as client:
            assert client.pause("b") == "open"
            assert client.cancel("b") == "cancelled"
    assert facts.value("SELECT state FROM buffers") == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 7, 100])
def test_no_worker_is_given_more_items_than_it_may_run(
    journal: Path, facts: Facts, run_log: RunLog, most: int
) -> None:
    total = most * 4
    with Service(journal, items_per_worker_max=most) as service, service.client() as client:
        assert client.start("echo", ["a"] * total, buffer_id="b").wait(60).successful == total
    runs = Counter(run.worker_pid for run in run_log.runs())
    assert len(runs) >= 4
    assert max(runs.values()) <= most
    assert run_log.times() == dict.fromkeys(range(total), 1)
    assert facts.failures("b") == []


# Months


MEMORY_CLIENT = """
import sys
import tracemalloc
from durable_bus.client.client import Client

tracemalloc.start()
with Client(sys.argv[1]) as client:
    for number in range(int(sys.argv[2])):
        buffer = client.start("echo", ["a"])
        if number % 2:
            buffer.wait(60)
    buffer.wait(60)
    print(tracemalloc.get_traced_memory()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_buffers_ever_served(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    """By what Python has allocated: SQLite's cache, which has a limit of its own, is not counted."""
    more = 600
    told = tmp_path / "memory"
    with Service(journal, trace_memory_to=str(told), verbose=False, housekeeping_s=0.1) as service:

        def serve(count: int) -> int:
            code, out, err = outcome(program(tmp_path / "client.py", MEMORY_CLIENT, str(journal), str(count)))
            assert code == 0, err
            facts.until("SELECT count(*) = 0 FROM buffers WHERE state <> 'complete'")
            with Raw(journal) as raw:
                raw.status()
            return int(out)

        def memory() -> int:
            told.unlink(missing_ok=True)
            service.send(signal.SIGUSR1)
            return int(until(lambda: told.exists() and told.read_text(), "it says what it holds"))

        small_client = serve(300)
        before = memory()
        files = service.open_files()
        large_client = serve(300 + more)
        assert memory() - before < 50 * more
        assert large_client - small_client < 50 * more
        until(lambda: service.open_files() <= files, "it has no more files open than before")


# The truth


@pytest.mark.slow
def test_status_tells_of_a_supervisor_that_lives_is_stopped_is_killed_and_has_ended(journal: Path) -> None:
    with Service(journal, workers=1) as service:
        service.until_ready()
        told = status(journal)
        assert (told["supervisor"]["state"], told["supervisor"]["pid"]) == ("alive", service.pid)
        assert told["run"]["ended"] == "running"
        assert [worker["state"] for worker in told["supervisor"]["workers"]] == ["ready"]
        stopped(service.pid)
        told = status(journal)
        assert (told["supervisor"]["state"], told["supervisor"]["pid"]) == ("hung", service.pid)
        service.send(signal.SIGCONT)
        service.until_ready()
        assert status(journal)["supervisor"]["state"] == "alive"
        service.kill()
        told = status(journal)
        assert told["supervisor"]["state"] == "dead"
        assert told["run"]["stopped_at"] is None
        service.process = service.spawn()
        service.until_serving()
        assert (status(journal)["supervisor"]["state"], status(journal)["run"]["run_id"]) == ("alive", 2)
        assert service.stop() == 0
        told = status(journal)
        assert (told["supervisor"]["state"], told["run"]["ended"]) == ("dead", "clean")


@pytest.mark.slow
def test_a_client_of_a_stopped_daemon_is_told_so_and_who_it_is(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "GREETING_S", 0.2)
    with Service(journal) as service:
        stopped(service.pid)
        with pytest.raises(JournalUnreachable, match=f"process {service.pid}.*stopped"):
            Client(journal)
        service.send(signal.SIGCONT)
        with connected(journal) as client:
            assert client.start("echo", ["a"]).wait(60).successful == 1


@pytest.mark.slow
def test_without_a_daemon_a_client_is_told_how_to_start_one(journal: Path) -> None:
    for _ in range(2):
        with pytest.raises(JournalUnreachable, match=f"durable-bus serve APP --journal {journal}") as refused:
            Client(journal)
        assert refused.value.exit_code == 5
        with Service(journal) as service:
            kill(service.pid)
        assert lock_path(journal).exists()


def test_a_worker_that_is_killed_is_replaced_and_the_log_says_why(journal: Path) -> None:
    with Service(journal, workers=1) as service:
        service.until_ready()
        (worker,) = service.workers()
        kill(worker)
        until_gone(worker)
        service.until_logged('worker ended pid=\\d+ reason="worker killed by SIGKILL"')
        service.until_logged("worker ready", times=2)
