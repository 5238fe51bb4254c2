"""Whose turn it is: which buffer, which worker, which range."""

from typing import Any

import pytest
from msgspec.structs import replace

from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.entries import OpenBuffer, Range, Worker
from durable_bus.supervisor.scheduling.turns import (
    NEW_AHEAD_OF,
    able_to_get,
    freest,
    in_turn,
    level_of,
    load_of,
    reserved,
    take_new,
    take_returned,
)
from durable_bus.wire.slot import ORDINAL_MAX


def settings(name: str, concurrency: int) -> ListenerSettings:
    return ListenerSettings(name, 1.0, 1, 0.0, concurrency, concurrency > 1, None)


def engine(worker_id: int, *names: str, places: int = 4, **fields: Any) -> Worker:
    return worker(worker_id, *names, engine="dask", places=places, **fields)


def beside(worker_id: int, *names: str, **fields: Any) -> Worker:
    """The worker that gets the messages where items run in an engine."""
    return worker(worker_id, *names, gets_items=False, **fields)


def worker(worker_id: int, *names: str, concurrency: int = 1, **fields: Any) -> Worker:
    listeners = {name: settings(name, concurrency) for name in names}
    return Worker(worker_id, 100 + worker_id, listeners=listeners, **fields)


def buffer(seq: int, target: str = "work", **fields: Any) -> OpenBuffer:
    default: dict[str, Any] = {"total": 10, "recorded": 0, "failed": 0, "cursor": 0, "collect": True}
    return OpenBuffer(seq, f"b{seq}", target, "", "", "t", "t", **(default | fields))


ALONE = Range(0, 1, 2, alone=True)
NORMAL = Range(5, 4, 1, alone=False)


# ---- which buffer


@pytest.mark.parametrize(
    ("granted", "grants", "order"),
    [
        ([0, 0, 0], 0, [0, 1, 2]),
        ([3, 1, 2], 3, [1, 2, 0]),
        ([1, 2, 0], 2, [2, 0, 1]),
        ([5, 0, 0], 5, [1, 2, 0]),
        ([1, 0], NEW_AHEAD_OF, [1, 0]),
        ([1, 0], NEW_AHEAD_OF + 2, [0, 1]),
        ([10, 0, 1], NEW_AHEAD_OF + 5, [2, 1, 0]),
    ],
)
def test_who_has_waited_longest_is_first_and_a_new_one_goes_ahead_unless_others_starve(
    granted: list[int], grants: int, order: list[int]
) -> None:
    buffers = [buffer(seq, granted=when) for seq, when in enumerate(granted)]
    assert in_turn(buffers, {one.seq: level_of(one, 0.0) for one in buffers}, grants) == order


def test_of_new_ones_the_smallest_is_first_and_who_has_waited_longer_before_it() -> None:
    totals = {1: 500, 2: 7, 3: 1, 4: 500, 5: 1}
    buffers = [buffer(seq, total=total, granted=9 if seq == 4 else 0) for seq, total in totals.items()]
    assert in_turn(buffers, dict.fromkeys(totals, 0), 9) == [3, 5, 2, 1, 4]
    assert in_turn(buffers, {**dict.fromkeys(totals, 0), 1: 1}, 9) == [1, 3, 5, 2, 4]


@pytest.mark.parametrize(
    ("fields", "has_work"),
    [
        ({}, True),
        ({"cursor": 10}, False),
        ({"cursor": 10, "returned": (NORMAL,)}, True),
        ({"cursor": 10, "retry_at": 1_000}, True),
        ({"cursor": 10, "retry_at": 1_001}, False),
        ({"paused": True}, False),
        ({"paused": True, "returned": (NORMAL,), "retry_at": 1}, False),
    ],
)
def test_a_buffer_may_have_work_when_something_is_left_came_back_or_is_due(
    fields: dict[str, Any], has_work: bool
) -> None:
    assert buffer(1, **fields).may_have_work(1_000) == has_work


@pytest.mark.parametrize(
    ("fields", "rest"),
    [({}, 10), ({"cursor": 4}, 6), ({"cursor": 10, "returned": (NORMAL, ALONE)}, 5), ({"cursor": 10}, 0)],
)
def test_the_rest_of_a_buffer_is_what_nobody_holds(fields: dict[str, Any], rest: int) -> None:
    assert buffer(1, **fields).rest == rest


