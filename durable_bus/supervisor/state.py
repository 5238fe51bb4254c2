"""Everything the supervisor remembers, and how a refused commit is undone.

The supervisor decides inside a commit and acts after it. What it decides must count at once for the next
decision of the same commit, and must be forgotten when the commit is refused (a full disk). So all memory is
one `State`: tables of immutable values (`entries`), and plain fields. Each change notes what was there
before. `commit` forgets the notes, `rollback` puts everything back.

Nothing here is a second copy of the journal. After a crash it is built again from the journal's rows.
"""

from typing import TYPE_CHECKING, Any

from durable_bus.payloads.settings import ListenerSettings, ValueForms
from durable_bus.supervisor.entries import (
    Arriving,
    Budget,
    Lease,
    OpenBuffer,
    Range,
    Worker,
)
from durable_bus.supervisor.table import ABSENT, Table

if TYPE_CHECKING:
    from durable_bus.supervisor.scheduling.limits import Limit
    from durable_bus.supervisor.scheduling.timeouts import Verdict

__all__ = ["State"]


class State:
    """The tables and fields, each with the part of the supervisor that changes it."""

    # workers/
    workers: Table[int, Worker]
    listeners: dict[str, ListenerSettings] | None = None
    """The newest table of settings that a worker of this run has reported."""
    forms: ValueForms | None = None
    """How the app writes values, by the same report."""
    import_error: str | None = None
    """Why the app could not be imported, when the last worker that tried could not."""
    generation = 1
    readies = 0
    """How many workers of the newest code have become ready."""
    engine_was_ready = False
    """The engine was reached in this run: it may come and go now, and what is to run waits for it."""
    engine_error: str | None = None
    """Why it cannot be reached, by its last process that tried."""
    deaths_in_boot = 0
    """In a row."""
    backoffs = 0
    """How often, in a row, spawning has waited for longer and longer."""
    spawn_at_s = 0.0
    """Nobody is spawned before, monotonic."""
    # scheduling/
    leases: Table[int, Lease]
    item_us: dict[str, float]
    """How long an item of each listener takes, as this run has seen it. Never changed in place."""
    last_batch: dict[str, int]
    """How many items made the last batch of each listener. Never changed in place."""
    grants = 0
    """How many batches were handed out in this run: what turns are counted by."""
    given: frozenset[int] = frozenset()
    """Workers that were given something in this turn."""
    plan_unfinished = False
    """A turn's planning has stopped at a limit of its own, as a recovery scan does, or has made work that
    it had been past: there may be some although nobody got any, and the next turn comes at once.
    """
    watched: dict[int, tuple[int, int, int]]
    """Workers that hold what they have not begun while another one idles: since when, how much they had
    begun when last seen, and since when it is that much. Monotonic, ns. Never changed in place.
    """
    limits: "Table[str, Limit]"
    """The app's limits, by name, and those of earlier runs."""
    held_equal: Table[tuple[int, Range], tuple[bytes, str]]
    """Items, as buffer and range, that wait for an equal one in a worker's hands; their digest, and the
    memo text that it was made with.
    """
    pace_at_s: float | None = None
    """When something may start that waits for a limit, monotonic; None: not by itself."""
    help_at_s: float | None = None
    """When there may be something to take for an idle worker, monotonic; None: not by itself."""
    verdicts: "dict[int, Verdict]"
    """What the last look at time-outs found of each worker. Never changed in place."""
    looked_s = 0.0
    look_at_s: float | None = None
    """When somebody may be late, monotonic; None: nobody has anything to be late with."""
    # outcomes/
    buffers: Table[int, OpenBuffer]
    """Open buffers by their number, in the order they opened."""
    budgets: Table[int, Budget]
    """What may be spent, and what is, by the buffer that was given it, while anything of it is open."""
    waiting_names: Table[str, bool]
    """Names that may have messages waiting: too many cost a look; none is ever missing."""
    due_at: Table[str, int]
    """When the next message to a name is due that waits for its next attempt, ms since the epoch."""
    watchers: Table[int, frozenset[int]]
    """Connections that want to hear of a buffer's end."""
    # requests/
    starts: Table[str, Arriving]
    """Starts whose items are arriving, by request id."""
    greeted: Table[int, bool]
    """Connections that have said hello and whose version is ours."""
    client_names: Table[int, str]
    """The name of each connection that has one."""
    receivers: Table[str, tuple[int, str]]
    """Requests that wait for a message: connection and mailbox, by request id."""
    delivered: Table[int, tuple[int, str]]
    """Which connection a delivered message is with, and which request it answered, by `message_seq`."""
    stop_asked = False
    stopping = False
    """Nobody is given anything again in this run."""
    storage_full = False
    """The newest commit was refused, because there is no room on disk."""

    def __init__(self) -> None:
        self.__dict__["_before"] = []
        note = self._before.append
        self.workers = Table(note)
        self.leases = Table(note)
        self.item_us, self.last_batch, self.watched, self.verdicts = {}, {}, {}, {}
        self.limits = Table(note)
        self.held_equal = Table(note)
        self.buffers = Table(note)
        self.budgets = Table(note)
        self.waiting_names = Table(note)
        self.due_at = Table(note)
        self.watchers = Table(note)
        self.starts = Table(note)
        self.greeted = Table(note)
        self.client_names = Table(note)
        self.receivers = Table(note)
        self.delivered = Table(note)
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
