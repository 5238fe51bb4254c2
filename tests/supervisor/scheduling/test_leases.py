"""What workers hold: positions, ranges, halves."""

from types import SimpleNamespace
from typing import Any

import pytest

from durable_bus.supervisor.entries import ItemLease, Lease, MessageLease, OpenBuffer, Range, Worker
from durable_bus.supervisor.scheduling.leases import Suspect, contiguous, give, halves, lost, quarantine
from durable_bus.supervisor.scheduling.recall import discarded
from durable_bus.supervisor.state import State


def items(lease_id: int = 7, count: int = 4, answered: int = 0, **fields: Any) -> ItemLease:
    default: dict[str, Any] = {"worker_id": 1, "listener": "work", "attempt": 1, "alone": False}
    default |= {"first_ordinal": 10, "buffer_seq": 1, "first": 40}
    return ItemLease(lease_id=lease_id, item_count=count, answered=answered, **(default | fields))


MESSAGE = MessageLease(
    lease_id=-3, worker_id=1, listener="work", attempt=1, alone=True, first_ordinal=14, message_seq=3
)


@pytest.mark.parametrize(
    ("answered", "opened"),
    [(0, [0, 1, 2, 3]), (0b1, [1, 2, 3]), (0b1010, [0, 2]), (0b0111, [3]), (0b1111, [])],
)
def test_what_was_not_answered_is_open(answered: int, opened: list[int]) -> None:
    lease = items(answered=answered)
    assert lease.open_positions() == opened
    assert lease.open_count == len(opened)
    assert lease.first_open_position() == (opened[0] if opened else None)
    assert (lease.answered == lease.all_answered) == (not opened)


@pytest.mark.parametrize(
    ("indexes", "ranges"),
    [
        ([], []),
        ([3], [(3, 1)]),
        ([3, 4, 5], [(3, 3)]),
        ([0, 2, 4], [(0, 1), (2, 1), (4, 1)]),
        ([0, 1, 5, 6, 9], [(0, 2), (5, 2), (9, 1)]),
    ],
)
def test_indexes_make_ranges(indexes: list[int], ranges: list[tuple[int, int]]) -> None:
    assert contiguous(indexes) == ranges


@pytest.mark.parametrize(
    ("suspects", "parts"),
    [
        ([], []),
        ([(items(), 2)], [[2]]),
        ([(items(), 0), (items(), 1)], [[0], [1]]),
        ([(items(), 0), (items(), 1), (items(), 3)], [[0, 1], [3]]),
        ([(items(7), 3), (items(8), 0), (items(8), 1)], [[3], [0, 1]]),
        ([(items(7), 0), (items(7), 1), (items(7), 2), (items(8), 0)], [[0, 1], [2], [0]]),
    ],
)
def test_suspects_go_out_again_in_halves(suspects: list[Suspect], parts: list[list[int]]) -> None:
    found = halves(suspects)
    assert [positions for _, positions in found] == parts
    assert sorted((lease.lease_id, at) for lease, positions in found for at in positions) == sorted(
        (lease.lease_id, at) for lease, at in suspects
    )


def test_nine_deaths_find_one_item_among_five_hundred() -> None:
    lease, guilty, deaths = items(count=500), 321, 0
    suspects: list[Suspect] = [(lease, at) for at in range(500)]
    while len(suspects) > 1:
        ((_, positions),) = [part for part in halves(suspects) if guilty in part[1]]
        suspects = [(lease, at) for at in positions]
        deaths += 1
    assert (suspects, deaths) == ([(lease, guilty)], 9)


