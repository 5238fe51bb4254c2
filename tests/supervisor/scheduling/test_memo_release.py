"""Items that have waited for an equal one, and go on together."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from durable_bus.payloads.settings import ListenerSettings
from durable_bus.supervisor.entries import ItemLease, OpenBuffer, Range
from durable_bus.supervisor.scheduling import memo
from durable_bus.supervisor.state import State

BUFFERS = (1, 2)
BY_X = (b"x", "v1")


def state_with(held: dict[tuple[int, Range], bytes]) -> State:
    state = State()
    state.listeners = {"work": ListenerSettings("work", 1.0, 1, 0.0, 1, False, None, memo="v1")}
    for seq in BUFFERS:
        fields: dict[str, Any] = {"total": 20_000, "recorded": 0, "failed": 0, "cursor": 0, "collect": True}
        state.buffers[seq] = OpenBuffer(seq, f"b{seq}", "work", "", "", "t", "t", **fields)
    for key, digest in held.items():
        state.held_equal[key] = (digest, "v1")
    return state


def release(state: State, *answered: bytes, free: int = 1) -> None:
    """`answered`: what an equal item has an answer to. `free`: how much limits let through."""
    work = SimpleNamespace(memos=lambda digests: dict.fromkeys(set(digests) & {*answered}, 7))
    context = SimpleNamespace(state=state, journal=SimpleNamespace(now_ms=1_000, work=work))
    memo.release(context, SimpleNamespace(free=lambda listener: free))  # type: ignore[arg-type]


def waiting(first: int, count: int = 1, attempt: int = 1) -> Range:
    return Range(first, count, attempt, alone=False)


def test_neighbours_go_back_as_one_range_whatever_they_have_waited_for() -> None:
    held = {(1, waiting(first)): b"x" if first % 2 else b"y" for first in reversed(range(10_000))}
    state = state_with(held)
    release(state, b"x", b"y")
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
    release(state, b"x")
    assert state.buffers[1].returned == (waiting(0, 2), waiting(2, attempt=2), waiting(4, 2))
    assert state.buffers[2].returned == (waiting(5),)


def test_what_waits_for_something_in_hand_goes_on_waiting() -> None:
    state = state_with({(1, waiting(1)): b"x", (1, waiting(2)): b"y"})
    lease = {"worker_id": 1, "listener": "work", "attempt": 1, "alone": False, "first_ordinal": 0}
    state.leases[7] = ItemLease(lease_id=7, buffer_seq=1, memo=(b"x",), **lease)  # type: ignore[arg-type]
    release(state)
    assert dict(state.held_equal) == {(1, waiting(1)): BY_X}
    assert state.buffers[1].returned == (waiting(2),)


def test_without_an_answer_one_of_each_buffer_goes_on_and_the_others_wait_for_it() -> None:
    held = {(1, waiting(3, 5)): b"x", (1, waiting(9)): b"x", (2, waiting(0)): b"x", (2, waiting(1)): b"y"}
    state = state_with(held)
    release(state)
    assert state.buffers[1].returned == (waiting(3),)
    assert state.buffers[2].returned == (waiting(0, 2),)
    assert dict(state.held_equal) == {(1, waiting(4, 4)): BY_X, (1, waiting(9)): BY_X}


@pytest.mark.parametrize("text", ["v2", None])
def test_all_go_on_when_the_newest_code_has_another_memo_text(text: str | None) -> None:
    """Else one of them went on in each turn, and no turn followed when that one was given an answer."""
    state = state_with({(1, waiting(3, 5)): b"x", (1, waiting(9)): b"x"})
    assert state.listeners is not None
    state.listeners = {"work": msgspec.structs.replace(state.listeners["work"], memo=text)}
    release(state)
    assert state.buffers[1].returned == (waiting(3, 5), waiting(9))
    assert dict(state.held_equal) == {}


def test_one_more_that_goes_on_joins_what_came_back_before_but_not_what_must_be_alone() -> None:
    state = state_with({(1, waiting(3, 5)): b"x", (2, waiting(1)._replace(alone=True)): b"y"})
    state.give_back(1, [waiting(0, 3)])
    state.give_back(2, [waiting(0)._replace(alone=True)])
    release(state)
    assert state.buffers[1].returned == (waiting(0, 4),)
    assert state.buffers[2].returned == tuple(waiting(first)._replace(alone=True) for first in range(2))


@pytest.mark.parametrize(
    ("free", "changes"),
    [(0, {}), (1, {"paused": True}), (1, {"not_before": 1_001}), (1, {"not_before": 1_000})],
)
def test_of_a_buffer_of_which_nothing_may_start_nothing_goes_on(free: int, changes: dict[str, Any]) -> None:
    state = state_with({(1, waiting(3, 5)): b"x"})
    state.buffers.change(1, **changes)
    release(state, free=free)
    assert bool(state.buffers[1].returned) == (changes == {"not_before": 1_000})
