"""A worker that is killed costs the items it was running, and nothing else."""

import os
import random
import signal
from pathlib import Path

import pytest
from apps import plain, unruly
from support import Facts, RunLog, is_alive, kill, outcome, program, until, until_gone, workers_of

from durable_bus.client.client import Client


def test_a_killed_worker_costs_only_its_own_item(journal: Path, facts: Facts, run_log: RunLog) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        buffer = client.start("gate", [str(door), *[""] * 60], buffer_id="b")
        run_log.until_started(0)
        kill(run_log.worker_of(0))
        until(lambda: run_log.times()[0] == 2, "item 0 runs again")
        door.touch()
        assert buffer.wait(60).successful == 61
    facts.assert_whole("b", 61)
    assert facts.failures("b") == [(0, 1, "lost", "worker killed by SIGKILL")]
    assert run_log.times() == {0: 2, **dict.fromkeys(range(1, 61), 1)}
    assert facts.value("SELECT attempt FROM results WHERE item_index = 0") == 2


@pytest.mark.slow
def test_what_a_killed_worker_had_answered_is_recorded_although_nobody_had_read_it(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    first, second = journal.parent / "first", journal.parent / "second"
    with plain.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        buffer = client.start("gate", [str(first), str(second)], buffer_id="b")
        run_log.until_started(0)
        facts.until("SELECT count(*) = 2 FROM in_flight")
        os.kill(client.supervisor_pid, signal.SIGSTOP)
        try:
            first.touch()
            run_log.until_started(1)  # so the answer to item 0 has left the worker
            os.kill(run_log.worker_of(1), signal.SIGKILL)
        finally:
            os.kill(client.supervisor_pid, signal.SIGCONT)
        second.touch()
        assert buffer.wait(60).successful == 2
    assert run_log.times() == {0: 1, 1: 2}
    assert facts.failures("b") == [(1, 1, "lost", "worker killed by SIGKILL")]


@pytest.mark.slow
def test_an_item_that_always_kills_its_worker_fails_as_lost_and_the_others_succeed(
    journal: Path, facts: Facts
) -> None:
    items = ["good"] * 300 + ["_exit"] + ["good"] * 300
    with unruly.bus.running(journal=journal, workers=2) as client:
        complete = client.start("misbehave", items, buffer_id="b").wait(60)
    assert (complete.total, complete.successful) == (601, 600)
    facts.assert_whole("b", 601, failed=1)
    assert facts.failures("b") == [
        (300, attempt, "lost", "worker exited with code 7") for attempt in (1, 2, 3)
    ]
    (row,) = facts.dicts("SELECT item_index, error, attempt, payload FROM results WHERE success = 0")
    assert (row["item_index"], row["error"], row["attempt"]) == (300, "lost: worker exited with code 7", 3)
    assert row["payload"].startswith("<SystemError><code>lost</code><message>worker exited with code 7<")


@pytest.mark.slow
def test_two_items_that_kill_their_workers_do_not_shield_each_other(journal: Path, facts: Facts) -> None:
    items = ["segfault", "good", "good", "abort", "good"]
    with unruly.bus.running(journal=journal, workers=2) as client:
        results = list(client.start("misbehave", items, buffer_id="b").as_completed(60))
    assert sorted((result.index, result.error) for result in results if not result.success) == [
        (0, "lost: worker killed by SIGSEGV"),
        (3, "lost: worker killed by SIGABRT"),
    ]
    assert sum(1 for _ in facts.failures("b")) == 6


@pytest.mark.slow
def test_an_idle_worker_that_is_killed_is_replaced_and_nobody_is_charged(journal: Path, facts: Facts) -> None:
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.supervisor_pid is not None
        before = until(lambda: two_workers(client), "two workers")
        for pid in before:
            kill(pid)
        until(lambda: set(two_workers(client)).isdisjoint(before) and two_workers(client), "two others")
        assert client.start("echo", ["a"], buffer_id="b").wait(60).successful == 1
    assert facts.failures("b") == []


def two_workers(client: Client) -> list[int]:
    assert client.supervisor_pid is not None
    workers = workers_of(client.supervisor_pid)
    return workers if len(workers) == 2 else []


@pytest.mark.slow
def test_a_dead_worker_is_seen_although_a_process_it_left_holds_its_pipe_open(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with unruly.bus.running(journal=journal, workers=1) as client:
        complete = client.start("misbehave", ["leave a process behind and die"], buffer_id="b").wait(60)
    left = [run.worker_pid for run in run_log.runs()]
    assert complete.successful == 0
    assert len(left) == 3
    for pid in left:
        assert is_alive(pid)
        kill(pid)
    assert facts.failures("b") == [(0, n, "lost", "worker exited with code 9") for n in (1, 2, 3)]


@pytest.mark.slow
def test_a_stopped_worker_holds_up_only_what_it_had_started(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with plain.bus.running(journal=journal, workers=2) as client:
        buffer = client.start("gate", [str(door), *[""] * 200], buffer_id="b")
        run_log.until_started(0)
        stopped = run_log.worker_of(0)
        os.kill(stopped, signal.SIGSTOP)
        door.touch()
        facts.until_recorded("b", 200)
        assert facts.value("SELECT count(*) FROM results WHERE item_index = 0") == 0
        os.kill(stopped, signal.SIGCONT)
        assert buffer.wait(60).successful == 201
    assert set(run_log.times().values()) == {1}
    assert facts.failures("b") == []


@pytest.mark.slow
def test_a_stopped_worker_whose_item_is_past_its_time_is_killed_and_its_item_is_late(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with unruly.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("tardy", ["late", "good"], buffer_id="b")
        run_log.until_started(0)
        pid = run_log.worker_of(0)
        os.kill(pid, signal.SIGSTOP)
        until_gone(pid)
        assert buffer.wait(60).successful == 1
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.5 s")]


@pytest.mark.slow
def test_workers_killed_again_and_again_lose_nothing_and_run_nothing_recorded_again(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    total, deaths = 1500, 8
    chance = random.Random(1)
    with plain.bus.running(journal=journal, workers=2) as client:
        assert client.supervisor_pid is not None
        buffer = client.start("sleep", ["0.001"] * total, buffer_id="b")
        killed: set[int] = {0}
        for death in range(deaths):
            facts.until_recorded("b", death * total // (deaths + 2))
            victim = until(lambda: a_worker_that_has_answered(facts, killed, chance), "one has answered")
            kill(victim)
            killed.add(victim)
        complete = buffer.wait(60)
    assert (complete.total, complete.successful) == (total, total)
    facts.assert_whole("b", total)
    # Whoever ran an item last is who answered it: after its result was recorded nobody ran it.
    for index, worker_pid in facts.rows("SELECT item_index, worker_pid FROM results"):
        assert run_log.worker_of(index) == worker_pid
    again = {index for index, times in run_log.times().items() if times > 1}
    given_to_the_dead = facts.rows(
        "SELECT first_index, first_index + item_count FROM dispatch WHERE ended_how = 'died'"
    )
    assert all(any(first <= index < end for first, end in given_to_the_dead) for index in again)


def a_worker_that_has_answered(facts: Facts, dead: set[int], chance: random.Random) -> int | None:
    answered = facts.rows("SELECT DISTINCT worker_pid FROM results WHERE buffer_id = 'b'")
    living = [pid for (pid,) in answered if pid not in dead]
    return chance.choice(living) if living else None


@pytest.mark.slow
def test_workers_that_die_at_boot_are_tried_again_until_one_lives(journal: Path, tmp_path: Path) -> None:
    """The first two die while they import the app. A third in a row would be taken for the app's fault: a
    client with a supervisor of its own is told so, a daemon tries on (test_daemon_imports.py).
    """
    app = tmp_path / "dying.py"
    app.write_text(
        "import os\n"
        "from durable_bus import Bus\n"
        "bus = Bus('dying')\n"
        "@bus.listener('echo')\n"
        "def echo(text: str) -> str:\n"
        "    return text\n"
        "if 'COUNT' in os.environ and os.path.basename(os.environ['COUNT']) == 'count':\n"
        "    import sys\n"
        "    if 'durable_bus.worker' in ' '.join(sys.orig_argv):\n"
        "        with open(os.environ['COUNT'], 'a') as file:\n"
        "            file.write('x')\n"
        "        if os.path.getsize(os.environ['COUNT']) <= 2:\n"
        "            os._exit(1)\n"
    )
    main = (
        "import dying\n"
        "with dying.bus.running(journal='journal.db', workers=1) as client:\n"
        "    print(client.start('echo', ['a']).wait(60).successful)\n"
    )
    process = program(tmp_path / "main.py", main, COUNT=str(tmp_path / "count"))
    assert outcome(process)[:2] == (0, "1\n")
    assert (tmp_path / "count").read_text() == "xxx"


@pytest.mark.real_start
@pytest.mark.slow
def test_dead_workers_leave_no_open_file_behind(journal: Path) -> None:
    with plain.bus.running(journal=journal, workers=1) as client:
        pid = client.supervisor_pid
        assert pid is not None

        def open_files_after_an_item() -> int:
            client.start("echo", ["x"]).wait(60)
            return len(os.listdir(f"/proc/{pid}/fd"))

        before = open_files_after_an_item()
        for _ in range(3):
            kill(workers_of(pid)[0])
            assert open_files_after_an_item() == before


@pytest.mark.slow
def test_a_worker_that_nobody_can_hear_any_more_is_replaced(journal: Path, facts: Facts) -> None:
    items = ["good"] * 20 + ["close"] + ["good"] * 20
    with unruly.bus.running(journal=journal, workers=1) as client:
        assert client.start("double-close", items, buffer_id="b").wait(60).successful == 40
    facts.assert_whole("b", 41, failed=1)
    # By us, or by itself, when it wanted to say something just then.
    assert [failure[:3] for failure in facts.failures("b")] == [(20, n, "lost") for n in (1, 2, 3)]
