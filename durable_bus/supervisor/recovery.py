"""What a start finds of earlier runs. Not a mode: afterwards the dispatcher does what it always does."""

from typing import TYPE_CHECKING

from durable_bus.supervisor.outcomes.buffers import BufferRegistry
from durable_bus.supervisor.outcomes.collector import Collector, FailedAttempt
from durable_bus.supervisor.outcomes.conversations import Conversations
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.leases import InHand
from durable_bus.supervisor.scheduling.message_dispatcher import INTERRUPTIONS_MAX, Post

if TYPE_CHECKING:
    from durable_bus.journal.journal import Journal

__all__ = ["Recovery"]


class Recovery:
    """Loads what is open, in the commit that starts a run. If we die here, the next start does the same
    again.
    """

    def __init__(
        self,
        journal: "Journal",
        registry: BufferRegistry,
        dispatcher: Dispatcher,
        collector: Collector,
        post: Post,
        conversations: Conversations,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._dispatcher = dispatcher
        self._collector = collector
        self._post = post
        self._conversations = conversations

    def load(self) -> None:
        """Open buffers, and what was in somebody's hands when the last run ended."""
        for row in self._journal.buffers.open_ones():
            buffer = self._registry.create(row, paused=bool(row["paused"]), recovered=bool(row["handed_out"]))
            due = self._journal.work.next_retry_at(buffer.seq)
            self._registry.buffers[buffer.seq] = buffer._replace(retry_at=due)
        self._settle_dispatches()
        self._settle_messages()

    def _settle_dispatches(self) -> None:
        """What the last run had handed out: one item that was alone is charged, the oldest of a worker go out
        again alone.

        Workers take their dispatches in order, so nothing but a worker's oldest unfinished one can have been
        running (or, for an async listener, little more: those count from the next crash on).
        """
        suspected_pids: set[int] = set()
        for row in self._journal.work.interrupted():
            self._journal.work.end_dispatch(row["dispatch_id"], "crashed")
            buffer = self._registry.get(row["buffer_seq"])
            if buffer is None:
                continue
            first, end = row["first_index"], row["end_index"]
            rows = self._journal.buffers.outstanding(buffer.seq, first, end, end - first)
            indexes = [index for index, failures in rows if failures == row["attempt"] - 1]
            if not indexes:
                continue
            oldest = row["worker_pid"] not in suspected_pids
            suspected_pids.add(row["worker_pid"])
            if not (oldest or row["alone"]):
                continue
            if row["alone"] and len(indexes) == 1:
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
                self._collector.attempt_failed(failed, None)
            else:
                held = InHand(
                    row["dispatch_id"], 0, buffer.seq, "", first, end - first, row["attempt"], True, 0
                )
                self._dispatcher.quarantine([(held, index - first) for index in indexes])

    def _settle_messages(self) -> None:
        """Whoever had a message when the last run ended has it no more. One that was alone is charged."""
        self._post.waiting_names.update(self._journal.messages.names_with_waiting())
        for row in self._journal.messages.delivered():
            message_seq, with_worker = row["message_seq"], row["worker_pid"] is not None
            if with_worker and row["interruptions"] >= INTERRUPTIONS_MAX:
                attempt = self._journal.work.message_attempts(message_seq).total + 1
                self._conversations.message_failed(
                    attempt,
                    message_seq,
                    "lost",
                    "the supervisor died while this message was alone with its worker",
                    supervisor_died=True,
                )
            else:
                self._post.put_back(message_seq, row["to_id"], interrupted=with_worker)
