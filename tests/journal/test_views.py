"""Every view says what happened: compared with buffers whose course the test has decided itself."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import synthetic
from apps import unruly
from support import REPOSITORY, Facts, kill, until, until_gone, workers_of

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

COLUMNS = {
    "buffers": {
        "buffer_id": {"text"},
        "state": {"text"},
        "paused": {"integer"},
        "target": {"text"},
        "return_to": {"text"},
        "from_id": {"text"},
        "thread_id": {"text"},
        "collect": {"integer"},
        **{name: {"integer"} for name in ("total", "completed", "successful", "failed", "pending")},
        "created_at": {"text"},
        "completed_at": {"text", "null"},
        "seconds": {"real", "null"},
        "starter_thread_id": {"text"},
        "retry_of": {"null"},
        "sealed_at": {"text"},
        "ended_how": {"text", "null"},
        "priority": {"integer"},
        **{name: {"null"} for name in ("not_before", "deadline", "paused_why", "traceparent")},
    },
    "items": {
        "buffer_id": {"text"},
        "item_index": {"integer"},
        "state": {"text"},
        "attempts": {"integer"},
        "payload": {"text"},
        "is_xml": {"integer"},
        "form": {"text"},
        "json": {"null"},
        "item_key": {"integer"},
    },
    "results": {
        "buffer_id": {"text"},
        "item_index": {"integer"},
        "success": {"integer"},
        "payload": {"text"},
        "is_xml": {"integer"},
        "error": {"text", "null"},
        "attempt": {"integer"},
        "duration_ms": {"real", "null"},
        "recorded_at": {"text"},
        "run_id": {"integer"},
        "worker_pid": {"integer"},
        "form": {"text"},
        "json": {"null"},
        "item_key": {"integer"},
        "memo": {"integer"},
        "where": {"null"},
    },
    "in_flight": {
        "buffer_id": {"text"},
        "first_index": {"integer"},
        "item_count": {"integer"},
        "attempt": {"integer"},
        "worker_pid": {"integer"},
        "since": {"text"},
        "run_id": {"integer"},
        "where": {"null"},
    },
    "dispatches": {
        "dispatch_id": {"integer"},
        "buffer_id": {"text"},
        "first_index": {"integer"},
        "item_count": {"integer"},
        "attempt": {"integer"},
        "worker_pid": {"integer"},
        "run_id": {"integer"},
        "sent_at": {"text"},
        "ended_at": {"text", "null"},
        "ended": {"text", "null"},
        "where": {"null"},
    },
    "failures": {
        "buffer_id": {"text"},
        "item_index": {"integer"},
        "message_id": {"null"},
        "attempt": {"integer"},
        "kind": {"text"},
        "message": {"text"},
        "traceback": {"text", "null"},
        "failed_at": {"text"},
        "item_key": {"integer"},
        "where": {"null"},
    },
    "messages": {
        **{name: {"text"} for name in ("message_id", "kind", "from_id", "to_id", "thread_id")},
        **{name: {"text"} for name in ("state", "payload", "created_at")},
        "settled_at": {"text", "null"},
        "is_xml": {"integer"},
        "form": {"text"},
        "json": {"null"},
    },
    "runs": {
        "run_id": {"integer"},
        "pid": {"integer"},
        "app": {"text"},
        "started_at": {"text"},
        "stopped_at": {"text", "null"},
        "last_commit_at": {"text"},
        "ended": {"text"},
    },
    "throughput": {"second": {"text"}, "results": {"integer"}, "failures": {"integer"}},
}
"""The public columns in their order, each with the types its values may have here. More may follow them."""


class Story(NamedTuple):
    facts: Facts
    pids: list[int]
    """Of the supervisors, run by run."""
    workers: list[int]
    """The workers of the second run, which ended in a crash."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two runs: in the first everything is completed, the second is killed with one item running."""
    journal = tmp_path_factory.mktemp("views") / "journal.db"
    facts = Facts(journal)
    pids = []
    with unruly.bus.running(journal=journal, workers=1) as client:
        pids.append(client.supervisor_pid or 0)
        mixed = ["good", "raise", "<a/>", "answer NUL", "_exit", "raise"]
        client.start("misbehave", mixed, buffer_id="mixed").wait(60)
        client.start("third-time", ["a"], buffer_id="third", collect=False).wait(60)
        client.start("puzzled", ["what"], buffer_id="huh").wait(60)
    with unruly.bus.running(journal=journal, workers=1) as client:
        pids.append(client.supervisor_pid or 0)
        client.start("gate", ["", str(journal.parent / "never"), "", "", ""], buffer_id="open")
        facts.until_recorded("open", 1)
        until(lambda: facts.value("SELECT count(*) FROM in_flight") == 2, "two dispatches are in flight")
        workers = workers_of(client.supervisor_pid or 0)
        kill(client.supervisor_pid or 0)
    for pid in workers:
        until_gone(pid)
    return Story(facts, pids, workers)


