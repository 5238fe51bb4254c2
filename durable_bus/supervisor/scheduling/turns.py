"""Whose turn it is: which buffer, which worker, which range. Functions of values, and nothing else."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from durable_bus.supervisor.entries import OpenBuffer, Range, Worker
from durable_bus.wire.slot import ORDINAL_MAX

__all__ = [
    "Taken",
    "able_to_get",
    "behind_its_level",
    "freest",
    "in_turn",
    "level_of",
    "load_of",
    "reserved",
    "take_new",
    "take_returned",
]

NEW_AHEAD_OF = 1_000
"""Whoever has waited for so many batches of others goes ahead of a new buffer."""


AGE_S = 10.0
"""Whoever waits gains a step of priority in so long."""
PRIORITY_MAX = 10


def level_of(buffer: OpenBuffer, now_s: float) -> int:
    """A buffer's priority, and a step more for each `AGE_S` in which nothing of it went out, up to the
    highest: so that those of low priority move on beside any number of urgent ones.
    """
    return min(PRIORITY_MAX, buffer.priority + int(max(0.0, now_s - buffer.waits_since_s) / AGE_S))


def in_turn(buffers: Iterable[OpenBuffer], levels: Mapping[int, int], grants: int) -> list[int]:
    """Open buffers, those of the highest level first, and of each level those whose last batch went out
    longest ago. `grants`: how many batches went out.

    The first batch of a new buffer goes ahead of others' next. But not ahead of one that has waited for
    `NEW_AHEAD_OF` batches: an endless flood of new ones does not keep the others out. Of new ones the
    smallest goes first: one item that came behind two hundred buffers of five hundred waited for the first
    batch of each. The others gain a level while they wait.
    """
    new = max(0, grants - NEW_AHEAD_OF)
    ordered = sorted(
        buffers,
        key=lambda one: (-levels[one.seq], one.granted or new, 0 if one.granted else one.rest),
    )
    return [buffer.seq for buffer in ordered]


def behind_its_level(waiting: list[int], position: int, levels: Mapping[int, int]) -> list[int]:
    """The buffer in this place has had its turn, and goes behind the others of its level."""
    end = position + 1
    while end < len(waiting) and levels[waiting[end]] == levels[waiting[position]]:
        end += 1
    return [*waiting[:position], *waiting[position + 1 : end], waiting[position], *waiting[end:]]


def load_of(worker: Worker, begun: int) -> int:
    """How much a worker has to do. What it has begun and not reported yet may be done: a sync worker says so
    at the end of a batch, and its slot (`begun`) says it now. Async items are begun long before they end.
    """
    if worker.is_async:
        return worker.unanswered
    return min(worker.unanswered, worker.next_ordinal - begun + 1)


def able_to_get(workers: Iterable[Worker], listener: str) -> int:
    """How many workers, or places of an engine, could be given items of a listener."""
    able = [one for one in workers if one.gets_items and one.may_get and one.settings(listener) is not None]
    return sum(max(1, worker.places) for worker in able)


def reserved(
    workers: Iterable[Worker], buffers: Iterable[OpenBuffer], alone_listeners: Iterable[str]
) -> int | None:
    """The worker that is kept free for something that must be alone, when there is such a thing.

    Without it, a worker that always has the next batch in hand would never come to it.
    """
    of_items = {
        buffer.target
        for buffer in buffers
        if not buffer.paused and any(candidate.alone for candidate in buffer.returned)
    }
    able = []
    for worker in workers:
        wanted = of_items.union(alone_listeners) if worker.gets_messages else of_items
        if worker.gets_items and worker.may_get and wanted & (worker.listeners or {}).keys():
            able.append(worker)
    return min(able, key=lambda worker: worker.unanswered).worker_id if able else None


def freest(workers: Iterable[Worker], listener: str, *, alone: bool) -> Worker | None:
    """The worker that will come to a message first. Messages go ahead of items, so it need not be idle."""
    best: Worker | None = None
    for worker in workers:
        settings = worker.settings(listener)
        if settings is None or not (worker.gets_messages and worker.may_get) or (alone and worker.unanswered):
            continue
        if worker.messages >= max(2, 2 * settings.concurrency):
            continue
        if best is None or worker.unanswered < best.unanswered:
            best = worker
    return best


class Taken(NamedTuple):
    """A range that is taken from a buffer, and the buffer without it."""

    range: Range
    buffer: OpenBuffer


def take_returned(
    buffer: OpenBuffer,
    most: int,
    *,
    may_be_alone: bool,
    must_be_alone: bool,
    most_alone: int = ORDINAL_MAX,
) -> Taken | None:
    """The first of what came back that this worker may have, at most `most` items of it, or `most_alone` of
    what must be alone: that goes out whole, as far as its limits let it.

    `may_be_alone`: it holds nothing. `must_be_alone`: it is kept free for what must be alone.
    """
    for position, candidate in enumerate(buffer.returned):
        if (candidate.alone and not may_be_alone) or (must_be_alone and not candidate.alone):
            continue
        rest = buffer.returned[:position] + buffer.returned[position + 1 :]
        count = most_alone if candidate.alone else most
        if candidate.item_count > count:
            left = candidate.item_count - count
            rest += (candidate._replace(first=candidate.first + count, item_count=left),)
            candidate = candidate._replace(item_count=count)
        return Taken(candidate, replace(buffer, returned=rest))
    return None


def take_new(buffer: OpenBuffer, most: int) -> Taken | None:
    """The next items that were never handed out."""
    count = min(most, buffer.total - buffer.cursor)
    if not count:
        return None
    return Taken(Range(buffer.cursor, count, 1, alone=False), replace(buffer, cursor=buffer.cursor + count))
