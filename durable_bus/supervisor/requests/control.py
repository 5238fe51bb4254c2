"""What clients may ask about buffers that exist: cancel, pause, resume, prune; and how the supervisor
is.

Each is idempotent: asked again, in this run or a later one, it changes nothing more and answers the same.
Only of a buffer whose items still arrived a cancel leaves nothing that could answer: its id is free again,
and who asks anew is told that there is no such buffer.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durable_bus.errors import BufferError, NotFound
from durable_bus.supervisor.io.clock import Clock
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes.buffers import BufferRegistry
from durable_bus.supervisor.outcomes.collector import Collector
from durable_bus.supervisor.scheduling.dispatcher import Dispatcher
from durable_bus.supervisor.scheduling.recall import Withdrawal
from durable_bus.supervisor.scheduling.timeouts import Lateness, Running
from durable_bus.supervisor.workers.workforce import Workforce
from durable_bus.wire.framing import Frame

if TYPE_CHECKING:
    import sqlite3

    from durable_bus.journal.journal import Journal

__all__ = ["Control"]


class Control:
    """Answers those requests, inside a commit."""

    def __init__(
        self,
        journal: "Journal",
        registry: BufferRegistry,
        dispatcher: Dispatcher,
        collector: Collector,
        workforce: Workforce,
        withdrawal: Withdrawal,
        lateness: Lateness,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._dispatcher = dispatcher
        self._collector = collector
        self._workforce = workforce
        self._withdrawal = withdrawal
        self._lateness = lateness
        self._outbox = outbox
        self._clock = clock
        self.storage_full = False
        """The newest commit was refused, because there is no room on disk."""
        self.handlers: dict[str, Callable[[int, Frame[Any]], dict[str, Any] | None]] = {
            "cancel": self._cancel,
            "pause": self._pause,
            "resume": self._resume,
            "prune": self._prune,
            "status": self._status,
        }

    def _row(self, frame: Frame[Any]) -> "sqlite3.Row":
        buffer_id = frame.header["buffer_id"]
        row = self._journal.buffers.by_id(buffer_id)
        if row is None:
            raise NotFound(f"no buffer {buffer_id!r:.120}")
        return row

    def _answer(self, buffer_id: str) -> dict[str, Any]:
        row = self._journal.buffers.by_id(buffer_id)
        state = "gone" if row is None else _state(row)
        buffer = None if row is None else self._registry.get(row["buffer_seq"])
        paused = buffer is not None and buffer.paused
        return {"k": "controlled", "buffer_id": buffer_id, "state": state, "paused": paused}

    def _cancel(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        """End a buffer as it is, and the buffers that handlers of its items have started."""
        row = self._row(frame)
        if row["opened_commit"] is None:
            self._journal.buffers.drop(row["buffer_seq"])
            answer = self._answer(row["buffer_id"])
            # If we die before it is sent, the client asks again, and the buffer would not be there any more.
            self._journal.add_request(frame.header["request"], answer)
            return answer
        buffer = self._registry.get(row["buffer_seq"])
        if buffer is not None:
            within = f"{buffer.thread_id}/"
            for other in self._registry.list_active():
                if other.seq == buffer.seq or other.thread_id.startswith(within):
                    self._withdrawal.withdraw_buffer(other.seq)
                    self._collector.cancel(other)
                    self._outbox.log("buffer cancelled", buffer=other.buffer_id)
        return self._answer(row["buffer_id"])

    def _pause(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        """Hand nothing more of it out; what runs goes on, and its results are recorded.

        Raises BufferError while its items arrive: a pause is of what is open, and would be forgotten.
        """
        row = self._row(frame)
        if row["opened_commit"] is None:
            raise BufferError(row["buffer_id"], "its items are still arriving: pause it when it is open")
        buffer = self._registry.get(row["buffer_seq"])
        if buffer is not None:
            self._journal.buffers.pause(buffer.seq)
            self._outbox.log("buffer paused", buffer=buffer.buffer_id)
            self._registry.buffers[buffer.seq] = buffer._replace(paused=True)
            self._withdrawal.withdraw_buffer(buffer.seq)
        return self._answer(row["buffer_id"])

    def _resume(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        row = self._row(frame)
        self._journal.buffers.resume(row["buffer_seq"])
        buffer = self._registry.get(row["buffer_seq"])
        if buffer is not None:
            self._registry.buffers[buffer.seq] = buffer._replace(paused=False)
            self._outbox.log("buffer resumed", buffer=buffer.buffer_id)
        return self._answer(row["buffer_id"])

    # Retention

    def _prune(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        """Mark buffers that ended before a time, with nothing unsettled, as pruned, and then drop
        conversations that ended before it: one page of them, so that the client goes on with `next`. The rows
        of buffers go in later turns.
        """
        before_ms, after = frame.header["before_ms"], frame.header.get("after") or [0, 0]
        if len(after) == 1:  # a message, and no more a buffer
            last = self._journal.messages.forget_ended(before_ms, after[0])
            return {"k": "pruned", "buffers": 0, "next": last and [last]}
        after_commit, after_seq = after
        marked, later = self._journal.buffers.prune(before_ms, (after_commit, after_seq))
        return {"k": "pruned", "buffers": marked, "next": later or [0]}

    # Status

    def _status(self, connection_id: int, frame: Frame[Any]) -> dict[str, Any]:
        """How the workers are; all else is in the journal."""
        workers = []
        nothing = dict.fromkeys(("listener", "buffer_id", "item_index", "message_id", "seconds"))
        for hand in self._dispatcher.hands.values():
            running = self._lateness.running(hand)
            workers.append(
                {
                    "pid": hand.pid,
                    "state": "booting" if hand.listeners is None else "leaving" if hand.leaving else "ready",
                    "old_code": self._workforce.is_old(hand.worker_id),
                    "in_hand": hand.unanswered,
                    **(self._what(running) if running else nothing),
                }
            )
        return {
            "k": "status",
            "workers": workers,
            "import_error": self._workforce.import_error,
            "storage_full": self.storage_full,
            "now_ms": self._clock.now_ms(),
        }

    def _what(self, running: Running) -> dict[str, Any]:
        """What a worker runs: an item, maybe of a buffer that was cancelled meanwhile, or a message."""
        held = running.held
        what: dict[str, Any] = {"listener": held.listener, "seconds": round(running.seconds, 3)}
        if held.message_seq:
            message_id = self._journal.messages.by_seq(held.message_seq)["message_id"]
            return {**what, "buffer_id": None, "item_index": None, "message_id": message_id}
        buffer_id = self._journal.buffers.by_seq(held.buffer_seq)["buffer_id"]
        index = held.first + running.ordinal - held.first_ordinal
        return {**what, "buffer_id": buffer_id, "item_index": index, "message_id": None}


def _state(row: "sqlite3.Row") -> str:
    if row["pruned_commit"] is not None:
        return "pruned"
    if row["cancelled_commit"] is not None:
        return "cancelled"
    if row["ended_commit"] is not None:
        return "complete"
    return "open" if row["opened_commit"] is not None else "receiving"
