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
the commit that records it, and memory is what it was when the commit is refused. There is no other writer,
hence no locks and no order to reason about.

Recovery is not a mode: a start loads the open buffers and does what it always does, hand out items that have
no outcome and that nobody holds in this run.
"""

from durable_bus.errors import StorageFull
from durable_bus.journal.journal import Journal
from durable_bus.supervisor import recovery
from durable_bus.supervisor.config import SupervisorConfig
from durable_bus.supervisor.context import Context, Ports
from durable_bus.supervisor.entries import ItemLease, MessageLease
from durable_bus.supervisor.maintenance import Maintenance
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes import collector, messages
from durable_bus.supervisor.ports import ClientClosed, ClientSpoke, WorkerEnded, WorkerSpoke
from durable_bus.supervisor.requests import mailboxes, requests
from durable_bus.supervisor.scheduling import memo, pacing, recall, timeouts
from durable_bus.supervisor.scheduling.dispatcher import plan_items
from durable_bus.supervisor.scheduling.message_dispatcher import plan_messages
from durable_bus.supervisor.state import State
from durable_bus.supervisor.workers import worker_events, workforce
from durable_bus.supervisor.workers.workforce import Deferred

__all__ = ["Supervisor"]

Event = WorkerSpoke | WorkerEnded | ClientSpoke | ClientClosed

IDLE_CHECKPOINT_S = 1.0
LAST_CHECKPOINT_WAIT_MS = 500
"""A clean end leaves no log behind, unless somebody goes on reading for longer."""
STORAGE_RETRY_S = 1.0
CLIENTS_S = 0.05
"""How long a turn works on what clients ask; the rest comes in the next one, after what workers say then."""


class Supervisor:
    """The loop. `run()` returns when it has stopped, and raises a JournalError when it must end now."""

    def __init__(self, config: SupervisorConfig, journal: Journal, ports: Ports) -> None:
        self._journal = journal
        self._ports = ports
        self._outbox = Outbox(ports.pool, ports.connections, ports.log)
        self.state = State()
        self.context = Context(config, journal, self.state, self._outbox, ports)
        self._maintenance = Maintenance(self.context)
        self._backlog: list[Event] = []
        """What workers have said, and who has ended, in a turn whose commit was refused."""
        self._deferred: list[ClientSpoke] = []
        """Frames that cannot be answered before a worker has reported the listeners."""
        self._left: list[ClientSpoke] = []
        """Frames that there was no time for in this turn."""
        self._stop_deadline_s: float | None = None
        self._storage_retry_s: float | None = None
        self._checkpoint_tried_s = self.context.now_s()
        self._checkpoint_s: float | None = self._checkpoint_tried_s + IDLE_CHECKPOINT_S
        """When a checkpoint is due, monotonic; None: nothing was written since the last one."""
        self.signals: list[str] = []
        """Noted by signal handlers, acted on by the loop: "stop", "reload"."""
        self.stopped = False

    def start(self) -> None:
        """Record a new run and load what earlier ones left open."""
        config = self.context.config
        with self._journal.commit(self._ports.clock.now_ms()):
            run_id = self._journal.start_run(config.pid, config.app_name, config.version)
            recovery.load(self.context)
        self.state.commit()
        self._ports.log("run started", run=run_id, pid=config.pid, open_buffers=len(self.state.buffers))

    def run(self) -> None:
        """Turn until asked to stop. `start` comes first."""
        while not self.stopped:
            self.turn()
            # Here, and by no thread: who watches us is told that turns go round, not that a process is there.
            self._ports.manager.turned(self.context.now_s(), len(self.state.buffers))

    def turn(self) -> None:
        """Gather, commit, act."""
        self._ports.reactor.poll(self._wait_s())
        events: list[Event] = [
            *self._backlog,
            *self._ports.pool.take_events(),
            *self._ports.connections.take_events(),
        ]
        self._backlog = []
        self._note_signals(events)
        if self.stopped:
            return
        if self._storage_retry_s is not None:
            # A log that grew while the disk filled holds pages that the journal needs room for once more:
            # emptying it comes before writing more into it.
            self._journal.checkpoint()
        self.state.storage_full = False
        self.state.commit()  # what a refused commit does not undo
        try:
            with self._journal.commit(self._ports.clock.now_ms()):
                if self._storage_retry_s is not None:
                    self._journal.prove_room()  # a turn that has nothing to write must not count as proof
                self._record(events)
                self._plan()
                planned_ns = self._ports.clock.monotonic_ns()
        except StorageFull:
            self._storage_full(events)
            return
        except BaseException:
            self._forget()
            raise
        took_ns = self._ports.clock.monotonic_ns() - planned_ns
        self._act()
        self.context.counting.committed(took_ns if self._journal.committed else None)

    # Gather

    def _note_signals(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ClientClosed) and event.is_parent:
                # Nobody is left to work for: end at once, as a kill would; the next start goes on.
                self._ports.log("client gone", action="end at once")
                self.stopped = True
        if self.state.stop_asked:
            self.state.stop_asked = False
            self.signals.append("stop")
        while self.signals:  # one by one: another may come in between
            signal_name = self.signals.pop(0)
            if signal_name == "stop":
                self._begin_stop()
            elif signal_name == "reload":
                self._ports.log("reloading")
                workforce.reload(self.context)

    def _begin_stop(self) -> None:
        """Start nothing more; a second time, end at once."""
        now_s = self.context.now_s()
        again = self._stop_deadline_s is not None
        self._stop_deadline_s = now_s if again else now_s + self.context.config.grace_s
        self.state.stopping = True
        self._ports.manager.stopping()
        self._ports.log("stopping", grace_s=0 if again else self.context.config.grace_s)

    def _wait_s(self) -> float:
        """For how long to wait, in seconds: until something needs to happen, or a sign of life is due."""
        timeout_s, due_s = self._timeout_s(), self._ports.manager.due_s
        return timeout_s if due_s is None else min(timeout_s, max(0.0, due_s - self.context.now_s()))

    def _timeout_s(self) -> float:
        """For how long nothing needs to happen by itself, in seconds."""
        now_s = self.context.now_s()
        if self._storage_retry_s is not None:
            return max(0.0, self._storage_retry_s - now_s)
        busy = (
            self.signals
            or self.state.stop_asked
            or self.state.plan_unfinished
            or self._ports.pool.has_unread
            or self._ports.connections.has_unread
            or self._left
            # Somebody was told to start nothing more, and the next turn takes back what that leaves.
            or any(worker.limit != worker.taken for worker in self.state.workers.values())
        )
        if busy:
            return 0.0
        due_s = [self._maintenance.due_s(), self._checkpoint_s, self.state.look_at_s]
        if self._stop_deadline_s is None:
            due_s += [workforce.next_due_s(self.context), self.state.help_at_s, self.state.pace_at_s]
            due_s += self._due_by_the_clock_s(now_s)
        else:
            due_s.append(self._stop_deadline_s)
        return max(0.0, min(at_s for at_s in due_s if at_s is not None) - now_s)

    def _due_by_the_clock_s(self, now_s: float) -> list[float]:
        """When failed items and messages are due again, and buffers begin, or are over."""
        now_ms, planned_ms = self._ports.clock.now_ms(), self._journal.now_ms
        due_at = [*self.state.due_at.values()]
        for buffer in self.state.buffers.values():
            if buffer.deadline_at is not None:
                due_at.append(buffer.deadline_at)
            # What was due at the last commit already waits for a worker to have room, and not for time to
            # pass.
            if not buffer.paused:
                waits_for = (buffer.retry_at, buffer.not_before)
                due_at += [at for at in waits_for if at is not None and at > planned_ms]
        return [now_s + (at - now_ms) / 1000 for at in due_at]

    # Commit

    def _record(self, events: list[Event]) -> None:
        pacing.look(self.context)
        self._deferred, self._left = [], []
        deferring: set[int] = set()
        over_s: float | None = None
        # Workers' first: a client's frame may wait for what one of them reports just now.
        for event in sorted(events, key=lambda event: isinstance(event, ClientSpoke | ClientClosed)):
            if isinstance(event, WorkerSpoke):
                worker_events.spoke(self.context, event)
            elif isinstance(event, WorkerEnded):
                worker_events.ended(self.context, event)
            elif isinstance(event, ClientClosed):
                requests.closed(self.context, event.connection_id)
            elif event.connection_id in deferring:
                self._deferred.append(event)  # a client's frames are answered in order
            elif over_s is not None and self.context.now_s() > over_s:
                self._left.append(event)
            else:
                over_s = over_s or self.context.now_s() + CLIENTS_S
                try:
                    requests.handle(self.context, event.connection_id, event.frame)
                except Deferred:
                    deferring.add(event.connection_id)
                    self._deferred.append(event)
        if not self._ports.pool.has_unread and self._storage_retry_s is None:
            # Every pipe was read (none is while the disk is full): what somebody said in time is known.
            timeouts.judge(self.context)
            workforce.kill_hung(self.context)
        self._maintenance.keep()

    def _plan(self) -> None:
        recall.take_back(self.context)
        collector.end_overdue(self.context)
        if self.state.stopping:
            for worker in [*self.state.workers.values()]:
                recall.recall(self.context, worker)
            self.state.plan_unfinished = False  # nobody goes on with it in this run
            pacing.settle(self.context, None)
            return
        now_ms = self._journal.now_ms
        messages.wake(self.context, now_ms)
        mailboxes.plan(self.context)
        self.state.given = frozenset()
        gates = pacing.Gates(self.context)
        memo.release(self.context, gates)
        alone_listeners, names = plan_messages(self.context, gates), {*self.state.waiting_names}
        plan_items(self.context, now_ms, gates, alone_listeners)
        if not names.issuperset(self.state.waiting_names):
            # Answers that were there have ended a buffer: its completion goes out in the next turn, at once.
            self.state.plan_unfinished = True
        recall.help_idle(self.context, gates, alone_listeners)
        pacing.settle(self.context, gates)
        timeouts.expect(self.context)

    # Act

    def _act(self) -> None:
        """The commit has happened: what it decided is sent, and memory is what it says."""
        self.state.commit()
        self._ports.connections.keep([*self._left, *self._deferred])
        if self._storage_retry_s is not None:
            self._storage_retry_s = None
            self._ports.pool.pause_reading(False)
            self._ports.log("room on disk again")
        # Limits first: a frame that arrives under a limit which is about to be lifted would be thrown away,
        # and what comes behind it would run.
        recall.adjust_limits(self.context)
        self._outbox.send()
        if self._stop_deadline_s is None:
            workforce.fill(self.context)
        self._checkpoint_when_due()
        if self._stop_deadline_s is not None:
            self._finish_stop()

    def _checkpoint_when_due(self) -> None:
        """Checkpoint the write-ahead log when nothing was written for a while, and now and then while much
        is: commits do it, too, but do not say when the disk fails them at it, and the log would grow on.
        """
        now_s = self.context.now_s()
        if self._journal.committed:
            at_latest_s = self._checkpoint_tried_s + self.context.config.housekeeping_s
            self._checkpoint_s = min(now_s + IDLE_CHECKPOINT_S, at_latest_s)
        if self._checkpoint_s is not None and now_s >= self._checkpoint_s:
            self._checkpoint_tried_s = now_s
            # A reader may have been in the way: then again a little later, or the log would stay long.
            self._checkpoint_s = None if self._journal.checkpoint() else now_s + IDLE_CHECKPOINT_S

    def _finish_stop(self) -> None:
        assert self._stop_deadline_s is not None
        if self.state.leases and self.context.now_s() < self._stop_deadline_s:
            return
        self.stopped = True
        try:
            with self._journal.commit(self._ports.clock.now_ms()):
                for lease in self.state.leases.values():
                    if isinstance(lease, ItemLease):
                        self._journal.work.end_dispatch(lease.lease_id, "returned")
                    elif isinstance(lease, MessageLease):  # or the next start would charge it with a crash
                        messages.put_back(self.context, lease.message_seq, lease.listener)
                self._journal.stop_run()
        except StorageFull:
            self._ports.log("stopped without a word in the journal", reason="no room on disk")
        else:
            self._journal.checkpoint(LAST_CHECKPOINT_WAIT_MS)
            self._ports.log("stopped")

    def _storage_full(self, events: list[Event]) -> None:
        """Nothing was written: keep what arrived, answer or refuse what can be, try again in a second."""
        self._forget()
        now_s = self.context.now_s()
        if self._storage_retry_s is None:
            action = "retrying every second"
            self._ports.log("no room on disk", journal=str(self._journal.path), action=action)
        done = not self.state.leases
        if self._stop_deadline_s is not None and (done or now_s >= self._stop_deadline_s):
            self._ports.log("stopped without a word in the journal", reason="no room on disk")
            self.stopped = True
        self._ports.pool.pause_reading(True)
        self._storage_retry_s = now_s + STORAGE_RETRY_S
        self.state.storage_full = True
        kept: list[ClientSpoke] = []
        for event in events:
            if not isinstance(event, ClientSpoke):
                self._backlog.append(event)
            elif not requests.handle_on_full_disk(self.context, event.connection_id, event.frame):
                kept.append(event)
        self._ports.connections.keep(kept)
        self.state.commit()
        self._outbox.send()

    def _forget(self) -> None:
        self.state.rollback()
        self._outbox.clear()
        self.context.counting.refused()
