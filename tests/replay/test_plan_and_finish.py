"""Replay says what the next start would hand out, and does it."""

import shutil
from pathlib import Path

import pytest
from command_line import durable_bus
from eventful import HALTED, in_flight, supervised, texts
from replays import as_json, fingerprints
from services import Raw, Service
from streams import Producer, greeted
from support import TESTS, Facts, kill

from durable_bus.replay.plan import plan

# plan


def planned(journal: Path) -> set[tuple[str, int]]:
    return {
        (buffer["buffer_id"], index)
        for buffer in plan(journal).buffers
        for first, count in buffer["ranges"]
        for index in range(first, first + count)
    }


def dispatched(facts: Facts, run_id: int) -> set[tuple[str, int]]:
    return {
        (buffer_id, index)
        for buffer_id, first, count in facts.rows(
            "SELECT buffer_id, first_index, item_count FROM dispatches WHERE run_id = ?", run_id
        )
        for index in range(first, first + count)
    }


def interrupt(journal: Path, facts: Facts) -> Path:
    """A crash with much in it: what was in hand, never out, half done, passed on, and paused. The gate that
    lets it go on.

    What waits at the gate keeps its worker: all that is to be done before the crash is waited for before the
    next such item is started.
    """
    gate = journal.parent / "gate"
    with supervised(journal) as client:
        client.start("work", texts("fine", "flaky", "bad"), buffer_id="done").wait(60)
        client.start("planner", texts("a", "b"), buffer_id="outer")
        facts.until(
            "SELECT count(*) = 2 FROM items WHERE buffer_id = 'outer' AND state IN ('forwarded', 'succeeded')"
        )
        client.start("work", texts(*["fine"] * 5, *[f"gate {gate}"] * 400), buffer_id="held")
        facts.until_recorded("held", 5)
        client.start("work", texts(*["fine"] * 300), buffer_id="waiting")
        client.start("work", texts(*[f"gate {gate}"] * HALTED), buffer_id="halted")
        client.pause("halted")
        facts.until("SELECT count(*) >= 2 FROM in_flight")
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    return gate


def test_plan_is_exactly_what_the_next_start_hands_out(journal: Path, facts: Facts) -> None:
    gate = interrupt(journal, facts)
    expected = planned(journal)
    assert {("held", index) for index in range(5, 405)} <= expected
    assert {buffer_id for buffer_id, _ in expected} <= {"held", "waiting", "outer", "inner-0", "inner-1"}
    answered = set(facts.rows("SELECT buffer_id, item_index FROM results"))
    assert in_flight(facts) - answered - {("halted", index) for index in range(HALTED)} <= expected
    gate.touch()
    with supervised(journal) as client:
        for buffer_id in ("held", "waiting", "outer"):
            client.buffer(buffer_id).wait(60)
    known = {buffer_id for (buffer_id,) in facts.rows("SELECT buffer_id FROM buffers WHERE state <> 'open'")}
    assert {one for one in dispatched(facts, 2) if one[0] in known} == expected
    assert planned(journal) == set()
    assert plan(journal).paused == ["halted"]


@pytest.mark.slow
def test_plan_writes_nothing_and_is_the_same_of_a_copy(journal: Path, facts: Facts, tmp_path: Path) -> None:
    interrupt(journal, facts)
    before = fingerprints(journal)
    shown = as_json("plan", "--journal", journal, cwd=tmp_path)
    assert fingerprints(journal) == before
    copy = tmp_path / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{journal}{suffix}", f"{copy}{suffix}")
    assert as_json("plan", "--journal", copy, cwd=tmp_path) == shown
    assert set(shown) == {"buffers"}
    for buffer in shown["buffers"]:
        assert set(buffer) == {"buffer_id", "outstanding", "ranges"}
        assert buffer["outstanding"] == sum(count for _, count in buffer["ranges"])


@pytest.mark.slow
@pytest.mark.parametrize("kept", [("", "-wal", "-shm"), ("", "-wal")])
def test_a_journal_without_write_permission_is_read(
    journal: Path, facts: Facts, kept: tuple[str, ...]
) -> None:
    interrupt(journal, facts)
    folder = journal.parent / "locked"
    folder.mkdir()
    for suffix in kept:
        shutil.copy(f"{journal}{suffix}", folder / f"journal.db{suffix}")
        (folder / f"journal.db{suffix}").chmod(0o444)
    folder.chmod(0o555)
    expected = as_json("plan", "--journal", journal, cwd=journal.parent)
    locked = folder / "journal.db"
    try:
        assert as_json("plan", "--journal", locked, cwd=journal.parent, almighty=False) == expected
        shown = as_json("show", "--journal", locked, cwd=journal.parent, almighty=False)
        assert [run["ended"] for run in shown["runs"]] == ["crashed"]
        assert as_json("at", "1", "--journal", locked, cwd=journal.parent, almighty=False)["commit"] == 1
    finally:
        folder.chmod(0o755)


