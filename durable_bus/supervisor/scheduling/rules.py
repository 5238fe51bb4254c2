"""The rules of scheduling: how many items make a batch, and what an idle worker takes from a busy one.

Functions of what is seen, and nothing else: no clock, no slot, no journal.

Three rules keep every recall useful. What was handed out in this turn makes nobody a victim. A theft takes
at most half of what its victim has not begun, rounded up; all of it only from one that is stuck. Without
them a range went from one idle worker to the next, each time before it could be begun: with three workers and
30 items for seconds, a commit and an fsync a hop. And what was taken back for something more urgent goes out
again in small parts (`regained_items`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = [
    "BATCH_WALL_US",
    "THEFT_WORTH_US",
    "WATCHED_S",
    "Load",
    "Theft",
    "batch_items",
    "batch_wall_us",
    "in_hand_items",
    "patience_s",
    "regained_items",
    "share_of",
    "thefts",
]

BATCH_WALL_US = 40_000
_BATCH_WALL_US_MAX = 80_000
_WORKER_WALL_US = 6_000
ENGINE_BATCH_WALL_US = 150_000
BATCH_ITEMS_MAX = 2_000
_GROWTH = 4
SHARE_WALL_US = 2_000
"""A share is at least what takes this long: a dispatch of less costs more than it spreads."""
_LAST_IN_HAND_WALL_US = 10_000
"""Near the end of a buffer a worker holds what takes this long, or four shares: enough to bridge a turn."""


# ---- how many items make a batch


def batch_wall_us(workers: int, *, at_engine: bool = False, one_job: bool = False) -> int:
    """How long a batch should take: 40 ms, and with many workers longer. A batch costs the supervisor half a
    millisecond and more, its worker 0.2, whatever is in it. With 32 workers those of 40 ms took half a core.
    An engine spends some milliseconds on each, and what its workers do meanwhile is not seen.

    `one_job`: no other one waits for its turn. Two workers do 1.5 % more items of 1 ms by it.
    """
    if at_engine:
        return ENGINE_BATCH_WALL_US
    if one_job:
        return _BATCH_WALL_US_MAX
    return min(max(BATCH_WALL_US, workers * _WORKER_WALL_US), _BATCH_WALL_US_MAX)


def aim_items(item_us: float | None, concurrency: int, wall_us: int = BATCH_WALL_US) -> int | None:
    """How many items take so long; None when nobody knows yet how long one takes."""
    return None if item_us is None else int(wall_us * concurrency / max(item_us, 1.0))


def batch_items(
    last: int | None, item_us: float | None, concurrency: int, wall_us: int = BATCH_WALL_US
) -> int:
    """How many items to hand out at once: 1 for a listener that is new to this run (a quarter of its
    concurrency, if that is more), then at most four times more than last time.
    """
    size = max(1, concurrency // 4) if last is None else last
    aim = aim_items(item_us, concurrency, wall_us)
    return size if aim is None else max(1, min(aim, size * _GROWTH, BATCH_ITEMS_MAX))


def share_of(rest: int, workers: int, item_us: float | None, concurrency: int) -> int:
    """The most that one of `workers` should get at once of a buffer's rest, so that they end together."""
    floor = SHARE_WALL_US * concurrency / max(item_us, 1.0) if item_us else 1
    return max(-(-rest // max(workers, 1)), int(floor), 1)


def in_hand_items(
    batch: int, share: int, item_us: float | None, concurrency: int, wall_us: int = BATCH_WALL_US
) -> int:
    """How many items a worker may have in hand: two batches, or of items so fast that a batch is shorter than
    it aims at, as many as take two such times, at most four batches. Less when the buffer's rest is small.

    With two batches of 2,000 items that take 2 us each, a worker ran dry while the supervisor waited for a
    core or for the disk: 5 % (200,000 items).
    """
    aim = aim_items(item_us, concurrency, wall_us) or batch
    most = min(2 * max(aim, batch), 4 * batch)
    if share < batch:
        most = min(most, max(4 * share, aim * _LAST_IN_HAND_WALL_US // wall_us))
    return max(2 * concurrency, most)


def regained_items(batch: int, load: int, regained: int, concurrency: int) -> int:
    """How many items of a batch to hand out after some of their buffer were taken back for what is more
    urgent: a worker holds as many as run at once, and one more for each that was answered since (`regained`).

    Where a limit lets an urgent item through now and then, each took back all that had just gone out again
    behind the one before it. By this rule an item waits at half its place when it goes out again.
    """
    return max(0, min(batch, concurrency + regained - load))


# ---- what an idle worker takes from a busy one

THEFT_WORTH_US = 5_000
"""What a worker has not begun is worth taking when it would wait this long."""
WATCHED_S = 0.01
"""Or when it has been there for so long while somebody idled, whatever items were believed to take."""
STUCK_S = 0.02
"""A worker that has begun nothing for so long, and four times as long as an item takes, is stuck."""
_STUCK_ITEMS = 4
NOT_BEGUN_S = 0.25
"""The same where nothing runs: it may wait for a processor."""


class Load(NamedTuple):
    """A worker that holds something it has not begun, as it is seen while another one idles."""

    worker_id: int
    listener: str
    """Of what it would begin last."""
    unbegun: int
    item_us: float
    """How long an item takes by experience, divided by how many run at once. 0: nobody knows."""
    runs: bool
    """Something runs in it. If not, it is about to begin, or stopped."""
    stalled_s: float
    """For how long it has been seen to begin nothing."""
    watched_s: float
    """For how long somebody has idled beside it."""


class Theft(NamedTuple):
    """Tell a worker to begin only the next `keep` of what it holds; the rest goes back to its buffer."""

    worker_id: int
    keep: int


def patience_s(load: Load) -> float:
    """After which time all that it has not begun is taken."""
    if not load.runs:
        return NOT_BEGUN_S
    return max(STUCK_S, _STUCK_ITEMS * load.item_us / 1e6)


def _theft_from(load: Load) -> Theft | None:
    if load.stalled_s >= patience_s(load):
        return Theft(load.worker_id, 0)
    worth = load.unbegun * load.item_us >= THEFT_WORTH_US or load.watched_s >= WATCHED_S
    if load.runs and worth:
        return Theft(load.worker_id, load.unbegun // 2)
    return None


def thefts(idle: Sequence[Callable[[str], bool]], loads: Sequence[Load]) -> tuple[list[Theft], float | None]:
    """What to take for idle workers, each of which is said by what listeners it has: at most one theft for
    each, and one from each victim, those with the most to do first.

    Also in how many seconds to look again, because somebody's patience ends; None: not by itself.
    """
    victims = sorted(loads, key=lambda load: load.unbegun * max(load.item_us, 1.0), reverse=True)
    taken: list[Theft] = []
    look_again_s: list[float] = []
    for knows in idle:
        for load in [one for one in victims if knows(one.listener)]:
            theft = _theft_from(load)
            if theft is not None:
                taken.append(theft)
                victims.remove(load)
                break
            waits_s = [patience_s(load) - load.stalled_s]
            if load.runs:
                waits_s.append(WATCHED_S - load.watched_s)
            look_again_s.append(max(min(waits_s), 0.0))
    return taken, min(look_again_s, default=None)
