"""What workers say, and how they end: answers, failures and outcomes on their way into the journal; deaths
and blame.
"""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from durable_bus.errors import WorkerDeath, WorkerKilled
from durable_bus.supervisor.outcomes.collector import Collector, FailedAttempt
from durable_bus.supervisor.outcomes.conversations import Conversations
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.supervisor.requests.mailboxes import Mailboxes
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import Hand, InHand
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.supervisor.scheduling.recall import Withdrawal
from durable_bus.supervisor.scheduling.timeouts import Late, Lateness
from durable_bus.supervisor.workers.workforce import Workforce
from durable_bus.wire.protocol import Answers, Ready

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["WorkerEvents"]


class WorkerEvents:
    """Takes in what workers say, inside a commit."""

    def __init__(
        self,
        journal: "Journal",
        dispatcher: Dispatcher,
        collector: Collector,
        conversations: Conversations,
        post: Post,
        workforce: Workforce,
        lateness: Lateness,
        withdrawal: Withdrawal,
        mailboxes: Mailboxes,
        log: Callable[..., None],
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._collector = collector
        self._conversations = conversations
        self._post = post
        self._workforce = workforce
        self._lateness = lateness
        self._withdrawal = withdrawal
        self._mailboxes = mailboxes
        self._log = log

    def spoke(self, event: WorkerSpoke) -> None:
        report = event.frame.header
        if isinstance(report, Answers):
            self._answers(event.worker_id, report, event.frame.bodies)
            self._retire_worn_out(event.worker_id)
        elif isinstance(report, Ready):
            hand = self._dispatcher.hands.get(event.worker_id)
            self._log("worker ready", pid=hand.pid if hand else None, listeners=len(report.listeners))
            for old in self._workforce.ready(event.worker_id, report.listeners):
                self._withdrawal.let_go(old)
            for worker in self._dispatcher.hands.values():
                self._retire_worn_out(worker.worker_id)
            self._mailboxes.give_up(self._workforce.listeners or {})
            self._journal.set_listeners(report.listeners)
        else:
            self._workforce.failed_import(event.worker_id, report.error)
            facts = {"traceback": report.traceback} if report.traceback else {}
            self._cannot_import(report.error, **facts)

    def _cannot_import(self, error: str, **facts: str) -> None:
        self._journal.set_worker_error(error)
        self._log("worker cannot import the app", error=error, **facts)

    def _answers(self, worker_id: int, answers: Answers, bodies: list[bytes]) -> None:
        hand = self._dispatcher.hands.get(worker_id)
        pid = hand.pid if hand else 0
        for segment, payloads in zip(answers.segments, bodies, strict=False):
            held = self._dispatcher.answered(segment.dispatch, segment.first, segment.count)
            if held is not None:
                self._dispatcher.paces.saw(held.listener, segment.count, segment.total_us)
            self._collector.record(segment, payloads, pid)
        for failed in answers.failed:
            held = self._dispatcher.in_hand.get(failed.dispatch)
            if held is None or held.worker_id != worker_id:
                continue  # somebody else has it by now
            if held.answered >> (failed.index - held.first) & 1:
                continue  # answered before: the first outcome stands, and a failure is not even one
            self._dispatcher.answered(failed.dispatch, failed.index, 1)
            self._attempt_failed(
                held,
                failed.index - held.first,
                pid,
                kind=failed.kind,
                message=failed.message,
                traceback=failed.traceback,
                durations=failed.durations,
            )
        for handled, body in zip(answers.outcomes, bodies[len(answers.segments) :], strict=True):
            held = self._dispatcher.answered(handled.dispatch, handled.index, 1)
            if held is None:
                continue
            if held.message_seq:
                self._conversations.message_outcome(held.message_seq, handled.outcome, body)
            else:
                self._conversations.item_outcome(held, handled.index, handled.outcome, body)
        if answers.discarded is not None:
            self._withdrawal.discarded(worker_id, *answers.discarded)

    def _retire_worn_out(self, worker_id: int) -> None:
        """A worker that was given as many items as it may run is replaced: a fresh one boots while it answers
        them. It leaves only when that one is there: if the app cannot be imported any more, it works on.
        """
        hand = self._dispatcher.hands.get(worker_id)
        if hand is not None and not self._dispatcher.room(hand):
            self._workforce.retire(worker_id)
            if not hand.unanswered and self._workforce.is_replaced(worker_id):
                self._withdrawal.let_go(worker_id)

    def ended(self, event: WorkerEnded, *, stopping: bool) -> None:
        """Its pipe was read to the end before: what it had not answered is given back, and somebody may be
        charged. Stopping charges nobody.
        """
        worker_id, death = event.worker_id, event.death
        hand = self._dispatcher.hands.get(worker_id)
        late = self._lateness.late.pop(worker_id)
        if late is not None:
            death = late.death
        suspects, messages = self._dispatcher.worker_gone(worker_id, event.started)
        not_importable_because = self._workforce.gone(worker_id, death)
        self._log("worker ended", pid=hand.pid if hand else None, reason=str(death), suspects=len(suspects))
        if not_importable_because is not None:
            self._cannot_import(not_importable_because)
        for held in messages:
            self._post.put_back(held.message_seq, held.listener)
        if hand is None:
            return
        guilty = self._guilty(event, hand, suspects, late, stopping=stopping)
        for held, position in guilty:
            self._attempt_failed(held, position, hand.pid, kind=death.kind, message=str(death))
        innocent = [suspect for suspect in suspects if suspect not in guilty]
        self._dispatcher.quarantine([suspect for suspect in innocent if not suspect[0].message_seq])
        for held, _ in innocent:
            if held.message_seq:
                self._post.put_back(held.message_seq, held.listener, interrupted=True)

    def _guilty(
        self,
        event: WorkerEnded,
        hand: Hand,
        suspects: list[tuple[InHand, int]],
        late: Late | None,
        *,
        stopping: bool,
    ) -> list[tuple[InHand, int]]:
        """Who of the suspects is charged: the one whose step it was, the only one there is, or nobody, as
        long as nobody can say.
        """

        def at(ordinal: int) -> list[tuple[InHand, int]]:
            return [(held, at) for held, at in suspects if held.first_ordinal + at == ordinal]

        if late is not None and late.ordinal is None:
            return []  # it was ended because nothing ran in it
        if event.current and late is not None:
            # Another one's step may have begun before the kill came: it was not late.
            return at(event.current - 1) if event.current - 1 == late.ordinal else []
        if event.current and _is_own_doing(event.death) and not stopping:
            # Of the suspects it may be none: one that was given up before, and that went on all the same.
            return at(event.current - 1)
        if len(suspects) == 1 and not stopping:
            return suspects
        if late is not None and late.ordinal is not None:
            return [one for one in at(late.ordinal) if not self._lateness.is_async(hand, one[0])]
        return []

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
            self._conversations.message_failed(
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
        self._collector.attempt_failed(failed, (self._workforce.listeners or {}).get(held.listener))


def _is_own_doing(death: WorkerDeath) -> bool:
    """The process ended by what it did itself; these signals come from somebody else, at any moment."""
    return not (isinstance(death, WorkerKilled) and death.signal_number in (signal.SIGKILL, signal.SIGTERM))
