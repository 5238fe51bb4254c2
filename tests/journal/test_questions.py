"""The documented questions, asked of a journal in which much happened, are answered with what happened."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import unruly
from eventful import CRASHES, HALTED, HELD, Story, supervised, texts
from services import Raw, Service
from streams import Producer, greeted
from support import REPOSITORY, Facts

from durable_bus import Client, Xml
from durable_bus.journal.admin.query import ask, question, questions
from durable_bus.journal.connection import open_reader, open_writer

REFERENCE = REPOSITORY / "migrations" / "README.md"
BIG_TABLES = {"item", "result", "answer", "dispatch", "failure", "journal_commit"}
PARAMETERS = {"buffer": None, "item": 5, "thread": "t"}


def answers(story: Story, name: str, **parameters: Any) -> list[dict[str, Any]]:
    sql, given = question(name, parameters)
    return list(ask(story.journal, sql, given, time_limit_s=60))


def pairs(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_there_are_twenty_five() -> None:
    assert len(questions()) == 25


# Each answer, against what the story's author knows


@pytest.mark.slow
def test_what_is_stuck_is_named_with_the_reason(story: Story) -> None:
    rows = answers(story, "stuck")
    assert pairs(rows, "buffer_id", "target", "why") == [("halted", "work", "paused")]
    assert 0 < rows[0]["pending"] < HALTED


def test_an_item_that_waits_for_its_backoff_is_stuck_because_of_it(journal: Path, facts: Facts) -> None:
    with unruly.bus.running(journal=journal, workers=1) as client:
        client.start("much-later", ["not now"], buffer_id="b")
        facts.until("SELECT count(*) FROM failures")
        (row,) = answers(Story(journal), "stuck")
        assert row["why"] == (
            "item 0 waits for its next attempt after 1 failed, the last with exception: ValueError: not now"
        )


@pytest.mark.slow
def test_streams_that_nobody_has_sealed_are_named_and_stuck_when_all_is_done(
    journal: Path, facts: Facts
) -> None:
    gate = journal.parent / "gate"
    with Service(journal), Raw(journal) as raw:
        greeted(raw)
        older, newer, sealed = (
            Producer(raw, name, request=name, target="gate") for name in ("older", "newer", "sealed")
        )
        for producer, items in ((older, ["", ""]), (newer, ["", str(gate)]), (sealed, [""])):
            producer.start()
            producer.put(*items)
        sealed.seal()
        facts.until("SELECT sum(completed) = 4 FROM buffers")
        rows = answers(Story(journal), "unsealed")
        shown = pairs(rows, "buffer_id", "arrived", "completed", "pending")
        assert shown == [("older", 2, 2, 0), ("newer", 2, 1, 1)]
        assert [row["since"] for row in rows] == [
            at for (at,) in facts.rows("SELECT created_at FROM buffers WHERE state = 'open' ORDER BY 1")
        ]
        stuck = dict(pairs(answers(Story(journal), "stuck"), "buffer_id", "why"))
        assert stuck["older"] == "all that has come is done, and nobody has sealed it"
        assert stuck["newer"].startswith("worker ")
        gate.touch()
        for producer in (older, newer):
            producer.seal()
        facts.until("SELECT count(*) = 3 FROM buffers WHERE state = 'complete'")
    assert answers(Story(journal), "unsealed") == []


def test_progress_counts_what_is_recorded(story: Story) -> None:
    (row,) = answers(story, "progress")
    assert (row["buffer_id"], row["total"]) == ("halted", HALTED)
    assert row["percent"] == 100 * row["completed"] / HALTED
    assert row["results_per_s"] > 0
    assert row["seconds_left"] > 0


def test_the_slowest_item_is_the_one_that_slept(story: Story) -> None:
    rows = answers(story, "slowest-items", buffer="untold")
    assert pairs(rows, "buffer_id", "item_index") == [("untold", 1), ("untold", 0)]
    assert rows[0]["duration_ms"] >= 200
    everything = [row["duration_ms"] for row in answers(story, "slowest-items")]
    assert everything == sorted(everything, reverse=True)
    assert len(everything) == 10


def test_durations_are_counted_by_their_size(story: Story) -> None:
    (row,) = answers(story, "durations", buffer="untold")
    assert (row["items"], row["under_1_s"] + row["longer"]) == (2, 1)
    assert row["longest_ms"] >= 200
    assert "plain" in {row["buffer_id"] for row in answers(story, "durations")}


def test_failures_are_counted_by_listener_and_kind(story: Story) -> None:
    counted = {(row["listener"], row["kind"]): row["attempts"] for row in answers(story, "failures-by-kind")}
    # Two flaky items, one bad one twice, and its retry twice; one worker died; crashes charge who was alone.
    assert counted.pop(("work", "exception")) == 6
    assert counted.pop(("work", "lost")) >= 1
    assert counted == {}


def test_frequent_errors_say_what_failed_how_often(story: Story) -> None:
    rows = {row["message"]: row for row in answers(story, "frequent-errors")}
    assert rows["ValueError: flaky at attempt 1"]["attempts"] == 2
    assert rows["ValueError: bad at attempt 2"]["attempts"] == 2
    assert "Traceback" in rows["ValueError: bad at attempt 2"]["traceback"]
    assert rows["ValueError: flaky at attempt 1"]["example"] == "failing/0"


def test_failed_items_are_those_that_failed_for_good(story: Story) -> None:
    rows = answers(story, "failed-items")
    assert pairs(rows, "buffer_id", "item_index", "attempt") == [("failing", 2, 2), ("failing.retry1", 0, 2)]
    assert {row["error"] for row in rows} == {"exception: ValueError: bad at attempt 2"}
    assert pairs(answers(story, "failed-items", buffer="failing"), "item_index") == [(2,)]


def test_missing_items_are_those_of_the_cancelled_buffer(story: Story) -> None:
    rows = answers(story, "missing-items")
    assert pairs(rows, "buffer_id", "item_index") == [("stopped", index) for index in (1, 2, 3, 4)]


def test_items_that_ran_more_than_once_are_found_whatever_made_them(story: Story) -> None:
    again = Counter(
        (row["buffer_id"], row["first_index"] + offset)
        for row in answers(story, "ran-more-than-once")
        for offset in range(row["item_count"])
    )
    expected = {("failing", 0), ("failing", 2), ("failing", 3), ("failing.retry1", 0), ("deadly", 1)}
    expected |= set.union(*story.crashed)
    assert expected <= set(again)
    assert {buffer_id for buffer_id, _ in again} == {"failing", "failing.retry1", "deadly", "held"}


def test_retries_that_helped_are_those_of_items_that_succeeded(story: Story) -> None:
    found = pairs(answers(story, "retries-that-helped"), "buffer_id", "item_index")
    assert {("failing", 0), ("failing", 3), ("deadly", 1)} <= set(found)
    assert {buffer_id for buffer_id, _ in found} <= {"failing", "deadly", "held"}


def test_interrupted_is_what_each_crash_interrupted(story: Story) -> None:
    found: list[set[tuple[str, int]]] = [set() for _ in story.crashed]
    for row in answers(story, "interrupted"):
        indexes = range(row["first_index"], row["first_index"] + row["item_count"])
        found[row["run_id"] - 1] |= {(row["buffer_id"], index) for index in indexes}
    assert found == story.crashed


def test_worker_deaths_name_the_worker_that_was_killed(story: Story) -> None:
    rows = answers(story, "worker-deaths")
    assert {row["buffer_id"] for row in rows} >= {"deadly"}
    assert {row["run_id"] for row in rows} == {1}


def totals_of_last_run(journal: Path) -> tuple[int, int]:
    last_run = "run_id = (SELECT max(run_id) FROM run)"
    with closing(open_reader(journal)) as connection:
        results, failures = connection.execute(
            f"SELECT sum(results), sum(failures) FROM journal_commit WHERE {last_run}"
        ).fetchone()
    return results, failures


def totals(rows: list[dict[str, Any]]) -> tuple[int, int]:
    return sum(row["results"] for row in rows), sum(row["failures"] for row in rows)


def test_the_rate_adds_up_to_what_the_last_run_recorded(story: Story) -> None:
    assert totals(answers(story, "rate")) == totals_of_last_run(story.journal)


@pytest.mark.parametrize("runs_ms", [100, 1100])
def test_the_rate_leaves_out_what_earlier_runs_recorded_in_the_same_second(
    copied: Path, runs_ms: int
) -> None:
    """As if each run had lasted so long, and the next had begun at once."""
    with closing(open_writer(copied)) as connection:
        began = f"1800000000000 + {runs_ms} * run_id"
        connection.execute(f"UPDATE run SET started_at = {began}")
        connection.execute(f"UPDATE journal_commit SET committed_at = {began} + {runs_ms - 1}")
    rows = answers(Story(copied), "rate")
    assert totals(rows) == totals_of_last_run(copied)
    assert len(rows) == 1


def test_runs_and_crashes_are_those_that_were(story: Story) -> None:
    rows = answers(story, "runs-and-crashes")
    assert pairs(rows, "pid", "ended") == list(
        zip(story.supervisors, ["crashed"] * CRASHES + ["clean"], strict=True)
    )


def test_the_time_to_complete_is_by_listener(story: Story) -> None:
    counted = {row["target"]: (row["buffers"], row["items"]) for row in answers(story, "time-to-complete")}
    work = {
        "plain": 10,
        "failing": 4,
        "deadly": 3,
        "inner-0": 3,
        "inner-1": 3,
        "untold": 2,
        "held": HELD,
        "r": 1,
    }
    assert counted == {
        "work": (len(work), sum(work.values())),
        "planner": (1, 2),
        "forwarding": (1, 2),
    }
    assert all(
        row["shortest_s"] <= row["mean_s"] <= row["longest_s"] for row in answers(story, "time-to-complete")
    )


def test_the_worker_of_an_item_is_the_one_that_answered(story: Story) -> None:
    (row,) = answers(story, "worker-of-item", buffer="held", item=HELD - 1)
    assert (row["run_id"], row["success"]) == (CRASHES + 1, 1)
    last = [worker for worker in answers(story, "busiest-workers") if worker["run_id"] == CRASHES + 1]
    assert row["worker_pid"] in {worker["worker_pid"] for worker in last}


def test_the_busiest_workers_got_what_was_handed_out(story: Story) -> None:
    rows = answers(story, "busiest-workers")
    with closing(open_reader(story.journal)) as connection:
        handed_out = connection.execute(
            "SELECT sum(item_count) FROM dispatches WHERE ended IS NOT 'returned'"
        ).fetchone()[0]
    assert sum(row["items"] for row in rows) == handed_out
    assert any(row["died"] for row in rows)


def test_waiting_messages_are_the_completions_nobody_has_read(story: Story) -> None:
    (row,) = answers(story, "waiting-messages")
    # plain, failing, deadly, outer, passed-on, held, stopped and failing.retry1 went to cli; one was read.
    assert (row["to_id"], row["kind"], row["state"], row["messages"]) == (
        "cli",
        "BufferComplete",
        "waiting",
        7,
    )


def test_a_conversation_shows_what_was_said_in_its_order(story: Story) -> None:
    with closing(open_reader(story.journal)) as connection:
        (thread,) = connection.execute(
            "SELECT thread_id FROM buffers WHERE buffer_id = 'passed-on'"
        ).fetchone()
    rows = answers(story, "conversation", thread=f"{thread}/0")
    assert pairs(rows, "from_id", "to_id", "payload") == [
        ("forwarding", "work", "fine"),
        ("work", "forwarding", "did fine"),
    ]
    assert len(answers(story, "conversation", thread=thread)) == 4


def test_nested_buffers_name_the_item_that_started_them(story: Story) -> None:
    rows = answers(story, "nested-buffers")
    assert sorted(pairs(rows, "buffer_id", "started_by_buffer", "started_by_item", "started_by_message")) == [
        ("inner-0", "outer", 0, None),
        ("inner-1", "outer", 1, None),
    ]


@pytest.fixture
def told(journal: Path) -> Iterator[Client]:
    with supervised(journal) as client:
        yield client


def test_nested_buffers_name_the_message_whose_handler_started_them(told: Client, journal: Path) -> None:
    told.start("work", texts("fine"), buffer_id="a-clients-own").wait(60)
    told.acknowledge(told.receive(60))
    message_id = told.send("launcher", Xml("<launch>fine</launch>"))
    told.acknowledge(told.receive(60))
    (row,) = answers(Story(journal), "nested-buffers")
    assert (row["buffer_id"], row["started_by_buffer"], row["started_by_message"]) == (
        "launched",
        None,
        message_id,
    )


def test_frequent_errors_have_a_message_for_an_example(told: Client, journal: Path) -> None:
    message_id = told.send("work", texts("bad")[0])
    told.acknowledge(told.receive(60))
    rows = answers(Story(journal), "frequent-errors")
    assert {row["example"] for row in rows} == {f"message {message_id}"}


# Their speed


@pytest.mark.parametrize("name", questions())
def test_no_question_is_quadratic(empty: Path, name: str) -> None:
    """A table that grows with the work is read from beginning to end in outermost loops only, and is never
    put into an index just for the question.
    """
    with closing(open_reader(empty)) as connection:
        sql = f"EXPLAIN QUERY PLAN {question(name, {})[0]}"
        steps = connection.execute(sql, PARAMETERS).fetchall()
        aliases = aliases_of_big_tables(connection)
    first_of: dict[int, int] = {}
    for step, parent, _, detail in steps:
        words = detail.split()
        if words[0] not in ("SCAN", "SEARCH"):
            continue
        is_outermost = first_of.setdefault(parent, step) == step
        if words[1] in aliases:
            assert "AUTOMATIC" not in detail, detail
            assert words[0] == "SEARCH" or is_outermost, detail


OF_ONE_BUFFER_OR_ALL = [name for name in questions() if ":buffer IS NULL" in question(name, {})[0]]


@pytest.mark.parametrize("name", OF_ONE_BUFFER_OR_ALL)
def test_a_question_that_may_be_of_one_buffer_reads_no_other(empty: Path, name: str) -> None:
    """Whether it is of one is known only when it runs; so it goes from buffer to buffer, and into those that
    are asked for.
    """
    with closing(open_reader(empty)) as connection:
        steps = connection.execute(f"EXPLAIN QUERY PLAN {question(name, {})[0]}", PARAMETERS).fetchall()
        aliases = aliases_of_big_tables(connection)
    words = [detail.split() for *_, detail in steps]
    assert [step for step in words if step[0] == "SCAN" and step[1] in aliases] == []


def aliases_of_big_tables(connection: sqlite3.Connection) -> set[str]:
    """The names by which the views call them. `b`, `p` and others are of tables with a row a buffer."""
    views = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'view'").fetchall()
    found = re.findall(r"\b(?:FROM|JOIN) (\w+) (?:AS )?([a-z]\w*)\b", " ".join(sql for (sql,) in views))
    return {alias for table, alias in found if table in BIG_TABLES} | BIG_TABLES


# The reference


def test_every_part_of_the_reference_that_asks_is_a_question() -> None:
    section = REFERENCE.read_text().partition("\n## Twenty-five questions\n")[2]
    assert re.findall(r"^### (.+)$", section, re.MULTILINE) == list(questions())
    assert section.count("```sql\n") == len(questions())


def test_the_reference_has_every_column_of_every_view(empty: Path) -> None:
    sections = REFERENCE.read_text().split("\n### ")
    shown = {
        section.partition("\n")[0]: re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        for section in sections
    }
    with closing(open_reader(empty)) as connection:
        views = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        for view in views:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({view})")]
            assert shown.get(view) == columns, view