@pytest.mark.parametrize("view", COLUMNS)
def test_the_columns_of_a_view_have_their_names_order_and_types(story: Story, view: str) -> None:
    rows = story.facts.dicts(f"SELECT * FROM {view}")
    assert rows
    assert list(rows[0])[: len(COLUMNS[view])] == list(COLUMNS[view])
    for column, types in COLUMNS[view].items():
        asked = f'SELECT DISTINCT typeof({view}."{column}") FROM {view}'
        found = {kind for (kind,) in story.facts.rows(asked)}
        assert found <= types, column
        if column.endswith("_at") or column == "since":
            assert all(row[column] is None or ISO.fullmatch(row[column]) for row in rows), column


def test_buffers_says_how_far_each_is(story: Story) -> None:
    rows = {row["buffer_id"]: row for row in story.facts.dicts("SELECT * FROM buffers")}
    counted = ("state", "target", "collect", "total", "completed", "successful", "failed", "pending")
    assert {buffer_id: tuple(row[name] for name in counted) for buffer_id, row in rows.items()} == {
        "mixed": ("complete", "misbehave", 1, 6, 6, 2, 4, 0),
        "third": ("complete", "third-time", 0, 1, 1, 1, 0, 0),
        "huh": ("complete", "puzzled", 1, 1, 1, 0, 1, 0),
        "open": ("open", "gate", 1, 5, 1, 1, 0, 4),
    }
    for row in rows.values():
        assert (row["paused"], row["return_to"], row["from_id"]) == (0, "", "")
        assert (row["completed_at"] is None) == (row["seconds"] is None) == (row["state"] == "open")
        assert row["completed_at"] is None or row["completed_at"] >= row["created_at"]
    assert len({row["thread_id"] for row in rows.values()}) == 4


def test_items_says_where_each_item_is_and_how_often_it_was_tried(story: Story) -> None:
    rows = story.facts.rows(
        "SELECT buffer_id, item_index, state, attempts FROM items WHERE buffer_id <> 'open'"
    )
    assert {(buffer_id, index): (state, attempts) for buffer_id, index, state, attempts in rows} == {
        ("mixed", 0): ("succeeded", 1),
        ("mixed", 1): ("failed", 1),
        ("mixed", 2): ("succeeded", 1),
        ("mixed", 3): ("failed", 1),
        ("mixed", 4): ("failed", 3),
        ("mixed", 5): ("failed", 1),
        ("third", 0): ("succeeded", 3),
        ("huh", 0): ("failed", 1),
    }
    payloads = story.facts.rows("SELECT payload FROM items WHERE buffer_id = 'mixed' ORDER BY item_index")
    assert [payload for (payload,) in payloads] == ["good", "raise", "<a/>", "answer NUL", "_exit", "raise"]


def test_an_items_state_is_what_results_and_in_flight_say(story: Story) -> None:
    ranges = story.facts.rows("SELECT first_index, first_index + item_count FROM in_flight")
    in_flight = {index for first, end in ranges for index in range(first, end)}
    assert 1 in in_flight
    rows = story.facts.rows("SELECT item_index, state, attempts FROM items WHERE buffer_id = 'open'")
    assert rows == [
        (0, "succeeded", 1),
        *[(index, "in_flight" if index in in_flight else "waiting", 0) for index in range(1, 5)],
    ]


def test_results_holds_every_answer_with_who_gave_it_and_when(story: Story) -> None:
    rows = story.facts.dicts("SELECT * FROM results WHERE buffer_id = 'mixed' ORDER BY item_index")
    assert [(row["item_index"], row["success"], row["is_xml"], row["attempt"]) for row in rows] == [
        (0, 1, 0, 1),
        (1, 0, 1, 1),
        (2, 1, 1, 1),
        (3, 0, 1, 1),
        (4, 0, 1, 3),
        (5, 0, 1, 1),
    ]
    assert [row["error"] for row in rows] == [
        None,
        "exception: ValueError: no good at all",
        None,
        "answer: the answer cannot be written: a text with a NUL character, at position 1",
        "lost: worker exited with code 7",
        "exception: ValueError: no good at all",
    ]
    assert [rows[0]["payload"], rows[2]["payload"]] == ["good", "<a/>"]
    assert {row["run_id"] for row in rows} == {1}
    assert [row["duration_ms"] is None for row in rows] == [False, False, False, False, True, False]
    assert all(row["duration_ms"] >= 0 for row in rows if row["duration_ms"] is not None)
    assert len({row["worker_pid"] for row in rows}) > 1, "the item that killed its workers had several"
    assert story.facts.value("SELECT run_id FROM results WHERE buffer_id = 'open'") == 2
    assert story.facts.value("SELECT worker_pid FROM results WHERE buffer_id = 'open'") == story.workers[0]
    (huh,) = story.facts.dicts("SELECT * FROM results WHERE buffer_id = 'huh'")
    assert (huh["payload"], huh["error"]) == ("<Huh><error>what</error></Huh>", huh["payload"])


