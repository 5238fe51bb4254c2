"""Where the slices of a trace are drawn: lanes, in each of which no two of them overlap.

A viewer nests the slices of a row, and cannot draw two that overlap otherwise. So what a worker has at once
is drawn in as many rows as that takes. Times are microseconds since the epoch.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

__all__ = ["Lane", "Lanes", "at_once", "one_after_another"]


@dataclass(slots=True)
class Lane:
    """A row of the trace, and until when it is taken."""

    thread_id: int
    free_us: int = 0


class Lanes:
    """The lanes of each worker or place, made as they are needed."""

    def __init__(self, make: Callable[[Hashable, int], Lane]) -> None:
        """`make` is told whose lane it is, and the how manieth of them, from 0 on."""
        self._make = make
        self._lanes: dict[Hashable, list[Lane]] = {}

    def take(self, whose: Hashable, begin_us: int, end_us: int) -> Lane:
        """The first lane that is free then, taken until `end_us`."""
        lanes = self._lanes.setdefault(whose, [])
        lane = next((lane for lane in lanes if lane.free_us <= begin_us), None) or self.nth(whose, len(lanes))
        lane.free_us = end_us
        return lane

    def nth(self, whose: Hashable, number: int) -> Lane:
        lanes = self._lanes.setdefault(whose, [])
        while number >= len(lanes):
            lanes.append(self._make(whose, len(lanes)))
        return lanes[number]


def one_after_another(durations_us: Sequence[int], begin_us: int, end_us: int) -> list[tuple[int, int]]:
    """Begin and length of each, as early as they can have been. Where they do not all fit before `end_us`,
    because a commit's time is known to the millisecond only, all are drawn shorter.
    """
    total_us, room_us = sum(durations_us), max(0, end_us - begin_us)
    drawn, done_us = [], 0
    if total_us <= room_us:
        for duration_us in durations_us:
            drawn.append((begin_us + done_us, duration_us))
            done_us += duration_us
        return drawn
    for duration_us in durations_us:
        at_us = done_us * room_us // total_us
        done_us += duration_us
        drawn.append((begin_us + at_us, done_us * room_us // total_us - at_us))
    return drawn


def at_once(
    lanes: Lanes, whose: Hashable, durations_us: Sequence[int], begin_us: int, end_us: int
) -> list[tuple[int, int, int, int]]:
    """(begin, position, length, row) of each, as late as they can have been, from the last one backwards:
    what does not fit into a lane before the others goes into the next one.
    """
    drawn: list[tuple[int, int, int, int]] = []
    number, lane, front_us = 0, lanes.nth(whose, 0), end_us
    taken = []
    for position in range(len(durations_us) - 1, -1, -1):
        duration_us = durations_us[position]
        while front_us - duration_us < max(begin_us, lane.free_us):
            if front_us == end_us and lane.free_us <= begin_us:
                duration_us = max(0, end_us - begin_us)  # a lane of its own, and it is too long for it
                break
            number += 1
            lane, front_us = lanes.nth(whose, number), end_us
        front_us -= duration_us
        drawn.append((front_us, position, duration_us, lane.thread_id))
        taken.append(lane)
    for lane in taken:
        lane.free_us = end_us
    drawn.sort()
    return drawn
