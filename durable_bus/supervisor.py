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

*Requests* (requests.py) are what clients ask. The *collector* (buffer.py) turns answers into results and
completions. The *dispatcher* (dispatch.py) decides what goes to which worker next. The *workforce*
(workforce.py) spawns and replaces workers. Pool, connections, reactor and clock are ports: a simulation hands
in its own and crashes us at any commit.

Recovery is not a mode: a start loads the open buffers and does what it always does, hand out items that have
no outcome and are not in flight in this run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from durable_bus.buffer import Collector, FailedAttempt
from durable_bus.buffer_registry import BufferRegistry
from durable_bus.clock import Clock
from durable_bus.conversations import Conversations
from durable_bus.dispatch import Dispatcher, Hand, InHand
from durable_bus.errors import BufferError, StorageFull, WorkerSilent
from durable_bus.mailboxes import Mailboxes
from durable_bus.outbox import Outbox
from durable_bus.ports import (
    ORDINAL_MAX,
    ClientClosed,
    ClientSpoke,
    Connections,
    Pool,
    Reactor,
    WorkerEnded,
    WorkerSpoke,
)
from durable_bus.post import INTERRUPTIONS_MAX, Post
from durable_bus.requests import Deferred, Requests
from durable_bus.thread_registry import ThreadRegistry
from durable_bus.workforce import Workforce

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["Supervisor", "SupervisorConfig"]

Event = WorkerSpoke | WorkerEnded | ClientSpoke | ClientClosed

STEAL_AFTER_US = 20_000
"""What a worker has not started is taken back when it would still wait this long while another one idles."""
IDLE_CHECKPOINT_S = 1.0
STORAGE_RETRY_S = 1.0
HOUSEKEEPING_S = 10.0
ASYNC_GRACE_S = 10.0
"""An event loop that has not turned for a listener's time-out and this long is blocked: its worker is
killed.
"""


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """What a supervisor is told at its start."""

    app_name: str
    pid: int
    version: str
    workers: int
    grace_s: float = 10.0
    embedded: bool = True
    """It serves one client and ends with it."""