def test_in_flight_is_after_a_crash_what_it_interrupted(story: Story) -> None:
    rows = story.facts.dicts("SELECT * FROM in_flight ORDER BY first_index")
    assert rows[0]["first_index"] == 1
    for row in rows:
        assert (row["buffer_id"], row["attempt"], row["run_id"]) == ("open", 1, 2)
        assert row["worker_pid"] == story.workers[0]
        assert row["item_count"] >= 1


def test_dispatches_holds_every_batch_that_was_handed_out_and_how_it_ended(story: Story) -> None:
    rows = story.facts.dicts("SELECT * FROM dispatches ORDER BY dispatch_id")
    assert all((row["ended"] is None) == (row["ended_at"] is None) for row in rows)
    open_ones = [(row["first_index"], row["item_count"]) for row in rows if row["ended"] is None]
    assert open_ones == story.facts.rows("SELECT first_index, item_count FROM in_flight ORDER BY first_index")
    died = [(row["buffer_id"], row["attempt"]) for row in rows if row["ended"] == "died"]
    assert [attempt for buffer_id, attempt in died if buffer_id == "mixed"][-3:] == [1, 2, 3]
    assert {row["ended"] for row in rows} <= {None, "answered", "died", "returned"}
    handed_out = {
        (row["buffer_id"], index)
        for row in rows
        for index in range(row["first_index"], row["first_index"] + row["item_count"])
    }
    assert handed_out >= set(story.facts.rows("SELECT buffer_id, item_index FROM results"))


def test_failures_has_a_row_a_failed_attempt(story: Story) -> None:
    rows = story.facts.rows(
        "SELECT buffer_id, item_index, attempt, kind FROM failures ORDER BY buffer_id, item_index, attempt"
    )
    assert rows == [
        ("mixed", 1, 1, "exception"),
        ("mixed", 3, 1, "answer"),
        *[("mixed", 4, attempt, "lost") for attempt in (1, 2, 3)],
        ("mixed", 5, 1, "exception"),
        ("third", 0, 1, "exception"),
        ("third", 0, 2, "exception"),
    ]
    traced = story.facts.rows("SELECT traceback FROM failures WHERE kind = 'exception'")
    assert all("Traceback (most recent call last)" in text for (text,) in traced)


def test_messages_has_one_buffer_complete_of_each_collecting_buffer_without_its_results(story: Story) -> None:
    rows = story.facts.dicts("SELECT * FROM messages ORDER BY message_id")
    assert [(row["message_id"], row["kind"], row["from_id"], row["to_id"], row["state"]) for row in rows] == [
        ("huh/complete", "BufferComplete", "buffer_huh", "", "settled"),
        ("mixed/complete", "BufferComplete", "buffer_mixed", "", "settled"),
    ]
    assert rows[1]["payload"] == (
        "<BufferComplete><buffer_id>mixed</buffer_id><total>6</total><successful>2</successful>"
        "<results></results></BufferComplete>"
    ) or rows[1]["payload"].endswith("<results/></BufferComplete>")
    assert all(row["settled_at"] == row["created_at"] for row in rows)


def test_runs_says_how_each_ended(story: Story) -> None:
    """The newest has not said that it ended; whether it lives is not in the journal."""
    rows = story.facts.dicts("SELECT * FROM runs ORDER BY run_id")
    assert [(row["run_id"], row["pid"], row["app"], row["ended"]) for row in rows] == [
        (1, story.pids[0], "unruly", "clean"),
        (2, story.pids[1], "unruly", "running"),
    ]
    assert rows[0]["stopped_at"] == rows[0]["last_commit_at"]
    assert rows[1]["stopped_at"] is None
    assert rows[0]["started_at"] <= rows[0]["last_commit_at"] <= rows[1]["started_at"]


