"""Async handlers: many at once in each worker, each with an end of its own."""

from pathlib import Path

import pytest
from apps import awaiting
from support import Facts, RunLog, kill, workers_of


def test_as_many_run_at_once_as_the_listener_allows_and_no_more(journal: Path) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("together", ["x"] * 100)
        buffer.wait(60)
        at_once = {int(result.payload) for result in buffer.results()}
    assert max(at_once) == 10


def test_a_late_coroutine_is_cancelled_and_its_worker_and_neighbours_live(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        buffer = client.start("late", ["good", "late", "good"], buffer_id="b")
        buffer.wait(60)
        results = list(buffer.results())
        assert workers_of(client.supervisor_pid) == before
    assert [result.success for result in results] == [True, False, True]
    assert results[0].payload == results[2].payload
    assert results[1].error == "timeout: no answer within 0.2 s"
    assert [(run.index, run.word) for run in run_log.runs()] == [(1, "cancelled")]
    assert facts.failures("b") == [(1, 1, "timeout", "no answer within 0.2 s")]


@pytest.mark.slow
def test_what_a_cancelled_coroutine_answers_all_the_same_is_too_late(journal: Path, facts: Facts) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        results = client.start("late", ["stubborn", "good"], buffer_id="b")
        assert results.wait(60).successful == 1
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]


@pytest.mark.slow
def test_a_coroutine_that_will_not_be_cancelled_is_left_to_itself(journal: Path, facts: Facts) -> None:
    door = journal.parent / "door"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        assert client.start("late", [str(door), "good"], buffer_id="b").wait(60).successful == 1
        door.touch()  # what it answers now comes for an item that has its outcome
        assert client.start("late", ["good"] * 20, buffer_id="c").wait(60).successful == 20
        assert workers_of(client.supervisor_pid) == before
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]
    facts.assert_whole("b", 2, failed=1)


@pytest.mark.slow
def test_exceptions_of_coroutines_are_failed_items_whatever_they_are(journal: Path, facts: Facts) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        items = [
            "good",
            "raise",
            "cancel",
            "exit",
            "interrupt",
            "half a surrogate pair",
            "exit when asked",
            "good",
        ]
        buffer = client.start("raising", items, buffer_id="b")
        buffer.wait(60)
        assert [result.success for result in buffer.results()] == [True, *[False] * 6, True]
        assert workers_of(client.supervisor_pid) == before
    messages = {index: message for index, _, _, message in facts.failures("b")}
    assert messages == {
        1: "ValueError: no",
        2: "CancelledError",
        3: "SystemExit: 3",
        4: "KeyboardInterrupt",
        5: r"ValueError: bad name \udcff",
        6: "DeadlyToAskError: (an exception that cannot say what it is)",
    }


