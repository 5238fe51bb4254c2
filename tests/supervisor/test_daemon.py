"""A daemon is starved, blocked and left alone, and tells the truth about itself."""

import json
import os
import re
import signal
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import status
from services import Raw, Service, connected, stopped
from support import Facts, RunLog, kill, outcome, program, until, until_gone

from durable_bus.client import session as contact
from durable_bus.client.client import Client
from durable_bus.errors import JournalUnreachable
from durable_bus.journal.lock import lock_path

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


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=pytest.mark.slow)])
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


@pytest.mark.real_start
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


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_log_says_why(journal: Path) -> None:
    with Service(journal, workers=1) as service:
        service.until_ready()
        (worker,) = service.workers()
        kill(worker)
        until_gone(worker)
        service.until_logged('worker ended pid=\\d+ reason="worker killed by SIGKILL"')
        service.until_logged("worker ready", times=2)


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
