"""What the tables of `state` hold: workers, leases, open buffers. Immutable values, so that what was before
is still there when a commit is refused.
"""

from typing import NamedTuple

import msgspec

from durable_bus.errors import WorkerDeath
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.wire.protocol import Start
from durable_bus.wire.slot import ORDINAL_MAX

__all__ = [
    "Arriving",
    "Budget",
    "ItemLease",
    "Late",
    "Lease",
    "MessageLease",
    "OpenBuffer",
    "Range",
    "Worker",
]


class Late(NamedTuple):
    """Why a worker was killed for being late."""

    death: WorkerDeath
    ordinal: int | None
    """What it ran for too long; None: it had begun nothing."""


class Worker(msgspec.Struct, frozen=True):
    """A worker process, or an engine process, from its start until its end was taken in."""

    worker_id: int
    pid: int
    generation: int = 1
    """Which code it runs: each reload begins a new generation."""
    booting_since_s: float | None = None
    """Since when it has been importing the app, monotonic; None: it has reported."""
    has_said_why: bool = False
    """It has reported why it cannot import the app, and is about to end."""
    hangs_in_boot: bool = False
    """It was killed because its import took too long."""
    retired_at: int | None = None
    """It is to be replaced; how many workers had become ready by then. None: it is to stay."""
    late: Late | None = None
    """It was killed for this; its end is still to come."""

    listeners: dict[str, ListenerSettings] | None = None
    """The settings of its listeners, by name; None until it has reported them. Never changed in place."""
    is_async: bool = False
    """Some of its listeners are."""
    engine: str = ""
    """It is an engine process, which hands items on to this engine; "": it runs what it gets itself."""
    places: int = 0
    """Of an engine process that is ready: how many dispatches it may hold at once."""
    gets_items: bool = True
    """Not the worker beside an engine."""
    unanswered: int = 0
    """How many items and messages it holds that it has not answered."""
    messages: int = 0
    """How many of them are messages."""
    next_ordinal: int = 0
    """Whatever a worker is given has an ordinal: 0 for the first item it ever gets, and so on."""
    held: tuple[int, ...] = ()
    """The ids of its leases, in the order it was given them."""
    exclusive: bool = False
    """It holds a lease that must be alone."""
    limit: int = ORDINAL_MAX
    """Told to start nothing from this ordinal on; gets nothing until it has said that it has come to it."""
    taken: int = ORDINAL_MAX
    """The limit under which what it has not started was given back."""
    counted_to: int = 0
    """What has begun before this ordinal is charged to its limits (`pacing.look`)."""
    discarded_to: int = 0
    """Of what comes before this ordinal nothing is left in its pipe: it has started it, or thrown it away."""
    leaving: bool = False
    """Never gets anything again."""

    @property
    def gets_messages(self) -> bool:
        """An engine's workers may be where no message of the daemon's machine comes."""
        return not self.engine

    @property
    def recalled(self) -> bool:
        return self.limit != ORDINAL_MAX

    @property
    def may_get(self) -> bool:
        """It may be given something."""
        return not (self.listeners is None or self.leaving or self.recalled or self.exclusive)

    def settings(self, listener: str) -> ListenerSettings | None:
        """Those of a listener in the code that this worker runs; None: it has no such listener."""
        return (self.listeners or {}).get(listener)

    def begun(self, started: int) -> int:
        """How much of what it was given it has begun, or will not begin; `started` is what its slot says."""
        return max(started, self.discarded_to)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Work that a worker holds."""

    lease_id: int
    """How the worker and we call it: a dispatch's number, or below 0 for a message."""
    worker_id: int
    listener: str
    attempt: int
    alone: bool
    """The worker may hold nothing else meanwhile."""
    first_ordinal: int
    first: int = 0
    """The index of its first item; 0 for a message."""
    item_count: int = 1
    answered: int = 0
    """Bit i: position i was answered. A set and not a counter: an answer that comes twice counts once."""

    @property
    def all_answered(self) -> int:
        return (1 << self.item_count) - 1

    @property
    def open_count(self) -> int:
        return self.item_count - self.answered.bit_count()

    def first_open_position(self) -> int | None:
        """The first position that was not answered yet, None when all were."""
        lowest_open_bit = ~self.answered & (self.answered + 1)
        position = lowest_open_bit.bit_length() - 1
        return position if position < self.item_count else None

    def open_positions(self) -> list[int]:
        return [position for position in range(self.item_count) if not self.answered >> position & 1]


