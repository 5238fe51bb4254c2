"""`metrics` prints one page for a monitoring system, and `status --check` is for health checks."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import durable_bus
from metrics_pages import Page, read
from services import Service
from support import until, workers_of

from durable_bus.journal.connection import open_writer
from durable_bus.journal.schema import migrate


@pytest.fixture
def service(journal: Path, tmp_path: Path) -> Iterator[Service]:
    with Service(journal, workers=1) as service:
        service.until_ready()
        yield service
        (tmp_path / "open").touch()  # what a worker waits for


def page(journal: Path) -> Page:
    ran = durable_bus("metrics", "--journal", journal, cwd=journal.parent)
    assert (ran.code, ran.err) == (0, "")
    return read(ran.out)


def checked(journal: Path) -> int:
    ran = durable_bus("status", "--check", "--journal", journal, cwd=journal.parent)
    said = [line.split(" ")[0] for line in ran.out.splitlines()]
    assert (said[:2], "open" in said, ran.err) == (["journal", "supervisor"], True, "")
    return ran.code


def test_a_daemon_that_works_dies_and_comes_back(service: Service, journal: Path, tmp_path: Path) -> None:
    assert checked(journal) == 0
    with service.client() as client:
        client.start("echo", ["a", "b", "c"]).wait(60)
        client.start("gate", [str(tmp_path / "open")] * 3, buffer_id="held")
        service.facts.until("SELECT count(*) FROM in_flight")
    found = page(journal)
    assert found["durable_bus_items_total", "echo", "succeeded"] == 3
    assert found["durable_bus_attempts_total", "echo", "succeeded"] == 3
    assert sum(found["durable_bus_items", "gate", state] for state in ("in_flight", "waiting")) == 3
    assert found["durable_bus_workers", "ready"] == 1
    assert found["durable_bus_buffers", "open"] == 1
    assert found["durable_bus_commit_duration_seconds_count",] > 2
    assert found["durable_bus_commit_duration_seconds_sum",] > 0
    assert found["durable_bus_worker_exits_total", "killed"] == 0

    (worker,) = workers_of(service.pid)
    os.kill(worker, signal.SIGKILL)
    until(lambda: page(journal)["durable_bus_worker_exits_total", "killed"] == 1, "the worker's end is told")

    assert checked(journal) == 0
    service.kill()
    assert checked(journal) == 4
    found = page(journal)
    assert found["durable_bus_workers", "ready"] == 0
    assert found["durable_bus_items_total", "echo", "succeeded"] == 3
    assert not [labels for labels in found if "exits" in labels[0] or "commit" in labels[0]]


@pytest.mark.slow
def test_a_stopped_daemon_does_not_count_as_living(service: Service, journal: Path, tmp_path: Path) -> None:
    with service.client() as client:
        client.start("gate", [str(tmp_path / "open")])
    service.send(signal.SIGSTOP)
    try:
        assert checked(journal) == 4
        assert not [labels for labels in page(journal) if labels[0] == "durable_bus_workers"]
    finally:
        service.send(signal.SIGCONT)
    until(lambda: checked(journal) == 0, "it lives again")


def test_nothing_open_is_as_it_should_be_without_a_daemon(journal: Path) -> None:
    connection = open_writer(journal)
    migrate(connection)
    connection.close()
    assert checked(journal) == 0
    assert page(journal)["durable_bus_buffers", "open"] == 0


@pytest.mark.parametrize("command", [["metrics"], ["status", "--check"]], ids=" ".join)
def test_no_journal_is_not_found_and_nothing_is_printed(command: list[str], tmp_path: Path) -> None:
    ran = durable_bus(*command, cwd=tmp_path)
    assert (ran.code, ran.out) == (3, "")
    assert ran.error == "no journal at journal.db"


def test_a_check_of_one_buffer_is_refused(journal: Path) -> None:
    connection = open_writer(journal)
    migrate(connection)
    connection.close()
    ran = durable_bus("status", "b", "--check", cwd=journal.parent)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == "--check is about the whole journal: leave BUFFER out"