@pytest.mark.parametrize(
    ("lease", "unanswered", "messages", "next_ordinal", "exclusive"),
    [(items(), 5, 0, 14, False), (items(alone=True), 5, 0, 14, True), (MESSAGE, 2, 1, 11, True)],
)
def test_who_is_given_a_lease_holds_it(
    lease: Lease, unanswered: int, messages: int, next_ordinal: int, exclusive: bool
) -> None:
    state = State()
    state.workers[1] = Worker(1, 100, unanswered=1, next_ordinal=10, held=(2,))
    give(state, state.workers[1], lease)
    after = state.workers[1]
    assert (after.unanswered, after.messages, after.next_ordinal) == (unanswered, messages, next_ordinal)
    assert (after.held, after.exclusive) == ((2, lease.lease_id), exclusive)
    assert state.leases == {lease.lease_id: lease}
    assert state.given == {1}


# ---- in an engine


def engine_with(*held: ItemLease, **fields: Any) -> tuple[Any, list[tuple[int, str]]]:
    """A context in which an engine holds these, and where it notes which dispatches have ended how."""
    state, ended = State(), []
    counts: dict[str, Any] = {"total": 100, "recorded": 0, "failed": 0, "cursor": 100, "collect": True}
    state.buffers[1] = OpenBuffer(1, "b1", "work", "", "", "t", "t", **counts)
    state.workers[1] = Worker(1, 100, engine="dask", places=4, listeners={}, **fields)
    for lease in held:
        give(state, state.workers[1], lease)
    work = SimpleNamespace(end_dispatch=lambda lease_id, how: ended.append((lease_id, how)))
    return SimpleNamespace(state=state, journal=SimpleNamespace(work=work)), ended


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("answered", "suspected", "positions", "waiting"),
    [
        (0, True, [0, 1, 2, 3], []),
        (0b0110, True, [0, 3], []),
        (0, False, [], [(40, 4)]),
        (0b0110, False, [], [(40, 1), (43, 1)]),
    ],
)
def test_what_an_engine_has_lost_is_suspected_or_waits_again(
    answered: int, suspected: bool, positions: list[int], waiting: list[tuple[int, int]], alone: bool
) -> None:
    lease, other = items(7, alone=alone, answered=answered), items(8, first=60)
    context, ended = engine_with(lease) if alone else engine_with(other, lease)
    open_count = context.state.workers[1].unanswered - answered.bit_count()
    context.state.workers.change(1, unanswered=open_count)
    assert lost(context, lease, suspected=suspected) == [(lease, position) for position in positions]
    after = context.state.workers[1]
    assert (after.held, after.unanswered, after.exclusive) == (
        () if alone else (8,),
        0 if alone else 4,
        False,
    )
    assert 7 not in context.state.leases
    assert ended == [(7, "died" if suspected else "returned")]
    assert context.state.buffers[1].returned == tuple(Range(*one, 1, alone) for one in waiting)


def test_another_lease_that_must_be_alone_is_still_so() -> None:
    context, _ = engine_with(items(7), items(8, count=1, first=60, alone=True))
    lost(context, context.state.leases[7], suspected=True)
    assert context.state.workers[1].exclusive


def test_what_an_engine_has_lost_together_goes_out_again_in_halves_alone() -> None:
    context, _ = engine_with(items(7), items(8, first=60))
    suspects: list[Suspect] = []
    for lease in [*context.state.leases.values()]:
        suspects += lost(context, lease, suspected=True)
    quarantine(context, suspects)
    assert context.state.buffers[1].returned == (Range(40, 4, 1, alone=True), Range(60, 4, 1, alone=True))


def test_what_was_thrown_away_stays_so_whatever_is_said_of_an_older_batch() -> None:
    """An engine ends its batches in any order: one that has thrown away what rests may answer after another
    one was thrown away unread. Else it would seem that the process has something left to begin.
    """
    context, _ = engine_with(items(8, first_ordinal=4, first=60))
    context.state.workers.change(1, next_ordinal=12)
    discarded(context, context.state.workers[1], 8, 12)
    discarded(context, context.state.workers[1], 2, 4)
    assert context.state.workers[1].begun(8) == 12
    assert context.state.workers[1].unanswered == 4