# ---- which worker


@pytest.mark.parametrize(
    ("fields", "may_get"),
    [
        ({}, True),
        ({"unanswered": 5}, True),
        ({"leaving": True}, False),
        ({"limit": 7}, False),
        ({"exclusive": True}, False),
    ],
)
def test_a_worker_may_get_something_unless_it_leaves_is_recalled_or_holds_what_is_alone(
    fields: dict[str, Any], may_get: bool
) -> None:
    assert worker(1, "work", **fields).may_get == may_get
    assert able_to_get([worker(1, "work", **fields), worker(2, "other")], "work") == int(may_get)


def test_a_worker_that_has_not_reported_gets_nothing() -> None:
    assert not Worker(1, 100).may_get
    assert able_to_get([Worker(1, 100)], "work") == 0


@pytest.mark.parametrize(
    ("workers", "able"),
    [
        ([engine(1, "work"), beside(2, "work")], 4),
        ([engine(1, "work", places=1)], 1),
        ([engine(1, "work", exclusive=True), beside(2, "work")], 0),
        ([engine(1, "other"), beside(2, "work")], 0),
        ([engine(1, "work", leaving=True), engine(2, "work", places=8)], 8),
        # Before it has said how many places it has, it has not said what it runs either.
        ([Worker(1, 100, engine="dask"), beside(2, "work")], 0),
    ],
)
def test_each_place_of_an_engine_counts_and_the_worker_beside_it_does_not(
    workers: list[Worker], able: int
) -> None:
    assert able_to_get(workers, "work") == able


@pytest.mark.parametrize(
    ("unanswered", "next_ordinal", "begun", "load"),
    [(0, 0, 0, 0), (5, 10, 5, 5), (5, 10, 8, 3), (5, 10, 10, 1), (5, 10, 0, 5)],
)
def test_what_a_sync_worker_has_begun_and_not_reported_may_be_done(
    unanswered: int, next_ordinal: int, begun: int, load: int
) -> None:
    one = worker(1, "work", unanswered=unanswered, next_ordinal=next_ordinal)
    assert load_of(one, begun) == load
    assert load_of(replace(one, is_async=True), begun) == unanswered


@pytest.mark.parametrize(
    ("returned", "alone_listeners", "workers", "kept_free"),
    [
        ((), (), [worker(1, "work")], None),
        ((NORMAL,), (), [worker(1, "work")], None),
        ((ALONE,), (), [worker(1, "work", unanswered=3), worker(2, "work", unanswered=1)], 2),
        ((ALONE,), (), [worker(1, "other")], None),
        ((ALONE,), (), [worker(1, "work", leaving=True), worker(2, "work", unanswered=9)], 2),
        ((), ("told",), [worker(1, "work"), worker(2, "told")], 2),
        ((), ("told",), [worker(1, "work")], None),
        ((ALONE,), (), [engine(1, "work", unanswered=7), beside(2, "work")], 1),
        ((ALONE,), (), [engine(1, "work", exclusive=True), beside(2, "work")], None),
        ((ALONE,), (), [engine(1, "work", leaving=True, unanswered=7), engine(2, "work", unanswered=9)], 2),
        ((), ("told",), [engine(1, "told"), beside(2, "told")], None),
        ((ALONE,), ("told",), [engine(1, "told", "work"), beside(2, "told", "work")], 1),
    ],
)
def test_a_worker_is_kept_free_for_what_must_be_alone(
    returned: tuple[Range, ...],
    alone_listeners: tuple[str, ...],
    workers: list[Worker],
    kept_free: int | None,
) -> None:
    assert reserved(workers, [buffer(1, returned=returned)], alone_listeners) == kept_free


def test_nobody_is_kept_free_for_a_buffer_that_is_paused() -> None:
    assert reserved([worker(1, "work")], [buffer(1, returned=(ALONE,), paused=True)], ()) is None