def test_throughput_adds_up_to_every_result_and_every_failure(story: Story) -> None:
    sums = story.facts.rows("SELECT sum(results), sum(failures) FROM throughput")
    assert sums == story.facts.rows("SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM failures)")
    seconds = [second for (second,) in story.facts.rows("SELECT second FROM throughput")]
    assert seconds == sorted(set(seconds))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second) for second in seconds)


def test_states_of_a_buffer_and_its_items_that_only_clients_bring_about(journal: Path, facts: Facts) -> None:
    door = journal.parent / "door"
    with unruly.bus.running(journal=journal, workers=1, grace=0) as client:
        client.start("gate", ["", str(door), ""], buffer_id="b")
        facts.until_recorded("b", 1)
        client.pause("b")
        assert facts.rows("SELECT state, paused FROM buffers") == [("open", 1)]
        client.resume("b")
        assert facts.rows("SELECT state, paused FROM buffers") == [("open", 0)]
        client.cancel("b")
        assert facts.rows("SELECT state, completed, pending FROM buffers") == [("cancelled", 1, 0)]
        states = facts.rows("SELECT state FROM items ORDER BY item_index")
        assert states == [("succeeded",), ("missing",), ("missing",)]
        assert facts.rows("SELECT message_id FROM messages") == [("b/complete",)]


@pytest.mark.slow
def test_an_item_stays_in_flight_beside_the_next_attempt_at_another_of_its_batch(
    journal: Path, facts: Facts
) -> None:
    """A retry is a dispatch inside the range of one that has not ended."""
    door = journal.parent / "door"
    with unruly.bus.running(journal=journal, workers=2, grace=0) as client:
        client.start("gate-or-raise", [""] * 2000, buffer_id="before").wait(60)
        items = ["", "raise", *[str(door)] * 3]
        client.start("gate-or-raise", items, buffer_id="b")
        facts.until("SELECT count(*) > 1 FROM in_flight WHERE buffer_id = 'b'")
        until(lambda: facts.value("SELECT count(*) FROM in_flight WHERE attempt = 2"), "the second attempt")
        ranges = facts.rows("SELECT first_index, first_index + item_count FROM in_flight")
        in_flight = {index for first, end in ranges for index in range(first, end)} - {0}
        states = facts.rows("SELECT item_index FROM items WHERE buffer_id = 'b' AND state = 'in_flight'")
        assert {index for (index,) in states} == in_flight
        door.touch()


@pytest.mark.parametrize(
    "view", ["buffers", "items", "results", "in_flight", "dispatches", "failures", "spending"]
)
def test_a_view_asked_for_one_buffer_scans_no_table_that_grows(story: Story, view: str) -> None:
    """An index of what has not ended is as short as what is in flight. The failures of messages have no
    buffer, so they are not looked at: that part of the view is false before it begins.
    """
    harmless = ("dispatch_not_ended", "failure_of_message")
    with closing(sqlite3.connect(f"file:{story.facts.journal}?mode=ro", uri=True)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view} WHERE buffer_id = 'b'")
        steps = [detail for *_, detail in plan.fetchall()]
    assert [step for step in steps if step.startswith("SCAN") and not step.endswith(harmless)] == []


def instructions(journal: Path, sql: str, **parameters: str) -> int:
    """How much SQLite does for a query, in hundreds of its instructions; a clock says how busy we are."""
    count = 0

    def one_more() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        connection.set_progress_handler(one_more, 100)
        rows = connection.execute(sql, parameters).fetchall()
    assert len(rows) > 0
    return count


def test_items_beside_their_answers_as_documented_take_no_more_than_their_number(tmp_path: Path) -> None:
    reference = (REPOSITORY / "migrations" / "README.md").read_text()
    found = re.search(r"### Items beside their answers\n+```sql\n(.*?)```", reference, re.DOTALL)
    assert found is not None
    for results in (1_000, 4_000):
        synthetic.make(tmp_path / f"{results}.db", results, 100)
    few, many = (
        instructions(tmp_path / f"{results}.db", found[1], buffer="big") for results in (1_000, 4_000)
    )
    assert many < 5 * few
    with closing(sqlite3.connect(f"file:{tmp_path / '1000.db'}?mode=ro", uri=True)) as connection:
        rows = connection.execute(found[1], {"buffer": "big"}).fetchall()
        answers = connection.execute("SELECT item_index, payload FROM results ORDER BY item_index").fetchall()
    assert [(index, answer) for index, _, answer, _ in rows] == answers


def test_the_views_are_all_that_the_journal_promises(story: Story) -> None:
    views = story.facts.rows("SELECT name FROM sqlite_master WHERE type = 'view'")
    assert {name for (name,) in views} == {*COLUMNS, "spending", "limits"}