class ItemLease(Lease, frozen=True, kw_only=True):
    """A range of a buffer's items; `lease_id` is the number of its dispatch."""

    buffer_seq: int
    memo: tuple[bytes, ...] = ()
    """Of a listener with a memo: the digest of each item (`memo`)."""


class MessageLease(Lease, frozen=True, kw_only=True):
    """One message."""

    message_seq: int


class Range(NamedTuple):
    """Items to be handed out again, `item_count` from `first` on."""

    first: int
    item_count: int
    attempt: int
    alone: bool
    """They go to a worker that holds nothing else: the next death must tell which item it was."""


class OpenBuffer(msgspec.Struct, frozen=True):
    """A buffer between its opening and its end."""

    seq: int
    buffer_id: str
    target: str
    return_to: str
    from_id: str
    thread_id: str
    starter_thread_id: str
    collect: bool
    total: int
    """Of a stream that is not sealed, as many as have come."""
    recorded: int
    """Items that have a result: as many as rows were inserted."""
    failed: int
    cursor: int
    """Never handed out in this run from here on."""
    sealed: bool = True
    """No more items come."""
    recovered_to: int = 0
    """An earlier run may have handed out anything below this index: look before dispatching."""
    returned: tuple[Range, ...] = ()
    retry_at: int | None = None
    """When the next failed item is due again, ms since the epoch."""
    paused: bool = False
    passed_on: bool = False
    """Items of it may have been passed on by their handlers: what those answer later is not their outcome."""
    fitting: int = 1 << 32
    """How many items the next batch may hold, by the length of those in the last one."""
    granted: int = 0
    """When its last batch went out, by the count of batches in this run."""
    priority: int = 0
    waits_since_s: float = 0.0
    """When its last batch went out, or it opened, monotonic: the longer ago, the higher its priority."""
    level: int = 0  # at which its last batch went out (`turns.level_of`)
    regained: int | None = None
    """Items that were answered since some were taken back for what is more urgent; None: none were."""
    not_before: int | None = None
    """Nothing of it is handed out before, ms since the epoch."""
    deadline_at: int | None = None
    """It ends then as it is, ms since the epoch."""
    enough: int | None = None
    max_failures: int | None = None
    """It ends when so many items have succeeded, or failed."""
    budget_of: int | None = None
    """The buffer whose budget it spends of."""
    traceparent: str | None = None
    """The span that it was started in."""

    @property
    def rest(self) -> int:
        """Items that nobody holds, as far as is known without looking at rows."""
        return self.total - self.cursor + sum(back.item_count for back in self.returned)

    @property
    def is_complete(self) -> bool:
        return self.sealed and self.recorded == self.total

    def may_go_on(self, now_ms: int) -> bool:
        """Its items may be handed out."""
        return not self.paused and (self.not_before is None or self.not_before <= now_ms)

    def may_have_work(self, now_ms: int) -> bool:
        """There may be items to hand out."""
        if not self.may_go_on(now_ms):
            return False
        due = self.retry_at is not None and self.retry_at <= now_ms
        return bool(self.returned) or due or self.cursor < self.total


class Budget(msgspec.Struct, frozen=True):
    """How much a buffer, and those that its handlers have started, may spend, by unit."""

    granted: dict[str, float]
    """Never changed in place, like `spent`."""
    spent: dict[str, float]

    @property
    def is_spent(self) -> bool:
        return any(self.spent.get(unit, 0.0) >= amount for unit, amount in self.granted.items())


class Arriving(msgspec.Struct, frozen=True):
    """A start, and how much of it is on disk. `buffer_seq`: 0 as long as there is no row."""

    start: Start
    connection_id: int
    buffer_seq: int = 0
    next_chunk: int = 0
    received: int = 0
    opened: bool = False
    """It is a stream whose first chunk is on disk."""
    existing: bool = False
    """The buffer is there already, sealed or ended: its items are not looked at, the digest decides."""
    repeated: bool = False
    """By this very request, whose answer was lost."""
