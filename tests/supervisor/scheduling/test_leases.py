"""What workers hold: positions, ranges, halves."""

from typing import Any

import pytest

from durable_bus.supervisor.scheduling.leases import Suspect, contiguous, give, halves
from durable_bus.supervisor.state import ItemLease, Lease, MessageLease, State, Worker


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
