"""The supervisor: the one process that owns the journal.

::

     client ──frames──▶ ┌───────────────── a turn ─────────────────┐ ──frames──▶ worker 1..N
                        │ gather   frames, exits, signals, timers  │
     client ◀─answers── │ commit   what arrived, what follows from │ ◀─answers── worker 1..N
                        │          it, what will be sent           │
                        │ act      send; only now change memory    │
                        └──────────────────┬───────────────────────┘
                                           ▼ the only writer
                                      journal.db ◀──read-only── clients, command line, replay, you

It is one loop. A turn gathers what has happened, commits it in one transaction together with what follows
from it and with what is going to be sent, and then acts. The three steps never swap: nothing leaves before
the commit that records it, and memory changes only when the commit has happened. There is no other writer,
hence no locks and no order to reason about.

*Requests* (`requests/`) are what clients ask. *Worker events* are what workers say
and how they end. The *collector* turns answers into results and completions, *conversations*
carry out what else a handler's return value leads to. The *dispatcher* decides what items go to
which worker next, the *post* what messages. The *workforce* spawns and replaces workers, *lateness*
judges who is late, *withdrawal* takes back what a worker holds and has not started. Pool, connections,
reactor and clock are ports: a simulation hands in its own and crashes us at any commit.

Recovery is not a mode: a start loads the open buffers and does what it always does, hand out items that have
no outcome and are not in flight in this run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_bus.errors import StorageFull
from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.maintenance import Housekeeping
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes.buffers import BufferRegistry
from durable_bus.supervisor.outcomes.collector import Collector
from durable_bus.supervisor.outcomes.conversations import Conversations
from durable_bus.supervisor.outcomes.threads import ThreadRegistry
from durable_bus.supervisor.ports import (
    ClientClosed,
    ClientSpoke,
    Connections,
    Pool,
    Reactor,
    WorkerEnded,
    WorkerSpoke,
)
from durable_bus.supervisor.recovery import Recovery
from durable_bus.supervisor.requests.control import Control
from durable_bus.supervisor.requests.mailboxes import Mailboxes
from durable_bus.supervisor.requests.requests import RECEIVING_TIMEOUT_MS, Requests, Served
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.supervisor.scheduling.recall import Withdrawal
from durable_bus.supervisor.scheduling.timeouts import Lateness
from durable_bus.supervisor.workers.worker_events import WorkerEvents
from durable_bus.supervisor.workers.workforce import Deferred, Workforce

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["Supervisor", "SupervisorConfig"]

Event = WorkerSpoke | WorkerEnded | ClientSpoke | ClientClosed

IDLE_CHECKPOINT_S = 1.0
LAST_CHECKPOINT_WAIT_MS = 500
"""A clean end leaves no log behind, unless somebody goes on reading for longer."""
STORAGE_RETRY_S = 1.0
HOUSEKEEPING_S = 10.0
CLIENTS_S = 0.05
"""How long a turn works on what clients ask; the rest comes in the next one, after what workers say then."""


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """What a supervisor is told at its start."""

    app_name: str
    pid: int
    version: str
    workers: int
    grace_s: float = 10.0
    items_per_worker_max: int | None = None
    """A worker that was given this many is replaced by a fresh one; None: never."""
    retain_ms: int | None = None
    """Buffers that ended this long ago are pruned; None: never."""
    receiving_timeout_ms: int = RECEIVING_TIMEOUT_MS
    """A buffer whose client has vanished is given up this long after its last chunk."""
    housekeeping_s: float = HOUSEKEEPING_S
    journal_path: str = ""
    journal_file: list[int] | None = None
    """`socket_file.journal_file` of the journal; a client that means another is refused. None: nobody is."""


class Supervisor:
    """The loop. `run()` returns when it was asked to stop and has; it raises a JournalError when it must end
    now.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        journal: "Journal",
        pool: Pool,
        connections: Connections,
        reactor: Reactor,
        clock: Clock,
        new_id: Callable[[], str],
        log: Callable[..., None],
    ) -> None:
        self._config = config
        self._journal = journal
        self._pool = pool
        self._connections = connections
        self._reactor = reactor
        self._clock = clock
        self._log = log
        self._outbox = Outbox(pool, connections, log)
        self.registry = BufferRegistry(journal)
        self.threads = ThreadRegistry(journal)
        self.dispatcher = Dispatcher(journal, self.registry, config.items_per_worker_max)
        self.post = Post(journal, self.dispatcher, new_id)
        self.collector = Collector(journal, self.registry, self._outbox, self.post, self.threads)
        self.workforce = Workforce(pool, self.dispatcher, clock, config.workers)
        self.withdrawal = Withdrawal(self.dispatcher, pool, self.post, clock, self._outbox)
        self.lateness = Lateness(self.dispatcher, pool, clock, self.withdrawal, self._outbox)
        self.conversations = Conversations(
            journal, self.collector, self.post, self.threads, self.workforce, new_id
        )
        self.mailboxes = Mailboxes(journal, self.post, self.threads, self.conversations, self._outbox, new_id)
        self.worker_events = WorkerEvents(
            journal,
            self.dispatcher,
            self.collector,
            self.conversations,
            self.post,
            self.workforce,
            self.lateness,
            self.withdrawal,
            self.mailboxes,
            self._outbox.log,
        )
        self.control = Control(
            journal,
            self.registry,
            self.dispatcher,
            self.collector,
            self.workforce,
            self.withdrawal,
            self.lateness,
            self._outbox,
            clock,
        )
        self.requests = Requests(
            journal,
            self.collector,
            self.workforce,
            self.conversations,
            self.threads,
            self.mailboxes,
            self.control,
            self._outbox,
            config.version,
            Served(config.journal_path, config.journal_file),
            new_id,
        )
        self.housekeeping = Housekeeping(
            journal,
            self.requests,
            self.dispatcher,
            clock,
            every_s=config.housekeeping_s,
            receiving_timeout_ms=config.receiving_timeout_ms,
            retain_ms=config.retain_ms,
        )
        self._staged = (
            self.dispatcher,
            self.post,
            self.lateness.late,
            self.requests.receiving,
            self.mailboxes,
        )
        self._backlog: list[Event] = []
        self._deferred: list[ClientSpoke] = []
        """Frames that cannot be answered before a worker has reported the listeners."""
        self._left: list[ClientSpoke] = []
        """Frames that there was no time for in this turn."""
        self._stop_deadline_s: float | None = None
        self._storage_retry_s: float | None = None
        self._idle_since_s: float | None = None
        """When the last commit was followed by nothing; 0: and the log was brought home since; None: it was
        just now.
        """
        self._checkpoint_tried_s = self._now_s()
        self.signals: list[str] = []
        """Noted by signal handlers, acted on by the loop: "stop", "reload"."""
        self.stopped = False

    def start(self) -> None:
        """Record a new run and load what earlier ones left open."""
        with self._journal.commit(self._clock.now_ms()):
            run_id = self._journal.start_run(self._config.pid, self._config.app_name, self._config.version)
            Recovery(
                self._journal, self.registry, self.dispatcher, self.collector, self.post, self.conversations
            ).load()
        self.dispatcher.commit()
        self._log("run started", run=run_id, pid=self._config.pid, open_buffers=len(self.registry.buffers))

    def run(self) -> None:
        """Turn until asked to stop. `start` comes first."""
        while not self.stopped:
            self.turn()

    def turn(self) -> None:
        """Gather, commit, act."""
        self._reactor.poll(self._timeout_s())
        events: list[Event] = [*self._backlog, *self._pool.take_events(), *self._connections.take_events()]
        self._backlog = []
        self._note_signals(events)
        if self.stopped:
            return
        if self._storage_retry_s is not None:
            # A log that grew while the disk filled holds pages that the journal needs room for once more:
            # emptying it comes before writing more into it.
            self._journal.checkpoint()
        self.control.storage_full = False
        try:
            with self._journal.commit(self._clock.now_ms()):
                if self._storage_retry_s is not None:
                    self._journal.prove_room()  # a turn that has nothing to write must not count as proof
                self._record(events)
                self._plan()
        except StorageFull:
            self._storage_full(events)
            return
        except BaseException:
            self._forget()
            raise
        self._act()

    # Gather

    def _note_signals(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ClientClosed) and event.is_parent:
                # Nobody is left to work for: end at once, as a kill would; the next start goes on.
                self._log("client gone", action="end at once")
                self.stopped = True
        if self.requests.stop_asked:
            self.requests.stop_asked = False
            self.signals.append("stop")
        while self.signals:  # one by one: another may come in between
            signal_name = self.signals.pop(0)
            if signal_name == "stop":
                self._begin_stop()
            elif signal_name == "reload":
                self._log("reloading")
                self.workforce.reload()

    def _begin_stop(self) -> None:
        """Start nothing more; a second time, end at once."""
        now_s = self._now_s()
        again = self._stop_deadline_s is not None
        self._stop_deadline_s = now_s if again else now_s + self._config.grace_s
        self.withdrawal.stopping = True
        self._log("stopping", grace_s=0 if again else self._config.grace_s)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _timeout_s(self) -> float:
        """For how long nothing needs to happen by itself, in seconds."""
        now_s = self._now_s()
        if self._storage_retry_s is not None:
            return max(0.0, self._storage_retry_s - now_s)
        busy = (
            self.signals
            or self.requests.stop_asked
            or self.dispatcher.scan_unfinished
            or self._pool.has_unread
            or self._connections.has_unread
            or self._left
            or self.withdrawal.is_pending
        )
        if busy:
            return 0.0
        due = [self.housekeeping.next_due_in_s()]
        if self._stop_deadline_s is not None:
            due.append(self._stop_deadline_s - now_s)
        else:
            spawn_s = self.workforce.next_due_s()
            due += [] if spawn_s is None else [spawn_s - now_s]
        if self._idle_since_s is None:
            due.append(IDLE_CHECKPOINT_S)
        elif self._idle_since_s > 0:
            due.append(self._idle_since_s + IDLE_CHECKPOINT_S - now_s)
        late_s = self.lateness.next_due_in_s()
        due += [] if late_s is None else [late_s]
        if self._stop_deadline_s is None:
            due += self._work_due_in_s()
        return max(0.0, min(due))

    def _work_due_in_s(self) -> list[float]:
        """When there may be something to hand out, or to take back, without anything happening before."""
        now_ms = self._clock.now_ms()
        # What was due at the last commit already waits for a worker to have room, and not for time to pass.
        retries_at = [b.retry_at for b in self.registry.list_active() if b.retry_at and not b.paused]
        due_at = [*self.post.due_at.values(), *(at for at in retries_at if at > self._journal.now_ms)]
        look_again_s = self.withdrawal.look_again_s
        return [(at - now_ms) / 1000 for at in due_at] + ([] if look_again_s is None else [look_again_s])

    # Commit

    def _record(self, events: list[Event]) -> None:
        self._deferred, self._left = [], []
        deferring: set[int] = set()
        over_s: float | None = None
        # Workers' first: a client's frame may wait for what one of them reports just now.
        for event in sorted(events, key=_is_from_client):
            if isinstance(event, WorkerSpoke):
                self.worker_events.spoke(event)
            elif isinstance(event, WorkerEnded):
                self.worker_events.ended(event, stopping=self._stop_deadline_s is not None)
            elif isinstance(event, ClientClosed):
                self.requests.closed(event.connection_id)
                self.mailboxes.closed(event.connection_id)
            elif event.connection_id in deferring:
                self._deferred.append(event)  # a client's frames are answered in order
            elif over_s is not None and self._now_s() > over_s:
                self._left.append(event)
            else:
                over_s = over_s or self._now_s() + CLIENTS_S
                try:
                    self.requests.handle(event.connection_id, event.frame)
                except Deferred:
                    deferring.add(event.connection_id)
                    self._deferred.append(event)
        if not self._pool.has_unread and self._storage_retry_s is None:
            # Every pipe was read (none is while the disk is full): what somebody said in time is known.
            self.lateness.judge()
            for worker_id in self.workforce.hung_in_boot():
                self._outbox.kill(worker_id)
        self.housekeeping.keep()

    def _plan(self) -> None:
        self.withdrawal.take_back()
        if self._stop_deadline_s is not None:
            self.withdrawal.withdraw_all()
            self.dispatcher.scan_unfinished = False  # nobody goes on with it in this run
            return
        self.post.wake(self._journal.now_ms)
        self.mailboxes.plan()
        self.dispatcher.given.clear()
        messages = self.post.plan()
        items = self.dispatcher.plan(self._journal.now_ms, lambda one: self._pool.slot(one).started)
        for worker_id, frame in [*messages, *items]:
            self._outbox.to_worker(worker_id, frame)
        self.withdrawal.help_idle()
        self.lateness.expect()

    # Act

    def _act(self) -> None:
        """The commit has happened: what it decided is sent, and memory is what it says."""
        for staged in self._staged:
            staged.commit()
        self._connections.keep(self._deferred)
        self._connections.keep(self._left)
        if self._storage_retry_s is not None:
            self._storage_retry_s = None
            self._pool.pause_reading(False)
            self._log("room on disk again")
        # Limits first: a frame that arrives under a limit which is about to be lifted would be thrown away,
        # and what comes behind it would run.
        self.withdrawal.adjust_limits()
        self._outbox.send()
        if self._stop_deadline_s is None:
            self.workforce.fill()
        self._checkpoint_when_idle()
        if self._stop_deadline_s is not None:
            self._finish_stop()

    def _checkpoint_when_idle(self) -> None:
        """Bring the write-ahead log home when nothing has happened for a while, and now and then while much
        does: commits do it, too, but do not say when the disk fails them at it, and the log would grow on.
        """
        if self._journal.committed:
            self._idle_since_s = None
            if self._now_s() - self._checkpoint_tried_s >= self._config.housekeeping_s:
                self._checkpoint_tried_s = self._now_s()
                self._journal.checkpoint()
        elif self._idle_since_s is None:
            self._idle_since_s = self._now_s()
        elif self._idle_since_s > 0 and self._now_s() - self._idle_since_s >= IDLE_CHECKPOINT_S:
            # A reader may have been in the way: then again a little later, or the log would stay long.
            self._idle_since_s = 0.0 if self._journal.checkpoint() else self._now_s()

    def _finish_stop(self) -> None:
        assert self._stop_deadline_s is not None
        if len(self.dispatcher.in_hand) and self._now_s() < self._stop_deadline_s:
            return
        self.stopped = True
        try:
            with self._journal.commit(self._clock.now_ms()):
                for held in self.dispatcher.in_hand.values():
                    if held.buffer_seq:
                        self._journal.work.end_dispatch(held.dispatch_id, "returned")
                    else:  # or the next start would charge it with a crash
                        self.post.put_back(held.message_seq, held.listener)
                self._journal.stop_run()
        except StorageFull:
            self._log("stopped without a word in the journal", reason="no room on disk")
        else:
            self._journal.checkpoint(LAST_CHECKPOINT_WAIT_MS)
            self._log("stopped")

    def _storage_full(self, events: list[Event]) -> None:
        """Nothing was written: keep what arrived, answer what can be answered and refuse what can be refused,
        try the same again in a second.
        """
        self._forget()
        now_s = self._now_s()
        if self._storage_retry_s is None:
            self._log("no room on disk", action="retrying every second")
        done = not len(self.dispatcher.in_hand)
        if self._stop_deadline_s is not None and (done or now_s >= self._stop_deadline_s):
            self._log("stopped without a word in the journal", reason="no room on disk")
            self.stopped = True
        self._pool.pause_reading(True)
        self._storage_retry_s = now_s + STORAGE_RETRY_S
        self.control.storage_full = True
        kept: list[ClientSpoke] = []
        for event in events:
            if not isinstance(event, ClientSpoke):
                self._backlog.append(event)
            elif not self.requests.handle_on_full_disk(event.connection_id, event.frame):
                kept.append(event)
        self._connections.keep(kept)
        self.requests.receiving.commit()
        self.mailboxes.commit()
        self._outbox.send()

    @property
    def has_storage_trouble(self) -> bool:
        """The newest commit was refused for want of room, and is to be tried again."""
        return self._storage_retry_s is not None

    def _forget(self) -> None:
        for staged in self._staged:
            staged.rollback()
        self._outbox.clear()


def _is_from_client(event: Event) -> bool:
    return isinstance(event, ClientSpoke | ClientClosed)
