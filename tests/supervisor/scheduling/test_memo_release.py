"""Items that have waited for an equal one, and go on together."""

from typing import Any

from durable_bus.supervisor.scheduling import memo
from durable_bus.supervisor.state import ItemLease, OpenBuffer, Range, State

BUFFERS = (1, 2)


def state_with(held: dict[tuple[int, Range], bytes]) -> State:
    state = State()
    for seq in BUFFERS:
        fields: dict[str, Any] = {"total": 20_000, "recorded": 0, "failed": 0, "cursor": 0, "collect": True}
        state.buffers[seq] = OpenBuffer(seq, f"b{seq}", "work", "", "", "t", "t", **fields)
    for key, digest in held.items():
        state.held_equal[key] = digest
    return state


def waiting(first: int, count: int = 1, attempt: int = 1) -> Range:
    return Range(first, count, attempt, alone=False)


def test_neighbours_go_back_as_one_range_whatever_they_have_waited_for() -> None:
    held = {(1, waiting(first)): b"x" if first % 2 else b"y" for first in reversed(range(10_000))}
    state = state_with(held)
    memo.release(state)
    assert state.buffers[1].returned == (waiting(0, 10_000),)
    assert dict(state.held_equal) == {}


def test_other_attempts_gaps_and_other_buffers_stay_ranges_of_their_own() -> None:
    places = [
        (1, waiting(0, 2)),
        (1, waiting(2, attempt=2)),
        (1, waiting(4)),
        (2, waiting(5)),
        (1, waiting(5)),
    ]
    state = state_with(dict.fromkeys(places, b"x"))
    memo.release(state)
    assert state.buffers[1].returned == (waiting(0, 2), waiting(2, attempt=2), waiting(4, 2))
    assert state.buffers[2].returned == (waiting(5),)


def test_what_waits_for_something_in_hand_goes_on_waiting() -> None:
    state = state_with({(1, waiting(1)): b"x", (1, waiting(2)): b"y"})
    lease = {"worker_id": 1, "listener": "work", "attempt": 1, "alone": False, "first_ordinal": 0}
    state.leases[7] = ItemLease(lease_id=7, buffer_seq=1, memo=(b"x",), **lease)  # type: ignore[arg-type]
    memo.release(state)
    assert dict(state.held_equal) == {(1, waiting(1)): b"x"}
    assert state.buffers[1].returned == (waiting(2),)