# finish


def test_finish_completes_what_a_crash_left_and_names_what_it_leaves(journal: Path, facts: Facts) -> None:
    gate = interrupt(journal, facts)
    gate.touch()
    ran = durable_bus("replay", "finish", "apps.eventful:bus", "--journal", journal, cwd=TESTS)
    assert ran.code == 4
    assert f"left: halted: {HALTED} items, it is paused" in ran.err
    assert "held: complete, 405 of 405" in ran.out
    states = dict(facts.rows("SELECT buffer_id, state FROM buffers"))
    assert states.pop("halted") == "open"
    assert set(states.values()) == {"complete"}
    assert facts.rows("SELECT ended FROM runs ORDER BY run_id") == [("crashed",), ("clean",)]


@pytest.mark.slow
def test_finish_without_anything_to_do_starts_nothing(journal: Path, facts: Facts) -> None:
    with supervised(journal) as client:
        client.start("work", texts("fine"), buffer_id="done").wait(60)
        client.acknowledge(client.receive(60))
    ran = durable_bus("replay", "finish", "apps.eventful:bus", "--journal", journal, cwd=TESTS)
    assert (ran.code, ran.out) == (0, "")
    assert facts.value("SELECT count(*) FROM runs") == 1


@pytest.mark.slow
def test_finish_of_what_has_failed_items_ends_with_1(journal: Path, facts: Facts) -> None:
    gate = journal.parent / "gate"
    with supervised(journal) as client:
        client.start("work", texts("bad", f"gate {gate}"), buffer_id="held")
        facts.until_recorded("held", 1)
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    gate.touch()
    ran = durable_bus("replay", "finish", "apps.eventful:bus", "--journal", journal, cwd=TESTS)
    assert ran.code == 1
    assert "held: complete, 2 of 2, 1 failed" in ran.out


@pytest.mark.slow
def test_finish_completes_what_has_come_of_a_stream_and_leaves_it_open(journal: Path, facts: Facts) -> None:
    gate = journal.parent / "gate"
    with Service(journal, "apps.eventful:bus") as service, Raw(journal) as raw:
        producer = Producer(greeted(raw), "b", target="work")
        producer.start()
        producer.put("fine", f"gate {gate}", f"gate {gate}")
        facts.until_recorded("b", 1)
        service.kill()
    assert planned(journal) == {("b", 1), ("b", 2)}
    gate.touch()
    finished = as_json("finish", "apps.eventful:bus", "--journal", journal, cwd=TESTS, code=4)
    assert finished["left"] == ["b: all that has come is done, but nobody has sealed this stream"]
    assert [(row["state"], row["completed"]) for row in finished["buffers"]] == [("open", 3)]


@pytest.mark.slow
def test_finish_says_it_for_programs_too(journal: Path, facts: Facts) -> None:
    gate, never = journal.parent / "gate", journal.parent / "never"
    with supervised(journal) as client:
        client.start("work", texts(f"gate {gate}"), buffer_id="held")
        facts.until("SELECT count(*) FROM in_flight")
        client.start("work", texts(*[f"gate {never}"] * HALTED), buffer_id="halted")
        client.pause("halted")
        assert client.supervisor_pid is not None
        kill(client.supervisor_pid)
    gate.touch()
    command = ("finish", "apps.eventful:bus", "--journal", journal)
    finished = as_json(*command, cwd=TESTS, code=4)
    buffers = {row.pop("buffer_id"): row for row in finished["buffers"]}
    assert buffers == {
        "halted": {"state": "open", "total": HALTED, "completed": 0, "successful": 0, "failed": 0},
        "held": {"state": "complete", "total": 1, "completed": 1, "successful": 1, "failed": 0},
    }
    assert finished["left"] == [f"halted: {HALTED} items, it is paused"]
    again = as_json(*command, cwd=TESTS, code=4)
    assert [row["buffer_id"] for row in again["buffers"]] == ["halted"]