class Supervisor:
    """The loop. `run()` returns when it has been asked to stop and has; it raises StorageFailed when it must
    end now.
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
        self._outbox = Outbox(pool, connections)
        self.registry = BufferRegistry()
        self.dispatcher = Dispatcher(journal, self.registry)
        self.post = Post(journal, self.dispatcher, new_id)
        self.threads = ThreadRegistry(journal)
        self.collector = Collector(journal, self.registry, self._outbox, self.post, self.threads)
        self.workforce = Workforce(pool, self.dispatcher, clock, config.workers)
        self.conversations = Conversations(
            journal, self.collector, self.post, self.threads, self.workforce, new_id
        )
        self.mailboxes = Mailboxes(journal, self.post, self.threads, self.conversations, self._outbox, new_id)
        self.requests = Requests(
            journal,
            self.collector,
            self.workforce,
            self.conversations,
            self.threads,
            self.mailboxes,
            self._outbox,
            config.version,
            new_id,
        )
        self._backlog: list[Event] = []
        self._deferred: list[ClientSpoke] = []
        """Frames that cannot be answered before a worker has reported the listeners."""
        self._still_deferred: list[ClientSpoke] = []
        self._overdue: dict[int, tuple[int, float]] = {}
        """Workers killed for being late: the ordinal that was, and its listener's time-out in seconds."""
        self._stop_deadline_s: float | None = None
        self._storage_retry_s: float | None = None
        self._next_housekeeping_s = 0.0
        self._idle_since_s: float | None = None
        self._clearing = True
        self.signals: list[str] = []
        """Noted by signal handlers, acted on by the loop: "stop", "reload"."""
        self.stopped = False

    # Starting

    def start(self) -> None:
        """Record a new run and load what earlier ones left open."""
        with self._journal.commit(self._clock.now_ms()):
            run_id = self._journal.start_run(self._config.pid, self._config.app_name, self._config.version)
            for row in self._journal.buffers.open_ones():
                buffer = self.registry.create(
                    row, paused=bool(row["paused"]), recovered=bool(row["handed_out"])
                )
                due = self._journal.work.next_retry_at(buffer.seq)
                self.registry.buffers[buffer.seq] = replace(buffer, retry_at=due)
            self._settle_interrupted()
            self._settle_delivered()
        self.dispatcher.commit()
        self._log("run started", run=run_id, open_buffers=len(self.registry.buffers))

    def _settle_interrupted(self) -> None:
        """What the last run had handed out: a dispatch that was alone is charged, the oldest of a worker goes
        out alone.

        Workers take their dispatches in order, so nothing but a worker's oldest unfinished one can have been
        running (or, for an async listener, those that its concurrency lets run together; those are as many as
        were started).
        """
        suspected_pids: set[int] = set()
        for row in self._journal.work.interrupted():
            self._journal.work.end_dispatch(row["dispatch_id"], "crashed")
            buffer = self.registry.get(row["buffer_seq"])
            if buffer is None:
                continue
            first, end = row["first_index"], row["end_index"]
            rows = self._journal.buffers.outstanding(buffer.seq, first, end, end - first)
            indexes = [index for index, failures in rows if failures == row["attempt"] - 1]
            if not indexes:
                continue
            oldest = row["worker_pid"] not in suspected_pids
            suspected_pids.add(row["worker_pid"])
            if row["alone"] and len(indexes) == 1:
                self._skip(buffer.seq, indexes)
                failed = FailedAttempt(
                    buffer.seq,
                    indexes[0],
                    row["attempt"],
                    "lost",
                    "the supervisor died while this item ran alone in its worker",
                    supervisor_died=True,
                    dispatch_id=row["dispatch_id"],
                    worker_pid=row["worker_pid"],
                )
                self.collector.attempt_failed(failed, None)
            elif oldest or row["alone"]:
                self._skip(buffer.seq, indexes)
                held = InHand(
                    row["dispatch_id"], 0, buffer.seq, "", first, end - first, row["attempt"], True, 0
                )
                self.dispatcher.quarantine([(held, index - first) for index in indexes])

    def _settle_delivered(self) -> None:
        """Whoever had a message when the last run ended has it no more. One that was alone is charged."""
        self.post.waiting_names.update(self._journal.messages.names_with_waiting())
        for row in self._journal.messages.delivered():
            message_seq = row["message_seq"]
            if row["worker_pid"] is not None and row["interruptions"] >= INTERRUPTIONS_MAX:
                attempt = self._journal.work.message_attempts(message_seq).total + 1
                self.conversations.message_failed(
                    attempt,
                    message_seq,
                    "lost",
                    "the supervisor died while this message was alone with its worker",
                    supervisor_died=True,
                )
            else:
                interrupted = row["worker_pid"] is not None
                self.post.put_back(message_seq, row["to_id"], interrupted=interrupted)

    def _skip(self, buffer_seq: int, indexes: list[int]) -> None:
        buffer = self.registry.buffers[buffer_seq]
        self.registry.buffers[buffer_seq] = replace(buffer, skipped=buffer.skipped | frozenset(indexes))

    # The loop

    def run(self) -> None:
        self.start()
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
        try:
            with self._journal.commit(self._clock.now_ms()):
                self._record(events)
                self._plan()
        except StorageFull:
            self._storage_full(events)
            return
        except BaseException:
            self._forget()
            raise
        self._act()

    def _note_signals(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ClientClosed) and event.is_parent:
                # Nobody is left to work for: end at once, as a kill would; the next start goes on.
                self._log("client gone", action="end at once")
                self.stopped = True
        for signal_name in self.signals:
            if signal_name == "stop":
                self._begin_stop()
            elif signal_name == "reload":
                self.workforce.reload()
        self.signals.clear()

    def _begin_stop(self) -> None:
        """Start nothing more; a second time, end at once."""
        now_s = self._now_s()
        self._stop_deadline_s = now_s if self._stop_deadline_s is not None else now_s + self._config.grace_s
        self._log("stopping", grace_s=self._config.grace_s)

    def _storage_full(self, events: list[Event]) -> None:
        """Nothing was written: keep what arrived, refuse what can be refused, try the same again in a
        second.
        """
        self._forget()
        if self._storage_retry_s is None:
            self._log("no room on disk", action="retrying every second")
        self._pool.pause_reading(True)
        self._storage_retry_s = self._now_s() + STORAGE_RETRY_S
        for event in [*events, *self._deferred]:
            if isinstance(event, ClientSpoke) and event.frame.header.get("k") in ("start", "chunk", "open"):
                buffer_id = str(event.frame.header.get("buffer_id", "unknown"))
                self.requests.refuse(
                    event.connection_id, event.frame, BufferError(buffer_id, "no room on disk")
                )
            else:
                self._backlog.append(event)
        self._deferred = []
        self.requests.receiving.commit()
        self._outbox.send()

    def _forget(self) -> None:
        self.dispatcher.rollback()
        self.requests.receiving.rollback()
        self.mailboxes.rollback()
        self._outbox.clear()

    def _act(self) -> None:
        """The commit has happened: what it decided is sent, and memory is what it says."""
        self.dispatcher.commit()
        self.requests.receiving.commit()
        self.mailboxes.commit()
        self._deferred = self._still_deferred
        if self._storage_retry_s is not None:
            self._storage_retry_s = None
            self._pool.pause_reading(False)
            self._log("room on disk again")
        self._outbox.send()
        self._adjust_limits()
        if self._stop_deadline_s is None:
            self.workforce.fill()
        if self._journal.committed:
            self._idle_since_s = None
            self._journal.checkpoint(idle=False)
        elif self._idle_since_s is None:
            self._idle_since_s = self._now_s()
        elif self._now_s() - self._idle_since_s >= IDLE_CHECKPOINT_S and self._idle_since_s > 0:
            self._journal.checkpoint(idle=True)
            self._idle_since_s = 0.0
        if self._stop_deadline_s is not None:
            self._finish_stop()

    def _finish_stop(self) -> None:
        assert self._stop_deadline_s is not None
        if len(self.dispatcher.in_hand) and self._now_s() < self._stop_deadline_s:
            return
        with self._journal.commit(self._clock.now_ms()):
            for held in self.dispatcher.in_hand.values():
                if held.buffer_seq:
                    self._journal.work.end_dispatch(held.dispatch_id, "returned")
            self._journal.stop_run()
        self._journal.checkpoint(idle=True)
        self._log("stopped")
        self.stopped = True

    # Committing what arrived

    def _record(self, events: list[Event]) -> None:
        waiting: list[ClientSpoke] = []
        for event in [*self._deferred, *events]:
            if isinstance(event, WorkerSpoke):
                self._worker_spoke(event)
            elif isinstance(event, WorkerEnded):
                self._worker_ended(event)
            elif isinstance(event, ClientClosed):
                self.requests.closed(event.connection_id)
                self.mailboxes.closed(event.connection_id)
                waiting = [earlier for earlier in waiting if earlier.connection_id != event.connection_id]
            elif any(earlier.connection_id == event.connection_id for earlier in waiting):
                waiting.append(event)  # a client's frames are answered in order
            else:
                try:
                    self.requests.handle(event.connection_id, event.frame)
                except Deferred:
                    waiting.append(event)
        self._still_deferred = waiting
        if self.requests.stop_asked:
            self.requests.stop_asked = False
            self.signals.append("stop")
        # All pipes are read before anybody is judged: a supervisor that was stopped for a minute finds the
        # answers of that minute there, and must not kill their workers for being late.
        if not self._pool.has_unread:
            self._judge_late()
        now_s = self._now_s()
        if now_s >= self._next_housekeeping_s:
            self._next_housekeeping_s = now_s + HOUSEKEEPING_S
            self.requests.give_up_stale(self._journal.now_ms)
            self.dispatcher.note_low_water()
            self._clearing = True
        if self._clearing:
            self._clearing = self._journal.buffers.clear_some()

    def _worker_spoke(self, event: WorkerSpoke) -> None:
        header = event.frame.header
        kind = header["k"]
        if kind == "answers":
            self._answers(event.worker_id, header, event.frame.bodies)
        elif kind == "ready":
            for old in self.workforce.ready(event.worker_id, header["listeners"]):
                self._let_go(old)
            self._journal.set_listeners(header["listeners"])
        elif kind == "import_error":
            self.workforce.failed_import(event.worker_id, header["error"])
            self._journal.set_worker_error(header["error"])
            self._log("worker cannot import the app", error=header["error"])

    def _answers(self, worker_id: int, header: dict[str, Any], bodies: list[str]) -> None:
        hand = self.dispatcher.hands.get(worker_id)
        pid = hand.pid if hand else 0
        for segment, payloads in zip(header["segments"], bodies, strict=False):
            held = self.dispatcher.answered(segment["dispatch"], segment["first"], segment["count"])
            if held is not None:
                self.dispatcher.paces.saw(held.listener, segment["count"], segment["total_us"])
            self.collector.record(segment, payloads, segment["attempt"], pid)
        for failed in header["failed"]:
            held = self.dispatcher.in_hand.get(failed["dispatch"])
            if held is None or held.answered >> (failed["index"] - held.first) & 1:
                continue  # answered before: the first outcome stands, and a failure is not even one
            self.dispatcher.answered(failed["dispatch"], failed["index"], 1)
            self._attempt_failed(held, failed["index"] - held.first, pid, **_facts_of(failed))
        for outcome, body in zip(header["outcomes"], bodies[len(header["segments"]) :], strict=True):
            held = self.dispatcher.answered(outcome["dispatch"], outcome["index"], 1)
            if held is None:
                continue
            if held.message_seq:
                self.conversations.message_outcome(held.message_seq, outcome, body)
            else:
                self.conversations.item_outcome(held, outcome["index"], outcome, body)
        if header["discarded"] is not None:
            self._discarded(worker_id, *header["discarded"])

    def _worker_ended(self, event: WorkerEnded) -> None:
        """Its pipe was read to the end before: what it had not answered is given back, and somebody may be
        charged.
        """
        worker_id, death = event.worker_id, event.death
        hand = self.dispatcher.hands.get(worker_id)
        overdue = self._overdue.pop(worker_id, None)
        if overdue is not None:
            death = WorkerSilent(overdue[1])
        suspects, messages = self.dispatcher.worker_gone(worker_id, event.started)
        self.workforce.gone(worker_id)
        self._log("worker ended", pid=hand.pid if hand else None, reason=str(death), suspects=len(suspects))
        for held in messages:
            self.post.put_back(held.message_seq, held.listener)
        if hand is None or not suspects:
            return
        if overdue is not None:
            guilty = [
                (held, position) for held, position in suspects if held.first_ordinal + position == overdue[0]
            ]
        elif len(suspects) == 1 and self._stop_deadline_s is None:
            guilty = suspects
        else:
            guilty = []
        for held, position in guilty:
            self._attempt_failed(held, position, hand.pid, kind=death.kind, message=str(death))
        innocent = [suspect for suspect in suspects if suspect not in guilty]
        self.dispatcher.quarantine([suspect for suspect in innocent if not suspect[0].message_seq])
        for held, _ in innocent:
            if held.message_seq:
                self.post.put_back(held.message_seq, held.listener, interrupted=True)

    def _attempt_failed(
        self,
        held: InHand,
        position: int,
        worker_pid: int,
        *,
        kind: str,
        message: str,
        traceback: str = "",
        durations: str = "",
    ) -> None:
        if held.message_seq:
            self.conversations.message_failed(
                held.attempt, held.message_seq, kind, message, traceback=traceback
            )
            return
        failed = FailedAttempt(
            held.buffer_seq,
            held.first + position,
            held.attempt,
            kind,
            message,
            traceback,
            dispatch_id=held.dispatch_id,
            worker_pid=worker_pid,
            durations=durations,
        )
        self.collector.attempt_failed(failed, (self.workforce.listeners or {}).get(held.listener))

    # Timers

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _running(self, hand: Hand) -> tuple[InHand, int, float] | None:
        """What a worker started last and has not answered: in hand, its ordinal, and for how many seconds it
        runs.
        """
        slot = self._pool.slot(hand.worker_id)
        started, since_ns = slot.started, slot.since_ns
        if since_ns == 0 or slot.started != started:
            return None
        for held in self.dispatcher.held_by(hand.worker_id):
            position = started - 1 - held.first_ordinal
            if 0 <= position < held.count and not held.answered >> position & 1:
                return held, started - 1, (self._clock.monotonic_ns() - since_ns) / 1e9
        return None

    def _judge_late(self) -> None:
        for hand in self.dispatcher.hands.values():
            if hand.unanswered == 0 or hand.worker_id in self._overdue:
                continue
            running = self._running(hand)
            if running is None:
                continue
            held, ordinal, seconds = running
            allowed_s = self._allowed_s(hand, held)
            if allowed_s is not None and seconds > allowed_s:
                self._overdue[hand.worker_id] = (ordinal, (hand.listeners or {})[held.listener]["timeout_s"])
                self._outbox.kill(hand.worker_id)
        for worker_id in self.workforce.hung_in_boot():
            self._outbox.kill(worker_id)

    @staticmethod
    def _allowed_s(hand: Hand, held: InHand) -> float | None:
        facts = (hand.listeners or {}).get(held.listener)
        if facts is None or facts["timeout_s"] is None:
            return None
        return float(facts["timeout_s"]) + (ASYNC_GRACE_S if facts["is_async"] else 0.0)

    def _timeout_s(self) -> float | None:
        """How long nothing needs to happen by itself."""
        if (self._backlog and self._storage_retry_s is None) or self.signals:
            return 0.0
        now_s = self._now_s()
        if self._storage_retry_s is not None:
            return max(0.0, self._storage_retry_s - now_s)
        if self._clearing or self.dispatcher.scan_unfinished or self._pool.has_unread:
            return 0.0
        due = [self._next_housekeeping_s]
        if self._stop_deadline_s is not None:
            due.append(self._stop_deadline_s)
        fill_s = self.workforce.next_due_s()
        if fill_s is not None and self._stop_deadline_s is None:
            due.append(fill_s)
        if self._idle_since_s is None:
            due.append(now_s + IDLE_CHECKPOINT_S)
        elif self._idle_since_s > 0:
            due.append(self._idle_since_s + IDLE_CHECKPOINT_S)
        now_ms = self._clock.now_ms()
        due += [now_s + (due_at - now_ms) / 1000 for due_at in self.post.due_at.values()]
        due += [
            now_s + (b.retry_at - now_ms) / 1000
            for b in self.registry.list_active()
            if b.retry_at and not b.paused
        ]
        due += self._worker_timers(now_s)
        return max(0.0, min(due) - now_s)

    def _worker_timers(self, now_s: float) -> list[float]:
        due = []
        hands = self.dispatcher.hands.values()
        for hand in hands:
            if hand.withdrawn and not hand.taken:
                due.append(now_s)
            if hand.unanswered == 0:
                continue
            running = self._running(hand)
            held = running[0] if running else next(iter(self.dispatcher.held_by(hand.worker_id)), None)
            allowed_s = self._allowed_s(hand, held) if held else None
            if allowed_s is not None and hand.worker_id not in self._overdue:
                due.append(now_s + allowed_s - (running[2] if running else 0.0) + 0.001)
        if (
            any(hand.unanswered == 0 and hand.listeners is not None for hand in hands)
            and self._victim(0) is not None
        ):
            due.append(now_s + STEAL_AFTER_US / 1e6)
        return due

    # Planning what is handed out, and taking back

    def _plan(self) -> None:
        self._take_back()
        if self._stop_deadline_s is not None:
            for hand in self.dispatcher.hands.values():
                self._withdraw(hand)
            return
        self.post.wake(self._journal.now_ms)
        self.mailboxes.plan()
        for worker_id, frame in [*self.post.plan(), *self.dispatcher.plan(self._journal.now_ms)]:
            self._outbox.to_worker(worker_id, frame)
        idle = [
            h
            for h in self.dispatcher.hands.values()
            if h.listeners and not (h.unanswered or h.leaving or h.withdrawn)
        ]
        if idle:
            victim = self._victim(STEAL_AFTER_US)
            if victim is not None and self._can_help(idle[0], victim):
                self._withdraw(victim)

    def _victim(self, at_least_us: int) -> Hand | None:
        """The worker with the most that it has not started and will not soon."""
        best: Hand | None = None
        most = 0
        for hand in self.dispatcher.hands.values():
            if hand.unanswered < 2 or hand.withdrawn or hand.exclusive:
                continue
            unstarted = hand.next_ordinal - self._pool.slot(hand.worker_id).started
            if unstarted <= most:
                continue
            running = self._running(hand)
            last = self.dispatcher.held_by(hand.worker_id)[-1]
            waits_us = unstarted * self.dispatcher.paces.item_us(last.listener)
            if max(waits_us, running[2] * 1e6 if running else 0.0) >= at_least_us:
                best, most = hand, unstarted
        return best

    def _can_help(self, idle: Hand, victim: Hand) -> bool:
        last = self.dispatcher.held_by(victim.worker_id)[-1]
        return last.listener in (idle.listeners or {})

    def _withdraw(self, hand: Hand) -> None:
        """Tell a worker to start nothing more of what it holds. What it has not started is read in the next
        turn.
        """
        if not hand.withdrawn and hand.unanswered:
            self.dispatcher.hands[hand.worker_id] = replace(hand, withdrawn=True)

    def _let_go(self, worker_id: int) -> None:
        """Old code gets nothing more; when it has answered what it started, its process ends."""
        hand = self.dispatcher.hands.get(worker_id)
        if hand is not None and not hand.leaving:
            self.dispatcher.hands[worker_id] = replace(hand, leaving=True, withdrawn=hand.unanswered > 0)

    def _take_back(self) -> None:
        for hand in self.dispatcher.hands.values():
            slot = self._pool.slot(hand.worker_id)
            if not hand.withdrawn or hand.taken or slot.limit == ORDINAL_MAX:
                continue
            # The worker says "started" before it looks at the limit, so whatever it may still run counts as
            # started.
            boundary = max(slot.limit, slot.started)
            for held in self.dispatcher.take_back(hand.worker_id, boundary):
                self.post.put_back(held.message_seq, held.listener)
            self.dispatcher.hands[hand.worker_id] = replace(self.dispatcher.hands[hand.worker_id], taken=True)
            if boundary >= hand.next_ordinal:
                self._end_withdrawal(hand.worker_id)
        for hand in self.dispatcher.hands.values():
            if hand.leaving and hand.unanswered == 0:
                self._outbox.kill(hand.worker_id)

    def _discarded(self, worker_id: int, first_ordinal: int, end_ordinal: int) -> None:
        """A worker has thrown away what it was told not to start."""
        for held in self.dispatcher.take_back(worker_id, first_ordinal):
            self.post.put_back(held.message_seq, held.listener)
        hand = self.dispatcher.hands.get(worker_id)
        if hand is not None and hand.withdrawn and end_ordinal >= hand.next_ordinal:
            self._end_withdrawal(worker_id)

    def _end_withdrawal(self, worker_id: int) -> None:
        hand = self.dispatcher.hands.get(worker_id)
        if hand is not None and self._stop_deadline_s is None and not hand.leaving:
            self.dispatcher.hands[worker_id] = replace(hand, withdrawn=False, taken=False)

    def _adjust_limits(self) -> None:
        """After the commit: set the slots of workers that were told to start nothing more, or that may
        again.
        """
        for hand in self.dispatcher.hands.values():
            slot = self._pool.slot(hand.worker_id)
            if hand.withdrawn and slot.limit == ORDINAL_MAX:
                slot.limit = slot.started
            elif not hand.withdrawn and slot.limit != ORDINAL_MAX:
                slot.limit = ORDINAL_MAX


def _facts_of(failed: dict[str, Any]) -> dict[str, str]:
    return {key: failed[key] for key in ("kind", "message", "traceback", "durations")}
