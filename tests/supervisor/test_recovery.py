"""Starting again is recovery: killed at any moment, any number of times, nothing is lost and nothing is done
twice that was recorded.
"""

import random
import socket
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from apps import plain, unruly
from support import Facts, RunLog, kill, until

from durable_bus import __version__
from durable_bus.app.finding import app_spec
from durable_bus.client.embedded import spawn_supervisor
from durable_bus.wire.framing import encode
from durable_bus.wire.ids import new_id
from durable_bus.wire.protocol import Hello


@pytest.mark.slow
def test_killed_at_random_moments_every_item_has_one_result_and_only_what_was_in_flight_ran_again(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    kills, total = 12, 3_000
    chance = random.Random(kills)
    killed = 0
    while killed < kills:
        with plain.bus.running(journal=journal, workers=2) as client:
            assert client.supervisor_pid is not None
            client.start("sleep", ["0.001"] * total, buffer_id="b")
            moment = facts.recorded("b") + chance.randrange(2 * total // (kills + 4))
            until(lambda: is_over(facts, moment), f"{moment} results, or the end")  # noqa: B023
            kill(client.supervisor_pid)
            killed += 1
        if facts.value("SELECT state FROM buffers") == "complete":
            break
    assert killed >= kills // 2, "the buffer was complete too early to prove anything"
    with plain.bus.running(journal=journal, workers=2) as client:
        complete = client.start("sleep", ["0.001"] * total, buffer_id="b").wait(90)
    assert (complete.total, complete.successful) == (total, total)
    facts.assert_whole("b", total)
    assert_only_interrupted_items_ran_again(facts, run_log)
    assert facts.failures("b") == [] or all(kind == "lost" for _, _, kind, _ in facts.failures("b"))


def is_over(facts: Facts, moment: int) -> bool:
    return facts.recorded("b") >= moment or facts.value("SELECT state FROM buffers") == "complete"


def assert_only_interrupted_items_ran_again(facts: Facts, run_log: RunLog) -> None:
    """By what the handlers wrote down, against the rows of dispatches and results."""
    runs = run_log.runs()
    times = Counter((run.supervisor_pid, run.index) for run in runs)
    assert [key for key, count in times.items() if count > 1] == [], "run twice by one supervisor"

    supervisor_of = dict(facts.rows("SELECT run_id, pid FROM run"))
    assert len(set(supervisor_of.values())) == len(supervisor_of)
    interrupted: dict[int, set[int]] = {pid: set() for pid in supervisor_of.values()}
    for run_id, first, end in facts.rows(
        "SELECT c.run_id, d.first_index, d.first_index + d.item_count"
        " FROM dispatch d JOIN journal_commit c USING (commit_id) WHERE d.ended_how = 'crashed'"
    ):
        interrupted[supervisor_of[run_id]] |= set(range(first, end))

    recorded_in = {
        index: supervisor_of[run_id] for index, run_id in facts.rows("SELECT item_index, run_id FROM results")
    }
    last_run: dict[int, int] = {run.index: run.supervisor_pid for run in runs}
    assert last_run == recorded_in, "every item was recorded by the supervisor under which it ran last"
    for run in runs:
        if run.supervisor_pid != last_run[run.index]:
            assert run.index in interrupted[run.supervisor_pid], f"{run} ran again and was not in flight"


@pytest.mark.slow
def test_a_kill_during_recovery_is_recovered_from(journal: Path, facts: Facts, run_log: RunLog) -> None:
    """The supervisor dies right after its run's first commit, again and again."""
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("gate", [str(door)] * 20, buffer_id="b")
        run_log.until_each_started(1, workers=2)
        kill(client.supervisor_pid or 0)
    for run in range(2, 6):
        process, connection = started(journal)
        with closing(connection):
            facts.until("SELECT max(run_id) = ? FROM runs", run)
            kill(process.pid)
            process.wait()
    door.touch()
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.buffer("b").wait(60).successful == 20
    facts.assert_whole("b", 20)
    ends = [ended for (ended,) in facts.rows("SELECT ended FROM runs ORDER BY run_id")]
    assert ends == ["crashed"] * 5 + ["clean"]
    assert_only_interrupted_items_ran_again(facts, run_log)


def started(journal: Path) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A supervisor that was spoken to, and of which we wait for nothing."""
    process, connection = spawn_supervisor(app_spec(plain.bus), "plain", journal, 2)
    connection.sendall(encode(Hello(new_id(), version=__version__)))
    return process, connection


@pytest.mark.slow
def test_a_start_begins_where_work_is_left_and_looks_at_no_item_before(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """Two thirds of a big buffer are done: the first item handed out is the first that was in flight."""
    door = journal.parent / "door"
    total, done = 30_000, 20_000
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("gate", [*[""] * done, *[str(door)] * (total - done)], buffer_id="b")
        facts.until_recorded("b", done)
        kill(client.supervisor_pid or 0)
    door.touch()
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.buffer("b").wait(60).successful == total
    facts.assert_whole("b", total)
    first_of_second_run = facts.value(
        "SELECT min(d.first_index) FROM dispatch d JOIN journal_commit c USING (commit_id) WHERE c.run_id = 2"
    )
    assert first_of_second_run == done
    assert_only_interrupted_items_ran_again(facts, run_log)


@pytest.mark.slow
def test_a_journal_that_is_read_all_the_while_is_recovered_like_any_other(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """A reader holds an old snapshot, also across the crash and the next start."""
    with plain.bus.running(journal=journal, workers=2) as client:
        client.start("sleep", ["0.001"] * 400, buffer_id="b")
        facts.until_recorded("b", 50)
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            seen = reader.execute("SELECT count(*) FROM results").fetchone()
            facts.until_recorded("b", seen[0] + 50)
            kill(client.supervisor_pid or 0)
            with plain.bus.running(journal=journal, workers=2) as next_client:
                assert next_client.buffer("b").wait(60).successful == 400
            assert reader.execute("SELECT count(*) FROM results").fetchone() == seen
    facts.assert_whole("b", 400)
    assert_only_interrupted_items_ran_again(facts, run_log)


@pytest.mark.slow
def test_many_open_buffers_all_go_on(journal: Path, facts: Facts, run_log: RunLog) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        for number in range(30):
            client.start("gate", ["", str(door), ""], buffer_id=f"b{number}")
        run_log.until_started(1)
        kill(client.supervisor_pid or 0)
    door.touch()
    with plain.bus.running(journal=journal, workers=2) as client:
        for number in range(30):
            assert client.buffer(f"b{number}").wait(60).successful == 3
    for number in range(30):
        facts.assert_whole(f"b{number}", 3)


@pytest.mark.slow
def test_an_item_that_is_due_again_after_the_crash_is_run_then(journal: Path, facts: Facts) -> None:
    """What is known of attempts lies in rows: three in all, over as many supervisors."""
    with unruly.bus.running(journal=journal, workers=1) as client:
        client.start("slow-backoff", ["a"], buffer_id="b")
        facts.until("SELECT count(*) = 1 FROM failures")
        kill(client.supervisor_pid or 0)
    with unruly.bus.running(journal=journal, workers=1) as client:
        complete = client.buffer("b").wait(60)
    assert complete.successful == 1
    assert [(index, attempt) for index, attempt, _, _ in facts.failures("b")] == [(0, 1)]
    assert facts.value("SELECT attempt FROM results") == 2
    assert facts.value("SELECT attempts FROM items") == 2


@pytest.mark.slow
def test_a_journal_copied_while_nobody_serves_it_goes_on_elsewhere(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=1, grace=0) as client:
        client.start("gate", ["", "", str(door)], buffer_id="b")
        facts.until_recorded("b", 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in journal.parent.glob("journal.db*"):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    door.touch()
    with plain.bus.running(journal=elsewhere / "journal.db", workers=1) as client:
        assert client.buffer("b").wait(60).successful == 3
    Facts(elsewhere / "journal.db").assert_whole("b", 3)
