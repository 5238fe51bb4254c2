"""What `map` gives next, of results that are recorded in any order."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_bus.client.arrivals import Arrivals
from durable_bus.journal.results import Run
from durable_bus.payloads.messages import Result


class Recorded:
    """A reader that has a run for each answer. The first `before` of them were there at the beginning."""

    def __init__(self, *answers: list[int], before: int = 0) -> None:
        self._answers = answers
        self._before = before

    def newest_answer(self, buffer_seq: int) -> int:
        return self._before

    def pages(self, buffer_seq: int) -> Iterator[list[Result]]:
        """In item order. What is recorded while they are read is among them."""
        for answer in sorted(self._answers):
            yield [Result(index, True, str(index), False, None, 1, 0.0) for index in answer]

    def runs_after(self, buffer_seq: int, after: int) -> tuple[list[Run], int]:
        if after == len(self._answers):
            return [], after
        answer = self._answers[after]
        return [Run(answer[0], [*map(str, answer)], 0)], after + 1


def told(arrivals: Arrivals, taken: int) -> list[list[int]]:
    """What is given until nothing is new."""
    return [
        [int(payload) for run in runs for payload in run.payloads]
        for runs in iter(lambda: arrivals.runs(taken), [])
    ]


def arrivals_of(*answers: list[int], ordered: bool, before: int = 0, received: int | None = None) -> Arrivals:
    """`received`: how many items were there at the beginning; None: all."""
    reader: Any = Recorded(*answers, before=before)
    return Arrivals(reader, 1, sum(map(len, answers)) if received is None else received, ordered=ordered)


def test_a_run_whose_turn_comes_later_is_no_end() -> None:
    """All may be recorded while only that run was read: nothing happens then that one could wait for."""
    assert told(arrivals_of([1, 2], [3], [0], ordered=True), 4) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("ordered", [True, False])
def test_runs_that_are_in_order_are_given_as_they_are(ordered: bool) -> None:
    assert told(arrivals_of([0, 1], [2], ordered=ordered), 3) == [[0, 1], [2]]


def test_in_the_order_of_recording_nobody_waits() -> None:
    assert told(arrivals_of([2], [0, 1], ordered=False), 3) == [[2], [0, 1]]


@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_recorded_before_waits_until_its_item_was_read(ordered: bool) -> None:
    arrivals = arrivals_of([0, 1, 2, 3], ordered=ordered, before=1)
    assert told(arrivals, 2) == [[0, 1]]
    assert told(arrivals, 4) == [[2, 3]]


@st.composite
def answers(draw: st.DrawFn) -> list[list[int]]:
    """Ranges of items, each answered once, in any order."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    starts = [sum(lengths[:position]) for position in range(len(lengths))]
    ranges = [[*range(start, start + length)] for start, length in zip(starts, lengths, strict=True)]
    return draw(st.permutations(ranges))


@given(answers(), st.booleans(), st.data())
@settings(deadline=None)
def test_each_is_given_once_however_they_come(
    recorded: list[list[int]], ordered: bool, data: st.DataObject
) -> None:
    before = data.draw(st.integers(0, len(recorded)))
    total = sum(map(len, recorded))
    there = max((answer[-1] + 1 for answer in recorded[:before]), default=0)
    received = data.draw(st.integers(there, total))
    arrivals = arrivals_of(*recorded, ordered=ordered, before=before, received=received)
    seen: list[int] = []
    for taken in sorted([*data.draw(st.lists(st.integers(0, total), max_size=3)), total]):
        new = [index for one in told(arrivals, taken) for index in one]
        assert all(index < taken for index in new)
        seen += new
    assert sorted(seen) == [*range(total)]
    assert not ordered or seen == sorted(seen)


def test_one_that_was_slow_is_given_though_very_many_behind_it_were_recorded_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("durable_bus.client.arrivals._HELD_MAX", 2)
    behind = [[index] for index in range(1, 9)]
    arrivals = arrivals_of(*behind, [0], ordered=True, before=len(behind))
    assert [index for one in told(arrivals, 9) for index in one] == [*range(9)]
