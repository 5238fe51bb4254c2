"""A trace says what the journal says: its sums are those of SQL, its slices nest, its times go forward."""

import json
import tracemalloc
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_line import durable_bus
from daemons import Daemon, client_of
from eventful import CRASHES, Story
from golden_journal import golden_journal
from old_journals import OLD, old_journal
from support import Facts
from synthetic import make

from durable_bus import Text
from durable_bus.errors import NotFound
from durable_bus.journal.admin.traced import TracedBuffer
from durable_bus.journal.connection import SCHEMA_VERSION, open_writer
from durable_bus.replay.lanes import Lane, Lanes, at_once, one_after_another
from durable_bus.replay.trace import trace

Event = dict[str, Any]


class Traced(NamedTuple):
    """A trace as a viewer has it."""

    events: list[Event]
    other: Event

    def of(self, category: str) -> list[Event]:
        return [event for event in self.events if event.get("cat") == category]

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event["name"] == name]

    def row(self, event: Event) -> str:
        """Whose row it is drawn in."""
        (name,) = [
            one["args"]["name"]
            for one in self.named("thread_name")
            if (one["pid"], one["tid"]) == (event["pid"], event["tid"])
        ]
        return str(name)

    def process(self, event: Event) -> str:
        (name,) = [one["args"]["name"] for one in self.named("process_name") if one["pid"] == event["pid"]]
        return str(name)


def traced(journal: Path, buffer_id: str, *, served: bool = False) -> Traced:
    with TracedBuffer(journal, buffer_id) as buffer:
        document = json.loads("".join(trace(buffer, served=served)))
    assert document["displayTimeUnit"] == "ms"
    found = Traced(document["traceEvents"], document["otherData"])
    assert_drawable(found)
    assert_as_journaled(found, Facts(journal), buffer_id)
    return found


def assert_drawable(found: Traced) -> None:
    """Each row has one name, which comes first; in it slices begin one after the other, and each is inside
    the one that it begins in, or behind it.
    """
    assert {event["ph"] for event in found.events} <= {"M", "X", "i"}
    named: set[tuple[int, int]] = set()
    inside: dict[tuple[int, int], list[int]] = defaultdict(list)
    last: dict[tuple[int, int], int] = defaultdict(int)
    for event in found.events:
        row = (event["pid"], event["tid"])
        if event["name"] == "thread_name":
            assert row not in named
            named.add(row)
        if event["ph"] == "M":
            continue
        assert row in named, event
        assert event["ts"] > 0
        if event["ph"] == "X":
            begin, end = event["ts"], event["ts"] + event["dur"]
            assert event["dur"] >= 0
            assert begin >= last[row], event
            last[row] = begin
            while inside[row] and inside[row][-1] <= begin:
                inside[row].pop()
            assert not inside[row] or end <= inside[row][-1], event
            inside[row].append(end)


