"""What the console reads of a journal, where rows are more than a few, and not simple."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from journal_rows import add_buffer

from durable_bus.journal.admin import console
from durable_bus.journal.admin.console import ConsoleReader
from durable_bus.journal.journal import Journal
from durable_bus.journal.reader import JournalReader
from durable_bus.journal.work import Failure


@pytest.fixture
def opened(journal: Path) -> Iterator[Journal]:
    with closing(Journal.open(journal)) as opened:
        with opened.commit(1):
            opened.start_run(1, "app", "0")
        yield opened


def hands(opened: Journal, at: int | None = None) -> dict[int, int]:
    """How many items each process has in hand."""
    with ConsoleReader(opened.path, None if at is None else str(at)) as reader:
        return {one["worker_pid"]: one["items"] for one in reader.hands()}


def answered(opened: Journal, dispatch_id: int, seq: int, index: int, **columns: Any) -> None:
    origin = {"dispatch_id": dispatch_id, "attempt": 1, "worker_pid": 9, "durations": "", **columns}
    row = {"buffer_seq": seq, "first_index": index, "item_count": 1, "form": 0, "passed_on": False}
    opened.work.record_results(**{"payloads": b"answer\0", "success": True, **row, **origin})
    opened.work.end_dispatch(dispatch_id, "answered")


def test_who_has_what_then_does_not_change_when_some_of_it_is_taken_back(opened: Journal) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"] * 30, "0")
        slow = opened.work.dispatch(seq, 0, 10, 1, False, 7)
    with opened.commit(3):
        opened.work.dispatch(seq, 10, 1, 1, False, 9)
    told = {commit: hands(opened, commit) for commit in (2, 3)}
    for index in range(11, 20):
        with opened.commit(4):
            answered(opened, opened.work.dispatch(seq, index, 1, 1, False, 9), seq, index)
    with opened.commit(5):
        opened.work.shorten_dispatch(slow, 4)
    assert told == {2: {7: 10}, 3: {7: 10, 9: 1}}
    assert {commit: hands(opened, commit) for commit in (2, 3)} == told
    assert hands(opened) == {7: 4, 9: 1}


def test_who_has_something_for_long_is_told_of_however_much_others_have_had_since(
    opened: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_DISPATCHES_LOOKED_AT", 3)
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"] * 30, "0")
        opened.work.dispatch(seq, 0, 1, 1, False, 7)
        for index in range(1, 10):
            answered(opened, opened.work.dispatch(seq, index, 1, 1, False, 9), seq, index)
    assert hands(opened) == {7: 1}


def test_an_item_that_is_answered_with_a_failure_has_not_failed_by_what_an_earlier_attempt_raised(
    opened: Journal,
) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x", "y"], "0")
        for index in (0, 1):
            opened.work.end_dispatch(opened.work.dispatch(seq, index, 1, 1, False, 9), "answered")
            opened.work.record_failure(Failure("exception", "raised"), 1, item=(seq, index))
        again = {"attempt": 2, "success": False}
        answered(opened, opened.work.dispatch(seq, 0, 1, 2, False, 9), seq, 0, payloads=b"no\0", **again)
        opened.work.record_failure(Failure("exception", "raised"), 2, item=(seq, 1))
        answered(opened, opened.work.dispatch(seq, 1, 1, 2, False, 9), seq, 1, payloads=b"\0", **again)
        opened.buffers.count(seq, succeeded=0, failed=2)
    with closing(JournalReader(opened.path)) as reader:
        assert [*reader.failed_items(seq)] == [(1, "exception", "raised")]
    with ConsoleReader(opened.path) as reader:
        row = reader.buffer("b")
        groups, _ = reader.failure_groups(row)
        items, _ = reader.items(row)
    assert [(group.kind, group.items, group.attempts) for group in groups] == [
        ("exception", 1, 3),
        ("answered", 1, 0),
    ]
    assert [item["last_failure"] for item in items] == [None, "exception: raised"]


def test_rates_are_of_equal_parts_of_the_time_before_and_nothing_falls_out(opened: Journal) -> None:
    for at_ms in (10_000, 14_999, 15_000, 20_000):
        with opened.commit(at_ms):
            seq = add_buffer(opened, f"b{at_ms}", ["x"], "0")
            answered(opened, opened.work.dispatch(seq, 0, 1, 1, False, 9), seq, 0)
    with ConsoleReader(opened.path) as reader:
        assert reader.rate(seconds=10, buckets=2, until_ms=19_998) == [(1, 0), (2, 0)]
        assert reader.rate(seconds=10, buckets=2, until_ms=19_999) == [(2, 0), (1, 0)]
        assert reader.rate(seconds=10, buckets=2) == [(2, 0), (1, 0)]
        assert [results for results, _ in reader.density(5)] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(("results", "stride"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_drawing_is_of_a_sample_where_there_are_more_answers_than_it_looks_at(
    opened: Journal, monkeypatch: pytest.MonkeyPatch, results: int, stride: int
) -> None:
    monkeypatch.setattr(console, "_SAMPLE_ANSWERS", 4)
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"] * results, "0")
        for index in range(results):
            answered(opened, opened.work.dispatch(seq, index, 1, 1, False, 9), seq, index)
    with ConsoleReader(opened.path) as reader:
        assert reader.picture(reader.buffer("b")).stride == stride


def test_a_retry_that_was_given_up_is_none_of_those_that_it_was_tried_again_in(opened: Journal) -> None:
    facts = {"target": "work", "return_to": "", "from_id": "cli", "collect": True, "starter_thread_id": "t"}
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"], "0")
        opened.buffers.cancel(seq, "cancelled")
        given_up = opened.buffers.add(
            buffer_id="b.retry1", thread_id="t/r", request_id="r", retry_of=seq, **facts
        )
    with opened.commit(3):
        opened.buffers.drop(given_up)
    with opened.commit(4):
        opened.buffers.add(buffer_id="b.retry1", thread_id="t/s", request_id="s", retry_of=seq, **facts)
    told = []
    for commit in (2, 3, 4):
        with ConsoleReader(opened.path, str(commit)) as reader:
            told.append(reader.retries(reader.buffer("b")))
    assert told == [["b.retry1"], [], ["b.retry1"]]


def test_what_was_spent_and_which_limits_rested_then(opened: Journal) -> None:
    change = {"rate": "1/s", "running": None, "allowed": None}
    with opened.commit(1_000):
        seq = add_buffer(opened, "b", ["x"] * 2, "0")
        dispatch = opened.work.dispatch(seq, 0, 2, 1, False, 9)
        opened.pace.spend_on_item(dispatch, 0, 0, {"usd": 2.0})
        opened.pace.note_change("api", "rest", rests_until=1_500, **change)
    with opened.commit(1_499):
        opened.pace.spend_on_item(dispatch, 1, 0, {"usd": 3.0})
    with opened.commit(1_500):
        opened.work.end_dispatch(dispatch, "answered")
    told = []
    for commit in (2, 3, 4):
        with ConsoleReader(opened.path, str(commit)) as reader:
            (spent,) = reader.spent(reader.buffer("b"))
            (limit,) = reader.limits_then()
            told.append((spent["amount"], spent["times"], limit["rests_until_ms"]))
    assert told == [(2.0, 1, 1_500), (5.0, 2, 1_500), (5.0, 2, None)]


def test_pages_of_items_in_one_state_miss_none_and_give_none_twice(opened: Journal) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"] * 240, "0")
        for index in range(0, 240, 2):
            done = opened.work.dispatch(seq, index, 1, 1, False, 9)
            answered(opened, done, seq, index, success=index % 4 == 0)
    with ConsoleReader(opened.path) as reader:
        row = reader.buffer("b")
        for state, wanted in (
            ("succeeded", range(0, 240, 4)),
            ("failed", range(2, 240, 4)),
            ("waiting", range(1, 240, 2)),
            (None, range(240)),
        ):
            seen: list[int] = []
            after: int | None = -1
            while after is not None:
                page, after = reader.items(row, after=after, state=state)
                assert 0 < len(page) <= console.PAGE_ROWS
                seen += [item["item_index"] for item in page]
            assert seen == [*wanted], state


def test_an_item_that_was_passed_on_and_answered_is_done_once(opened: Journal) -> None:
    with opened.commit(2):
        seq = add_buffer(opened, "b", ["x"] * 4, "0")
        held = opened.work.dispatch(seq, 0, 4, 1, False, 9)
        opened.work.forward_item(seq, 0, held, 1)
        opened.work.forward_item(seq, 1, held, 1)
    with opened.commit(3):
        opened.work.record_results(
            buffer_seq=seq, first_index=0, item_count=1, payloads=b"y\0", success=True, form=0,
            passed_on=False, dispatch_id=None, attempt=1, worker_pid=None, durations="", place=None,
        )  # fmt: skip
    told = []
    for commit in (2, 3):
        with ConsoleReader(opened.path, str(commit)) as reader:
            row = reader.buffer("b")
            (one,) = reader.in_hand(row)
            told.append((reader.done(row, one), reader.forwarded(row, 1)))
    assert told == [(2, {0: 1, 1: 1}), (2, {1: 1})]
