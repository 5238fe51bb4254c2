"""Everything the supervisor remembers, and how a refused commit is undone.

The supervisor decides inside a commit and acts after it. What it decides must count at once for the next
decision of the same commit, and must be forgotten when the commit is refused (a full disk). So all memory is
one `State`: tables of immutable values, and plain fields. Each change notes what was there before. `commit`
forgets the notes, `rollback` puts everything back.

Nothing here is a second copy of the journal. After a crash it is built again from the journal's rows.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from durable_bus.errors import WorkerDeath
from durable_bus.payloads.settings import ListenerSettings, ValueForms
from durable_bus.supervisor.table import ABSENT, Table
from durable_bus.wire.protocol import Start
from durable_bus.wire.slot import ORDINAL_MAX

if TYPE_CHECKING:
    from durable_bus.supervisor.scheduling.limits import Limit
    from durable_bus.supervisor.scheduling.timeouts import Verdict

__all__ = [
    "Arriving",
    "Budget",
    "ItemLease",
    "Late",
    "Lease",
    "MessageLease",
    "OpenBuffer",
    "Range",
    "State",
    "Worker",
]


class Late(NamedTuple):
    """Why a worker was killed for being late."""

    death: WorkerDeath
    ordinal: int | None
    """What it ran for too long; None: it had begun nothing."""


class Worker(NamedTuple):
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


class OpenBuffer(NamedTuple):
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


class Budget(NamedTuple):
    """How much a buffer, and those that its handlers have started, may spend, by unit."""

    granted: dict[str, float]
    """Never changed in place, like `spent`."""
    spent: dict[str, float]

    @property
    def is_spent(self) -> bool:
        return any(self.spent.get(unit, 0.0) >= amount for unit, amount in self.granted.items())


class Arriving(NamedTuple):
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


class State:
    """The tables and fields, each with the part of the supervisor that changes it."""

    def __init__(self) -> None:
        self.__dict__["_before"] = []
        note = self._before.append
        # workers/
        self.workers: Table[int, Worker] = Table(note)
        self.listeners: dict[str, ListenerSettings] | None = None
        """The newest table of settings that a worker of this run has reported."""
        self.forms: ValueForms | None = None
        """How the app writes values, by the same report."""
        self.import_error: str | None = None
        """Why the app could not be imported, when the last worker that tried could not."""
        self.generation = 1
        self.readies = 0
        """How many workers of the newest code have become ready."""
        self.engine_was_ready = False
        """The engine was reached in this run: it may come and go now, and what is to run waits for it."""
        self.engine_error: str | None = None
        """Why it cannot be reached, by its last process that tried."""
        self.deaths_in_boot = 0
        """In a row."""
        self.backoffs = 0
        """How often, in a row, spawning has waited for longer and longer."""
        self.spawn_at_s = 0.0
        """Nobody is spawned before, monotonic."""
        # scheduling/
        self.leases: Table[int, Lease] = Table(note)
        self.item_us: dict[str, float] = {}
        """How long an item of each listener takes, as this run has seen it. Never changed in place."""
        self.last_batch: dict[str, int] = {}
        """How many items made the last batch of each listener. Never changed in place."""
        self.grants = 0
        """How many batches were handed out in this run: what turns are counted by."""
        self.given: frozenset[int] = frozenset()
        """Workers that were given something in this turn."""
        self.plan_unfinished = False
        """A turn's planning has stopped at a limit of its own, as a recovery scan does, or has made work that
        it had been past: there may be some although nobody got any, and the next turn comes at once.
        """
        self.watched: dict[int, tuple[int, int, int]] = {}
        """Workers that hold what they have not begun while another one idles: since when, how much they had
        begun when last seen, and since when it is that much. Monotonic, ns. Never changed in place.
        """
        self.limits: Table[str, Limit] = Table(note)
        """The app's limits, by name, and those of earlier runs."""
        self.held_equal: Table[tuple[int, Range], tuple[bytes, str]] = Table(note)
        """Items, as buffer and range, that wait for an equal one in a worker's hands; their digest, and the
        memo text that it was made with.
        """
        self.pace_at_s: float | None = None
        """When something may start that waits for a limit, monotonic; None: not by itself."""
        self.help_at_s: float | None = None
        """When there may be something to take for an idle worker, monotonic; None: not by itself."""
        self.verdicts: dict[int, Verdict] = {}
        """What the last look at time-outs found of each worker. Never changed in place."""
        self.looked_s = 0.0
        self.look_at_s: float | None = None
        """When somebody may be late, monotonic; None: nobody has anything to be late with."""
        # outcomes/
        self.buffers: Table[int, OpenBuffer] = Table(note)
        """Open buffers by their number, in the order they opened."""
        self.budgets: Table[int, Budget] = Table(note)
        """What may be spent, and what is, by the buffer that was given it, while anything of it is open."""
        self.waiting_names: Table[str, bool] = Table(note)
        """Names that may have messages waiting: too many cost a look; none is ever missing."""
        self.due_at: Table[str, int] = Table(note)
        """When the next message to a name is due that waits for its next attempt, ms since the epoch."""
        self.watchers: Table[int, frozenset[int]] = Table(note)
        """Connections that want to hear of a buffer's end."""
        # requests/
        self.starts: Table[str, Arriving] = Table(note)
        """Starts whose items are arriving, by request id."""
        self.greeted: Table[int, bool] = Table(note)
        """Connections that have said hello and whose version is ours."""
        self.client_names: Table[int, str] = Table(note)
        """The name of each connection that has one."""
        self.receivers: Table[str, tuple[int, str]] = Table(note)
        """Requests that wait for a message: connection and mailbox, by request id."""
        self.delivered: Table[int, tuple[int, str]] = Table(note)
        """Which connection a delivered message is with, and which request it answered, by `message_seq`."""
        self.stop_asked = False
        self.stopping = False
        """Nobody is given anything again in this run."""
        self.storage_full = False
        """The newest commit was refused, because there is no room on disk."""
        self.commit()

    _before: list[tuple[dict[Any, Any], Any, object]]

    def __setattr__(self, name: str, value: object) -> None:
        fields = self.__dict__
        self._before.append((fields, name, fields.get(name, ABSENT)))
        fields[name] = value

    def commit(self) -> None:
        """What has changed since the last call stays."""
        self._before.clear()

    def rollback(self) -> None:
        """What has changed since the last `commit` has not happened."""
        while self._before:
            mapping, key, value = self._before.pop()
            if value is ABSENT:
                dict.pop(mapping, key)
            else:
                dict.__setitem__(mapping, key, value)

    def give_back(self, buffer_seq: int, ranges: list[Range]) -> None:
        """Ranges that are to be handed out again; nothing when the buffer is not open any more."""
        buffer = self.buffers.get(buffer_seq)
        if buffer is not None:
            self.buffers.change(buffer_seq, returned=(*buffer.returned, *ranges))

    def held_by(self, worker: Worker) -> list[Lease]:
        """What a worker holds, in the order it was given."""
        return [self.leases[lease_id] for lease_id in worker.held]