def micros(time: str) -> int:
    return (datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def assert_as_journaled(found: Traced, facts: Facts, buffer_id: str) -> None:
    """What ran, for how long, what was handed out when to whom, and what failed."""
    place = '"where"' if facts.value("PRAGMA user_version") >= 5 else "NULL"
    recorded = [one for one in found.of("item") if one["args"].get("recorded", True)]
    sql = "SELECT item_index, attempt, CAST(round(duration_ms * 1000) AS INTEGER), success FROM results"
    sql += " WHERE buffer_id = ? AND duration_ms IS NOT NULL ORDER BY item_index"
    in_trace = sorted(
        (one["args"]["item"], one["args"]["attempt"], one["args"]["duration_us"], one["args"]["success"])
        for one in recorded
    )
    assert in_trace == facts.rows(sql, buffer_id)
    assert all(one["dur"] <= one["args"]["duration_us"] for one in recorded)
    sql = f"SELECT dispatch_id, first_index, item_count, attempt, worker_pid, run_id, sent_at, ended, {place}"
    sql += " FROM dispatches WHERE buffer_id = ? ORDER BY dispatch_id"
    said = ("dispatch_id", "first_index", "item_count", "attempt", "worker_pid")
    assert sorted(
        (
            *(one["args"][name] for name in said),
            one["pid"],
            one["ts"],
            one["args"]["ended"],
            one["args"].get("where", ""),
        )
        for one in found.of("dispatch")
    ) == [
        (*row[:6], micros(row[6]), row[7] or "in flight", row[8] or "") for row in facts.rows(sql, buffer_id)
    ]
    sql = "SELECT item_index, attempt, kind, message, failed_at FROM failures WHERE buffer_id = ?"
    assert sorted(
        (one["args"]["item"], one["args"]["attempt"], one["name"], one["args"]["message"], one["ts"])
        for one in found.of("failure")
    ) == sorted(
        (index, attempt, f"item {index}: {kind}", message, micros(at))
        for index, attempt, kind, message, at in facts.rows(sql, buffer_id)
    )


def test_an_item_lies_inside_the_dispatch_that_it_came_with(story: Story) -> None:
    found = traced(story.journal, "plain")
    sent = found.of("dispatch")
    for item in found.of("item"):
        (around,) = [
            one
            for one in sent
            if 0 <= item["args"]["item"] - one["args"]["first_index"] < one["args"]["item_count"]
            and one["args"]["ended"] == "answered"
        ]
        assert (item["pid"], item["tid"]) == (around["pid"], around["tid"])
        assert around["ts"] <= item["ts"]
        assert item["ts"] + item["dur"] <= around["ts"] + around["dur"]
        assert found.row(item) == f"worker {around['args']['worker_pid']}"


def test_the_life_of_a_buffer_is_a_row_of_its_own(story: Story) -> None:
    found = traced(story.journal, "plain")
    created, opened, ended = (
        micros(time)
        for (time,) in Facts(story.journal).rows(
            "SELECT created_at FROM buffers WHERE buffer_id = 'plain' UNION ALL"
            " SELECT sealed_at FROM buffers WHERE buffer_id = 'plain' UNION ALL"
            " SELECT completed_at FROM buffers WHERE buffer_id = 'plain'"
        )
    )
    (receiving,), (lived,) = found.named("receiving"), found.named("open")
    assert (receiving["ts"], receiving["ts"] + receiving["dur"]) == (created, opened)
    assert (lived["ts"], lived["ts"] + lived["dur"]) == (opened, ended)
    assert found.process(lived) == "buffer plain"
    assert [(one["ts"], one["args"]) for one in found.named("ended")] == [(ended, {"how": "all"})]
    assert [one["ts"] for one in found.named("sealed")] == [opened]


def test_each_run_is_a_process_and_each_crash_a_mark_where_it_was_last_seen(story: Story) -> None:
    found = traced(story.journal, "held")
    names = [one["args"]["name"] for one in found.named("process_name")]
    assert names[0] == "buffer held"
    assert names[1:] == [
        f"run {number}, eventful ({'clean' if number == CRASHES + 1 else 'crashed'})"
        for number in range(1, CRASHES + 2)
    ]
    marks = found.named("supervisor crashed")
    assert [(one["args"]["pid"], one["s"]) for one in marks] == [
        (pid, "p") for pid in story.supervisors[:CRASHES]
    ]
    seen = Facts(story.journal).rows("SELECT last_commit_at FROM runs ORDER BY run_id")
    assert [one["ts"] for one in marks] == [micros(time) for (time,) in seen[:CRASHES]]
    for one in found.of("dispatch"):
        if one["args"]["ended"] == "crashed":
            assert one["ts"] + one["dur"] <= marks[one["pid"] - 1]["ts"]


@pytest.mark.parametrize(
    "buffer_id", ["deadly", "failing", "failing.retry1", "outer", "passed-on", "untold", "stopped", "halted"]
)
def test_whatever_has_happened_to_a_buffer_its_trace_is_as_journaled(story: Story, buffer_id: str) -> None:
    found = traced(story.journal, buffer_id)
    assert bool(found.named("paused")) == (buffer_id == "halted")
    assert [one["args"]["how"] for one in found.named("ended")] == (
        [] if buffer_id == "halted" else ["cancelled" if buffer_id == "stopped" else "all"]
    )


def test_a_failed_attempt_is_marked_where_it_ran(story: Story) -> None:
    found = traced(story.journal, "failing")
    failures = found.of("failure")
    assert {one["name"].partition(": ")[2] for one in failures} == {"exception"}
    assert all(found.row(one).startswith("worker ") for one in failures)


def test_an_open_buffer_is_drawn_until_the_newest_commit(story: Story) -> None:
    newest = Facts(story.journal).value("SELECT max(last_commit_at) FROM runs")
    (lived,) = traced(story.journal, "halted").named("open")
    assert lived["ts"] + lived["dur"] == micros(newest)


@pytest.mark.parametrize("name", [*OLD, f"v{SCHEMA_VERSION}.journal"])
def test_journals_of_every_version_are_traced_as_they_are(name: str, tmp_path: Path) -> None:
    journal = old_journal(tmp_path / "old.db", name)
    kept = "SELECT buffer_id FROM buffers WHERE state <> 'pruned'"
    found = [traced(journal, buffer_id) for (buffer_id,) in Facts(journal).rows(kept)]
    assert sum(len(one.of("item")) for one in found) >= 5


def test_what_an_engine_ran_is_drawn_where_it_ran(tmp_path: Path) -> None:
    journal = golden_journal(tmp_path / "journal.db")
    facts = Facts(journal)
    sql = 'SELECT buffer_id, "where", count(*) FROM results r WHERE r."where" IS NOT NULL GROUP BY 1, 2'
    places = facts.rows(sql)
    assert places
    drawn: Counter[tuple[str, str]] = Counter()
    for buffer_id in {one[0] for one in places}:
        found = traced(journal, buffer_id)
        drawn.update(
            (buffer_id, found.row(item).partition(", at the same time")[0]) for item in found.of("item")
        )
    assert {(one, where, drawn[one, where]) for one, where, _ in places} == set(places)


@pytest.mark.slow
def test_async_items_that_overlap_have_rows_of_their_own(journal: Path) -> None:
    with Daemon(journal, "apps.awaiting:bus", workers=1), client_of(journal) as client:
        client.start("together", [Text(f"{n}") for n in range(20)], buffer_id="async").wait(60)
        found = traced(journal, "async", served=True)
        assert found.process(found.of("item")[0]).endswith("(running)")
    items = found.of("item")
    assert [one["dur"] for one in items] == [one["args"]["duration_us"] for one in items]
    rows = {found.row(one) for one in items}
    assert len(rows) >= 5
    assert all(", its items" in row for row in rows)


@pytest.mark.slow
def test_on_a_live_journal_what_is_in_flight_is_drawn_until_now(
    journal: Path, facts: Facts, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with Daemon(journal, "apps.plain:bus", workers=1), client_of(journal) as client:
        client.start("gate", [Text(str(gate))] * 3, buffer_id="held")
        facts.until("SELECT count(*) > 0 FROM in_flight")
        ran = durable_bus("trace", "held", "--journal", journal, cwd=tmp_path)
        assert ran.code == 0
        assert ran.error == "held has not ended: the trace shows what has happened until now"
        events = json.loads(ran.out)["traceEvents"]
        assert {one["args"]["ended"] for one in events if one.get("cat") == "dispatch"} == {"in flight"}
        assert not [one for one in events if one["name"] == "supervisor crashed"]
        gate.touch()
        client.buffer("held").wait(60)


def test_it_goes_to_a_file_that_is_whole_or_to_stdout(story: Story, tmp_path: Path) -> None:
    written = durable_bus("trace", "plain", "-o", "t.json", "--journal", story.journal, cwd=tmp_path)
    assert written == (0, "", "")
    shown = durable_bus("trace", "plain", "--output", "-", "--journal", story.journal, cwd=tmp_path)
    assert (shown.code, shown.out) == (0, (tmp_path / "t.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_a_file_of_the_journal_is_not_written_over(copied: Path) -> None:
    ran = durable_bus("trace", "plain", "-o", copied, "--journal", copied, cwd=copied.parent)
    assert ran.code == 2
    assert "belongs to the journal" in ran.error


def test_without_a_buffer_of_this_name_or_when_it_was_pruned_the_exit_code_is_3(copied: Path) -> None:
    ran = durable_bus("trace", "nobody", "--journal", copied, cwd=copied.parent)
    assert (ran.code, ran.error) == (3, f"no buffer 'nobody' in {copied}")
    with closing(open_writer(copied)) as connection:
        connection.execute("UPDATE buffer SET pruned_commit = ended_commit WHERE buffer_id = 'plain'")
    ran = durable_bus("trace", "plain", "-o", "t.json", "--journal", copied, cwd=copied.parent)
    assert (ran.code, ran.error) == (3, "the items and results of plain were pruned")
    assert not (copied.parent / "t.json").exists()


def test_what_is_pruned_while_it_is_read_leaves_no_half_a_trace(copied: Path) -> None:
    with TracedBuffer(copied, "plain") as buffer:
        pieces = trace(buffer, served=False)
        next(pieces)
        with closing(open_writer(copied)) as connection:
            connection.execute("UPDATE buffer SET pruned_commit = ended_commit WHERE buffer_id = 'plain'")
        with pytest.raises(NotFound, match="were pruned"):
            list(pieces)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 1000])
def test_memory_stays_flat_and_every_sum_is_that_of_sql(tmp_path: Path, batch: int) -> None:
    journal = tmp_path / "journal.db"
    make(journal, 20_000, batch)
    with TracedBuffer(journal, "big") as buffer:
        tracemalloc.start()
        chars = sum(len(piece) for piece in trace(buffer, served=False))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert chars > 3_000_000
    assert peak_bytes < 3_000_000
    assert len(traced(journal, "big").of("item")) == 20_000


def lanes() -> Lanes:
    return Lanes(lambda _, number: Lane(number))


def test_items_one_after_another_begin_as_early_as_they_can_and_fit() -> None:
    assert one_after_another([10, 20], 100, 1000) == [(100, 10), (110, 20)]
    assert one_after_another([10, 20], 100, 115) == [(100, 5), (105, 10)]
    assert one_after_another([10, 20], 100, 100) == [(100, 0), (100, 0)]
    assert one_after_another([0], 100, 90) == [(100, 0)]


def test_items_at_once_have_as_many_lanes_as_they_need() -> None:
    both = lanes()
    assert at_once(both, "w", [40, 40], 0, 100) == [(20, 0, 40, 0), (60, 1, 40, 0)]
    # the first lane is taken until 100, so what is longer than 50 goes into another one
    assert at_once(both, "w", [60, 50], 0, 150) == [(90, 0, 60, 1), (100, 1, 50, 0)]
    assert at_once(both, "w", [500], 140, 150) == [(140, 0, 10, 2)]


def test_a_lane_is_taken_until_its_end() -> None:
    one = lanes()
    assert [one.take("w", *times).thread_id for times in [(0, 10), (5, 8), (8, 9), (10, 11)]] == [0, 1, 1, 0]
    assert one.take("other", 0, 1).thread_id == 0
