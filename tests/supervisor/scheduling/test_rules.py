"""The rules of scheduling, a case a line: no process, no file, no clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_bus.supervisor.scheduling import rules as scheduling
from durable_bus.supervisor.scheduling.rules import (
    NOT_BEGUN_S,
    STUCK_S,
    WATCHED_S,
    Load,
    Theft,
    batch_items,
    batch_wall_us,
    in_hand_items,
    regained_items,
    share_of,
    thefts,
)

MS = 1_000.0
"""Microseconds."""


# How many items make a batch


@pytest.mark.parametrize(
    ("workers", "at_engine", "milliseconds"),
    [(1, False, 40), (6, False, 40), (10, False, 60), (32, False, 80), (1, True, 150), (32, True, 150)],
)
def test_a_batch_is_longer_where_it_costs_more(workers: int, at_engine: bool, milliseconds: int) -> None:
    assert batch_wall_us(workers, at_engine=at_engine) == milliseconds * MS


@pytest.mark.parametrize(
    ("last", "item_us", "concurrency", "items"),
    [
        (None, None, 1, 1),  # new to this run
        (None, None, 100, 25),
        (1, None, 1, 1),  # nothing of it has come back yet
        (1, MS, 1, 4),
        (4, MS, 1, 16),
        (16, MS, 1, 40),  # 40 ms
        (40, MS, 1, 40),
        (40, 100 * MS, 1, 1),  # slower than a batch should take
        (1, 10.0, 1, 4),
        (1_000, 10.0, 1, 2_000),
        (1_000, 0.5, 1, 2_000),
        (25, 100 * MS, 100, 40),
    ],
)
def test_a_batch_takes_40_ms_and_grows_fourfold(
    last: int | None, item_us: float | None, concurrency: int, items: int
) -> None:
    assert batch_items(last, item_us, concurrency) == items


def test_a_batch_is_as_long_as_it_may_be_where_nobody_waits_behind_it() -> None:
    assert batch_wall_us(1, one_job=True) == batch_wall_us(64) == 80 * MS
    assert batch_wall_us(1, at_engine=True, one_job=True) == batch_wall_us(1, at_engine=True)


@pytest.mark.parametrize(
    ("workers", "wall_us"), [(1, 40_000), (6, 40_000), (8, 48_000), (14, 80_000), (64, 80_000)]
)
def test_with_many_workers_a_batch_takes_longer(workers: int, wall_us: int) -> None:
    assert scheduling.batch_wall_us(workers) == wall_us
    assert batch_items(10_000, MS, 1, wall_us) == wall_us // 1_000
    assert in_hand_items(wall_us // 1_000, 1_000, MS, 1, wall_us) == 2 * wall_us // 1_000
    assert in_hand_items(wall_us // 1_000, 1, MS, 1, wall_us) == 10, "near the end 10 ms, as ever"


@pytest.mark.parametrize(
    ("rest", "workers", "item_us", "items"),
    [
        (30, 2, MS, 15),
        (30, 3, MS, 10),
        (30, 4, MS, 8),
        (30, 16, MS, 2),
        (1, 16, MS, 2),
        (30, 16, 100.0, 20),  # less would take longer to hand out than to do
        (30, 16, None, 2),
        (30, 16, 0.0, 2),
        (0, 3, None, 1),
        (10, 0, None, 10),
        (1_000_000, 8, 10.0, 125_000),
    ],
)
def test_a_share_is_what_lets_all_end_together(
    rest: int, workers: int, item_us: float | None, items: int
) -> None:
    assert share_of(rest, workers, item_us, 1) == items


@pytest.mark.parametrize(
    ("batch", "share", "item_us", "concurrency", "items"),
    [
        (1, 10, None, 1, 2),
        (40, 1_000, MS, 1, 80),  # two batches
        (2_000, 9_999, 2.0, 1, 8_000),  # of fast items four
        (2_000, 9_999, 100.0, 1, 4_000),
        (40, 20, MS, 1, 80),
        (40, 5, MS, 1, 20),  # near the end four shares
        (40, 1, MS, 1, 10),  # or 10 ms
        (25, 1, None, 100, 200),  # async: as many as run at once, and as many again
    ],
)
def test_a_worker_has_two_batches_in_hand_and_less_near_the_end(
    batch: int, share: int, item_us: float | None, concurrency: int, items: int
) -> None:
    assert in_hand_items(batch, share, item_us, concurrency) == items


# What was taken back for something more urgent


@pytest.mark.parametrize(
    ("load", "regained", "concurrency", "items"),
    [
        (0, 0, 1, 1),  # just now: one item, to a worker that begins it at once
        (1, 0, 1, 0),
        (1, 1, 1, 1),
        (2, 3, 1, 2),
        (9, 3, 1, 0),  # it has other things to do
        (0, 100, 1, 40),
        (2, 0, 4, 2),  # async: as many as run at once
    ],
)
def test_what_was_taken_back_for_something_more_urgent_goes_out_in_parts_that_grow(
    load: int, regained: int, concurrency: int, items: int
) -> None:
    assert regained_items(40, load, regained, concurrency) == items


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 40, 2_000])
def test_no_item_goes_out_behind_urgent_ones_more_often_than_a_batch_can_be_halved(batch: int) -> None:
    """The last item of a batch, of which all is taken back but the first as soon as the last goes out."""
    times, before, load, regained = 1, batch - 1, 1, 0
    while before > 1:
        load += regained_items(batch, load, regained, 1)
        if load > before:
            times, load, regained = times + 1, 1, 0
        load, before, regained = load - 1, before - 1, regained + 1
    assert times <= math.log2(batch) + 2


# What an idle worker takes


def load(unbegun: int, **facts: object) -> Load:
    default = {"item_us": MS, "runs": True, "stalled_s": 0.0, "watched_s": 0.0}
    return Load(**{"worker_id": 1, "listener": "work", "unbegun": unbegun, **default, **facts})  # type: ignore[arg-type]


def anything(listener: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("victim", "keep"),
    [
        (load(10), 5),
        (load(11), 5),
        (load(1, item_us=100 * MS), 0),  # the only one that it has not begun, and would not soon
        (load(3), None),  # it will have begun them in 3 ms
        (load(3, watched_s=WATCHED_S), 1),  # or so it was believed
        (load(3, item_us=0.0), None),  # nobody knows
        (load(3, item_us=0.0, watched_s=WATCHED_S), 1),
        (load(10, stalled_s=STUCK_S), 0),  # its running item is stuck: all of it
        (load(10, item_us=100 * MS, stalled_s=STUCK_S), 5),  # items of this listener take longer than that
        (load(10, item_us=100 * MS, stalled_s=0.4), 0),
        (load(10, runs=False), None),  # nothing runs: it is about to begin
        (load(10, runs=False, watched_s=0.2, stalled_s=0.2), None),
        (load(1, runs=False, stalled_s=NOT_BEGUN_S), 0),
    ],
)
def test_an_idle_worker_takes_half_of_what_another_has_not_begun_or_all_from_one_that_is_stuck(
    victim: Load, keep: int | None
) -> None:
    taken, _ = thefts([anything], [victim])
    assert taken == ([] if keep is None else [Theft(1, keep)])


def test_each_idle_worker_takes_from_another_victim_the_fullest_first() -> None:
    loads = [load(10, worker_id=1), load(30, worker_id=2), load(2, worker_id=3)]
    assert thefts([anything], loads)[0] == [Theft(2, 15)]
    assert thefts([anything] * 3, loads)[0] == [Theft(2, 15), Theft(1, 5)]


def test_nobody_takes_what_it_has_no_listener_for() -> None:
    loads = [load(30, listener="other"), load(10, worker_id=2)]
    assert thefts(["work".__eq__], loads)[0] == [Theft(2, 5)]
    assert thefts(["nothing".__eq__], loads) == ([], None)


@pytest.mark.parametrize(
    ("victim", "seconds"),
    [
        (load(1), WATCHED_S),
        (load(1, watched_s=0.004), WATCHED_S - 0.004),
        (load(1, stalled_s=0.015, watched_s=0.0), STUCK_S - 0.015),
        (load(1, runs=False), NOT_BEGUN_S),
        (load(1, runs=False, stalled_s=0.2), NOT_BEGUN_S - 0.2),
    ],
)
def test_who_takes_nothing_now_looks_again_when_patience_ends(victim: Load, seconds: float) -> None:
    taken, look_again_s = thefts([anything], [victim])
    assert not taken
    assert look_again_s == pytest.approx(seconds)


def test_nobody_looks_again_when_there_is_nothing_to_take() -> None:
    assert thefts([anything], []) == ([], None)
    assert thefts([], [load(10)]) == ([], None)


@given(st.integers(1, 5_000), st.floats(0.0, 1e6), st.floats(0.0, 1.0), st.booleans())
def test_a_theft_takes_something_and_leaves_half_unless_the_victim_is_stuck(
    unbegun: int, item_us: float, stalled_s: float, runs: bool
) -> None:
    victim = load(unbegun, item_us=item_us, stalled_s=stalled_s, watched_s=stalled_s, runs=runs)
    for theft in thefts([anything], [victim])[0]:
        assert 0 <= theft.keep < unbegun
        if stalled_s < scheduling.patience_s(victim):
            assert unbegun - theft.keep <= math.ceil(unbegun / 2)


@given(st.integers(1, 2_000))
def test_no_item_is_taken_more_often_than_a_batch_can_be_halved(batch: int) -> None:
    """The last item of a batch that is taken again and again before its holder has begun any more of it."""
    times, held = 1, batch
    while True:
        taken, _ = thefts([anything], [load(held, item_us=100 * MS)])
        if not taken:
            break
        held -= taken[0].keep
        times += 1
        held -= 1  # who has taken it idled, and begins at once
        if held < 1:
            break
    assert times <= math.log2(batch) + 2
