"""When `map` reads on, told by a feed and arrivals that are made up."""

from typing import Any

from durable_bus.client.mapped_values import _ROOM_MIN, _arriving
from durable_bus.client.stream import AHEAD


class Reads:
    """In the place of a feed: all that it may it reads at once."""

    def __init__(self, items: int) -> None:
        self.left = items
        self.read = 0
        self.exhausted = False
        self.rooms: list[int] = []

    @property
    def taken(self) -> int:
        return self.read

    def some(self, room: int) -> None:
        self.rooms.append(room)
        read = min(room, self.left)
        self.left -= read
        self.read += read
        self.exhausted = read < room

    def check(self) -> None:
        pass


class Gives:
    """In the place of arrivals: so many are done at each look."""

    def __init__(self, feed: Reads, at_once: int) -> None:
        self._feed, self._at_once = feed, at_once
        self.given = 0

    def counts(self) -> tuple[int, int, int, bool]:
        return self._feed.read, self.given, 0, self._feed.exhausted and self.given == self._feed.read

    def runs(self, taken: int) -> list[Any]:
        given = min(self._at_once, taken - self.given)
        self.given += given
        return [object()] if given else []


class Waits:
    def wait_until(self, done: Any, buffer_id: str, deadline_s: float) -> None:
        assert done(), "each look finds more"


def test_what_is_full_is_not_filled_by_the_few_that_the_next_look_finds() -> None:
    """Also when it got full and some were done in one look: it was never seen to be full."""
    feed = Reads(AHEAD + 3_000)
    arrivals = Gives(feed, 145)
    for _ in _arriving(Waits(), feed, arrivals):  # type: ignore[arg-type]
        pass
    assert arrivals.given == feed.read == AHEAD + 3_000
    assert feed.rooms[0] == AHEAD
    assert min(feed.rooms[1:]) >= _ROOM_MIN