@pytest.mark.parametrize(
    ("workers", "alone", "chosen"),
    [
        ([], False, None),
        ([worker(1, "other")], False, None),
        ([worker(1, "work", unanswered=2), worker(2, "work", unanswered=1)], False, 2),
        ([worker(1, "work", unanswered=2, messages=2), worker(2, "work", unanswered=9)], False, 2),
        ([worker(1, "work", unanswered=2, messages=2)], False, None),
        ([worker(1, "work", unanswered=9, messages=9, concurrency=5)], False, 1),
        ([worker(1, "work", unanswered=10, messages=10, concurrency=5)], False, None),
        ([worker(1, "work", unanswered=1), worker(2, "work")], True, 2),
        ([worker(1, "work", unanswered=1)], True, None),
        ([worker(1, "work", exclusive=True), worker(2, "work", limit=3)], False, None),
        ([worker(1, "work", leaving=True)], False, None),
        ([engine(1, "work"), beside(2, "work", unanswered=1, messages=1)], False, 2),
        ([engine(1, "work"), beside(2, "work", unanswered=2, messages=2)], False, None),
        ([engine(1, "work"), beside(2, "work", unanswered=1, messages=1)], True, None),
        ([engine(1, "work", unanswered=7), beside(2, "work")], True, 2),
        ([engine(1, "work"), beside(2, "other")], False, None),
    ],
)
def test_a_message_goes_to_who_comes_to_it_first(
    workers: list[Worker], alone: bool, chosen: int | None
) -> None:
    found = freest(workers, "work", alone=alone)
    assert (found and found.worker_id) == chosen


@pytest.mark.parametrize(("started", "discarded_to", "begun"), [(3, 0, 3), (3, 7, 7), (9, 7, 9)])
def test_what_was_thrown_away_counts_as_begun(started: int, discarded_to: int, begun: int) -> None:
    one = worker(1, "work", discarded_to=discarded_to)
    assert one.begun(started) == begun
    assert one.limit == ORDINAL_MAX


# ---- which range


@pytest.mark.parametrize(
    ("returned", "most", "may_be_alone", "must_be_alone", "taken", "left"),
    [
        ((), 9, True, False, None, ()),
        ((NORMAL,), 9, True, False, NORMAL, ()),
        ((NORMAL,), 9, False, False, NORMAL, ()),
        ((NORMAL,), 1, True, False, Range(5, 1, 1, False), (Range(6, 3, 1, False),)),
        ((NORMAL,), 4, True, False, NORMAL, ()),
        ((NORMAL,), 9, True, True, None, (NORMAL,)),
        ((ALONE,), 9, True, False, ALONE, ()),
        ((ALONE,), 9, False, False, None, (ALONE,)),
        ((ALONE, NORMAL), 9, False, False, NORMAL, (ALONE,)),
        ((NORMAL, ALONE), 9, True, True, ALONE, (NORMAL,)),
        ((NORMAL, NORMAL), 2, True, False, Range(5, 2, 1, False), (NORMAL, Range(7, 2, 1, False))),
    ],
)
def test_what_came_back_goes_out_first_and_what_is_alone_only_to_an_empty_hand(
    returned: tuple[Range, ...],
    most: int,
    may_be_alone: bool,
    must_be_alone: bool,
    taken: Range | None,
    left: tuple[Range, ...],
) -> None:
    before = buffer(1, returned=returned)
    found = take_returned(before, most, may_be_alone=may_be_alone, must_be_alone=must_be_alone)
    assert (found and found.range) == taken
    assert (before if found is None else found.buffer).returned == left


def test_a_range_that_must_be_alone_is_not_cut() -> None:
    suspects = Range(0, 8, 1, alone=True)
    found = take_returned(buffer(1, returned=(suspects,)), 2, may_be_alone=True, must_be_alone=True)
    assert found is not None
    assert (found.range, found.buffer.returned) == (suspects, ())


def test_limits_cut_also_what_must_be_alone() -> None:
    suspects = Range(0, 8, 1, alone=True)
    found = take_returned(
        buffer(1, returned=(suspects,)), 2, may_be_alone=True, must_be_alone=True, most_alone=3
    )
    assert found is not None
    assert found.range == suspects._replace(item_count=3)
    assert found.buffer.returned == (suspects._replace(first=3, item_count=5),)


@pytest.mark.parametrize(
    ("cursor", "most", "taken"), [(0, 3, (0, 3)), (8, 3, (8, 2)), (0, 99, (0, 10)), (10, 3, None)]
)
def test_new_items_go_out_in_order(cursor: int, most: int, taken: tuple[int, int] | None) -> None:
    found = take_new(buffer(1, cursor=cursor), most)
    if taken is None:
        assert found is None
    else:
        assert found is not None
        assert found.range == Range(*taken, 1, alone=False)
        assert found.buffer.cursor == sum(taken)
