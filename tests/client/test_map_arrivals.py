"""What `map` gives next, of results that are recorded in any order."""

from typing import Any

import pytest

from durable_bus.client.mapping import Arrivals
from durable_bus.payloads.messages import Result


class Recorded:
    """A reader that has a page of results for each answer."""

    def __init__(self, *pages: list[int]) -> None:
        self._pages = pages

    def newest_answer(self, buffer_seq: int) -> int:
        return 0

    def results_after(self, buffer_seq: int, after: int) -> tuple[list[Result], int]:
        if after == len(self._pages):
            return [], after
        return [Result(index, True, "", False, None, 1, 0.0) for index in self._pages[after]], after + 1


def given(ordered: bool, *pages: list[int]) -> list[list[int]]:
    """What is given until nothing is new."""
    reader: Any = Recorded(*pages)
    arrivals = Arrivals(reader, 1, 0, ordered=ordered)
    read = sum(map(len, pages))
    return [[result.index for result in page] for page in iter(lambda: arrivals.page(read), [])]


def test_a_page_whose_turn_comes_later_is_no_end() -> None:
    """All may be recorded while only that page was read: nothing happens then that one could wait for."""
    assert given(True, [1, 2], [3], [0]) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("ordered", [True, False])
def test_pages_that_are_in_order_are_given_as_they_are(ordered: bool) -> None:
    assert given(ordered, [0, 1], [2]) == [[0, 1], [2]]


def test_in_the_order_of_recording_nobody_waits() -> None:
    assert given(False, [2], [0, 1]) == [[2], [0, 1]]