@pytest.mark.slow
def test_a_death_among_coroutines_is_charged_to_the_one_that_died(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """Ten run at once when one kills them all. Its worker has said whose turn it was: nobody searches."""
    items = ["good"] * 30
    items[13] = "kill"
    with awaiting.bus.running(journal=journal, workers=2) as client:
        complete = client.start("killer", items, buffer_id="b").wait(60)
    assert complete.successful == 29
    assert facts.failures("b") == [(13, n, "lost", "worker exited with code 1") for n in (1, 2, 3)]
    assert run_log.times()[13] == 3


@pytest.mark.slow
def test_a_killed_worker_charges_none_of_several_coroutines_that_ran(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("gate", [str(door)] * 10, buffer_id="b")
        run_log.until_started(*range(10))
        kill(run_log.worker_of(0))
        door.touch()
        assert buffer.wait(60).successful == 10
    assert facts.failures("b") == []
    assert run_log.times() == dict.fromkeys(range(10), 2)


@pytest.mark.slow
def test_sync_and_async_listeners_of_one_app_work_side_by_side(journal: Path) -> None:
    with awaiting.bus.running(journal=journal, workers=2) as client:
        buffers = [client.start(target, ["x"] * 50) for target in ("sync", "together", "raising")]
        assert [buffer.wait(60).successful for buffer in buffers] == [50, 50, 50]


@pytest.mark.slow
def test_a_worker_whose_loop_turns_but_feeds_nobody_any_more_ends_and_is_replaced(
    journal: Path, facts: Facts
) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.start("sync", ["forget who listens"], buffer_id="b").wait(60).successful == 1
        assert client.start("sync", ["good"], buffer_id="c").wait(60).successful == 1
        assert client.start("together", ["good"], buffer_id="d").wait(60).successful == 1
    assert facts.rows("SELECT * FROM failures") == []


@pytest.mark.slow
def test_a_sync_handler_past_its_own_time_is_late_also_while_a_coroutine_waits(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """`gate` may take an hour, so by its time-out nobody is late; it stands on the loop that is blocked."""
    door = journal.parent / "door"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        waiting = client.start("gate", [str(door)], buffer_id="waits")
        run_log.until_started(0)
        assert client.start("sync-and-late", ["late"], buffer_id="b").wait(60).successful == 0
        door.touch()
        assert waiting.wait(60).successful == 1
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.5 s")]
    assert facts.failures("waits") == []


def test_what_coroutines_have_answered_does_not_wait_for_the_sync_handler_that_comes_next(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """Item 1 holds the loop until the sync one is in the pipe, so that nothing comes between the two."""
    door, over, sync_over = (journal.parent / name for name in ("door", "over", "sync_over"))
    delivered = "SELECT state = 'delivered' FROM messages WHERE to_id = 'sync-gate'"
    with awaiting.bus.running(journal=journal, workers=1, name="cli") as client:
        buffer = client.start("gate", [str(door), f"hold the loop until {over}"], buffer_id="b")
        run_log.until_started(0, 1)
        client.send("sync-gate", str(sync_over))
        facts.until(delivered)
        over.touch()
        facts.until_recorded("b", 1)
        assert facts.value(delivered), "the sync handler still runs"
        sync_over.touch()
        door.touch()
        assert client.receive(60).payload == "open"
        assert buffer.wait(60).successful == 2


def test_a_coroutine_that_stops_the_loop_costs_nobody_anything(journal: Path, facts: Facts) -> None:
    items = ["good"] * 30
    items[13] = "stop"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        assert client.start("harmful", items, buffer_id="b").wait(60).successful == 30
        assert client.start("together", ["good"], buffer_id="c").wait(60).successful == 1
        assert workers_of(client.supervisor_pid) == before
    assert facts.failures("b") == []


@pytest.mark.slow
def test_what_exits_beside_the_coroutines_ends_none_of_them(journal: Path, facts: Facts) -> None:
    """A callback or a task of a handler's own; to the loop, SystemExit from there is the end."""
    items = ["good"] * 30
    items[13], items[17] = "exit in a callback", "exit in a task"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        assert client.start("harmful", items, buffer_id="b").wait(60).successful == 30
        assert workers_of(client.supervisor_pid) == before
    assert facts.failures("b") == []


@pytest.mark.slow
def test_a_worker_still_hears_after_a_coroutine_has_cancelled_every_task(journal: Path, facts: Facts) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        assert client.start("harmful", ["cancel all"], buffer_id="b").wait(60).successful == 1
        assert client.start("harmful", ["good"], buffer_id="c").wait(60).successful == 1
        assert workers_of(client.supervisor_pid) == before
    assert facts.rows("SELECT * FROM failures") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["swallow", "swallow in a child", "swallow busily"])
def test_a_coroutine_that_swallows_every_cancellation_is_late_and_its_place_is_free_again(
    journal: Path, facts: Facts, how: str
) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.supervisor_pid is not None
        before = workers_of(client.supervisor_pid)
        assert client.start("one-at-a-time", [how, "good"], buffer_id="b").wait(60).successful == 1
        assert client.start("one-at-a-time", ["good"], buffer_id="c").wait(60).successful == 1
        assert workers_of(client.supervisor_pid) == before
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]
    assert facts.failures("c") == []


@pytest.mark.slow
def test_a_coroutine_that_blocks_when_it_is_cancelled_is_late_and_its_worker_replaced(
    journal: Path, facts: Facts
) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("one-at-a-time", ["block when cancelled", "good"], buffer_id="b")
        assert buffer.wait(60).successful == 1
        assert client.start("one-at-a-time", ["good"], buffer_id="c").wait(60).successful == 1
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]
    assert facts.failures("c") == []


@pytest.mark.slow
def test_a_loop_blocked_just_after_an_item_has_ended_is_seen_too(journal: Path, facts: Facts) -> None:
    """A worker that said it was idle, and then did not say when it began, would never be late."""
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.start("blocking", ["good"], buffer_id="a").wait(60).successful == 1
        assert client.start("blocking", ["block"], buffer_id="b").wait(60).successful == 0
        assert client.start("sync-and-late", ["good"], buffer_id="c").wait(60).successful == 1
        assert client.start("blocking", ["block"], buffer_id="d").wait(60).successful == 0
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]
    assert facts.failures("d") == [(0, 1, "timeout", "no answer within 0.2 s")]


@pytest.mark.slow
def test_who_blocks_the_loop_is_known_at_once_and_its_neighbours_wait_for_no_search(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    """Nobody searches by halves: the one that blocks is run once, its neighbours once more at most."""
    items = ["good"] * 20
    items[13] = "block"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.start("blocking", items, buffer_id="b").wait(60).successful == 19
    assert facts.failures("b") == [(13, 1, "timeout", "no answer within 0.2 s")]
    times = run_log.times()
    assert times.pop(13) == 1
    assert set(times.values()) <= {1, 2}


@pytest.mark.slow
def test_a_coroutine_left_to_itself_that_blocks_later_is_charged_to_nobody(
    journal: Path, facts: Facts, run_log: RunLog
) -> None:
    door = journal.parent / "door"
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.start("late", [f"block after {door}"], buffer_id="b").wait(60).successful == 0
        buffer = client.start("second-time", [str(door)], buffer_id="c")
        run_log.until_started(0)
        door.touch()
        assert buffer.wait(60).successful == 1
    assert facts.failures("b") == [(0, 1, "timeout", "no answer within 0.2 s")]
    assert facts.failures("c") == []


@pytest.mark.slow
def test_a_task_of_an_item_can_be_asked_what_libraries_ask_it(journal: Path) -> None:
    with awaiting.bus.running(journal=journal, workers=1) as client:
        buffer = client.start("harmful", ["look at yourself"], buffer_id="b")
        assert buffer.wait(60).successful == 1
        assert [result.payload for result in buffer.results()] == ["CORO_RUNNING 1"]


@pytest.mark.slow
def test_a_coroutine_cancelled_by_a_neighbour_before_it_began_has_an_outcome(journal: Path) -> None:
    items = ["cancel all at once"] + ["good"] * 20
    with awaiting.bus.running(journal=journal, workers=1) as client:
        assert client.start("harmful", items, buffer_id="b").wait(60).successful == 21
