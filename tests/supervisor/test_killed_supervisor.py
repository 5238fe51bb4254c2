"""A supervisor that is killed loses nothing that was acknowledged; starting again is all it takes."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from apps import plain, unruly
from support import Facts, RunLog, is_alive, kill, until, until_gone, workers_of

from durable_bus.client.client import Client
from durable_bus.errors import SupervisorLost
from durable_bus.journal.journal import Journal


def kill_supervisor(client: Client) -> None:
    assert client.supervisor_pid is not None
    kill(client.supervisor_pid)


def test_a_killed_supervisor_is_told_and_the_next_one_goes_on(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    items = [*[""] * 100, *[str(door)] * 100]
    with plain.bus.running(journal=journal, workers=2) as client:
        buffer = client.start("gate", items, buffer_id="b")
        facts.until_recorded("b", 100)
        kill_supervisor(client)
        with pytest.raises(SupervisorLost) as lost:
            buffer.wait(60)
        assert lost.value.exit_code == 4
        with pytest.raises(SupervisorLost):
            client.start("gate", [""])
    assert facts.recorded("b") == 100
    recorded = {index for (index,) in facts.rows("SELECT item_index FROM results")}
    in_flight = indexes_in_flight(facts)
    door.touch()
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.buffer("b").wait(60).successful == 200
    facts.assert_whole("b", 200)
    assert facts.rows("SELECT ended FROM runs ORDER BY run_id") == [("crashed",), ("clean",)]
    assert facts.failures("b") == []
    # Which they are depends on where batches ended; the dispatches in the journal say it.
    times = run_log.times()
    assert {index for index in times if times[index] > 1} <= in_flight - recorded
    assert max(times.values()) <= 2


def indexes_in_flight(facts: Facts) -> set[int]:
    """The items of every batch that was handed out and has not ended."""
    batches = facts.rows("SELECT first_index, item_count FROM in_flight WHERE buffer_id = 'b'")
    return {index for first, count in batches for index in range(first, first + count)}


@pytest.mark.slow
def test_what_was_acknowledged_is_on_disk_even_if_nobody_saw_it_run(journal: Path, facts: Facts) -> None:
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("echo", (str(index) for index in range(30_000)), buffer_id="b")
        kill_supervisor(client)
    assert facts.value("SELECT count(*) FROM items WHERE buffer_id = 'b'") == 30_000
    with plain.bus.running(journal=journal, workers=2) as client:
        buffer = client.buffer("b")
        assert buffer.wait(60).successful == 30_000
        assert all(result.payload == str(result.index) for result in buffer.results())
    facts.assert_whole("b", 30_000)


@pytest.mark.slow
def test_a_start_that_was_not_acknowledged_is_invisible_and_its_id_is_free(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        with pytest.raises(SupervisorLost):
            client.start("echo", half_way(client, facts), buffer_id="b")
    assert facts.rows("SELECT state, completed, pending FROM buffers") == [("receiving", 0, 0)]
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.start("echo", ["other"], buffer_id="b").wait(60).total == 1
        assert facts.rows("SELECT payload FROM items") == [("other",)]
    facts.assert_whole("b", 1)
    assert run_log.times() == {0: 1}


def half_way(client: Client, facts: Facts) -> Iterator[str]:
    """Items, and the end of the supervisor when some of them are on disk."""
    yield from (str(index) for index in range(20_000))
    facts.until("SELECT received > 0 FROM buffer")
    kill_supervisor(client)
    yield from (str(index) for index in range(20_000))


@pytest.mark.slow
def test_what_a_crash_interrupted_stays_in_flight_until_the_next_start_settles_it(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        client.start("gate", [str(door)] * 10, buffer_id="b")
        run_log.until_started(0)
        (pid,) = workers_of(client.supervisor_pid or 0)
        kill_supervisor(client)
    until_gone(pid)
    interrupted = facts.dicts("SELECT * FROM in_flight ORDER BY first_index")
    assert [row["first_index"] for row in interrupted] == [0, 1]
    assert {(row["buffer_id"], row["item_count"], row["attempt"]) for row in interrupted} == {("b", 1, 1)}
    assert {(row["worker_pid"], row["run_id"]) for row in interrupted} == {(pid, 1)}
    with plain.bus.running(journal=journal, workers=1, grace=0) as client:
        assert facts.rows("SELECT run_id FROM in_flight WHERE run_id = 1") == []
        ended = facts.rows("SELECT ended_how FROM dispatch WHERE worker_pid = ?", pid)
        assert ended == [("crashed",), ("crashed",)]


@pytest.mark.slow
def test_what_was_complete_is_not_run_again_and_can_be_read_again(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        complete = client.start("echo", ["a", "b"], buffer_id="b").wait(60)
        document = complete.results
        kill_supervisor(client)
    with plain.bus.running(journal=journal, workers=1) as client:
        again = client.start("echo", ["a", "b"], buffer_id="b")
        assert again.existed
        assert again.wait(60).results == document
    assert run_log.times() == {0: 1, 1: 1}
    assert facts.value("SELECT count(*) FROM messages") == 1


@pytest.mark.slow
def test_an_item_that_takes_the_supervisor_down_each_time_fails_as_lost_in_the_end(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """First nobody is charged, then the item alone in its worker is, and five such deaths are enough."""
    door = journal.parent / "never"
    crashes = 0
    while facts.value("SELECT state FROM buffers") != "complete":
        assert crashes < 10
        with plain.bus.running(journal=journal, workers=1) as client:
            if crashes == 0:
                client.start("gate", [str(door), "", ""], buffer_id="b")
            until_started_or_given_up(client, facts, run_log)
            if facts.value("SELECT state FROM buffers") != "complete":
                kill_supervisor(client)
                crashes += 1
    assert crashes == 6
    facts.assert_whole("b", 3, failed=1)
    assert [(index, attempt, kind) for index, attempt, kind, _ in facts.failures("b")] == [
        (0, attempt, "lost") for attempt in (1, 2, 3, 4, 5)
    ]


def until_started_or_given_up(client: Client, facts: Facts, run_log: RunLog) -> None:
    """Item 0 runs in this run, or the buffer is complete without."""
    mine = (client.supervisor_pid, 0)
    until(
        lambda: (
            mine in [(run.supervisor_pid, run.index) for run in run_log.runs()]
            or facts.value("SELECT state FROM buffers") == "complete"
        ),
        "item 0 runs, or is given up",
    )


@pytest.mark.slow
def test_a_supervisor_that_was_stopped_for_long_does_not_take_its_workers_for_late(
    journal: Path, facts: Facts
) -> None:
    """The time-out is 0.5 s. What was answered in time lies in the pipes when the supervisor goes on."""
    with unruly.bus.running(journal=journal, workers=2) as client:
        pid = client.supervisor_pid
        assert pid is not None
        client.start("tardy", ["x"] * 50, buffer_id="before").wait(60)
        workers = workers_of(pid)
        buffer = client.start("tardy", ["x"] * 20_000, buffer_id="b")
        facts.until_recorded("b", 1)
        os.kill(pid, signal.SIGSTOP)
        stopped_at_s = time.monotonic()
        until(lambda: time.monotonic() - stopped_at_s > 1.5, "three times the time-out has passed")
        os.kill(pid, signal.SIGCONT)
        assert buffer.wait(60).successful == 20_000
        assert workers_of(pid) == workers
    assert facts.failures("b") == []


def test_the_log_is_emptied_as_soon_as_a_reader_lets_go_within_the_time_that_is_given(journal: Path) -> None:
    with closing(Journal.open(journal)) as opened:
        reader = sqlite3.connect(journal, check_same_thread=False, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM buffer").fetchall()
        with opened.commit(1):
            opened.start_run(1, "app", "0")
        log = Path(f"{journal}-wal")
        assert not opened.checkpoint()
        assert log.stat().st_size > 0
        threading.Timer(0.05, reader.close).start()
        assert opened.checkpoint(wait_ms=60_000)
        assert log.stat().st_size == 0


@pytest.mark.slow
def test_a_terminated_supervisor_finishes_what_runs_and_gives_back_the_rest(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        buffer = client.start("gate", [str(door)] * 10, buffer_id="b")
        run_log.until_started(0)
        os.kill(client.supervisor_pid, signal.SIGTERM)
        facts.until("SELECT count(*) = 1 FROM in_flight")
        door.touch()
        with pytest.raises(SupervisorLost):
            buffer.wait(60)
    assert facts.rows("SELECT item_index FROM results") == [(0,)]
    assert facts.rows("SELECT * FROM in_flight") == []
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert not Path(f"{journal}-wal").exists() or Path(f"{journal}-wal").stat().st_size == 0
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 10
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(10), 1)


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_charges_nobody(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=1) as client:
        pid = client.supervisor_pid
        assert pid is not None
        client.start("gate", [str(door)] * 3, buffer_id="b")
        run_log.until_started(0)
        os.kill(pid, signal.SIGTERM)
        facts.until("SELECT count(*) = 1 FROM in_flight")
        assert is_alive(pid)
        os.kill(pid, signal.SIGTERM)
        until_gone(pid)
    assert facts.value("SELECT ended FROM runs") == "clean"
    assert facts.rows("SELECT * FROM in_flight") == []
    door.touch()
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.buffer("b").wait(60).successful == 3
    assert facts.failures("b") == []
    assert facts.value("SELECT max(attempts) FROM items") == 1
