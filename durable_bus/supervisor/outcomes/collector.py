"""The primitive: a buffer opens, collects results, and completes.

Everything here happens inside a commit of the supervisor. A result, the counters it moves, the end of its
buffer and the BufferComplete that follows from it are one transaction: there is no moment at which the last
result is on disk and its completion is not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_bus.payloads.dataclass_xml import codec_of
from durable_bus.payloads.messages import SECONDS_MAX, BufferComplete
from durable_bus.payloads.settings import ListenerSettings
from durable_bus.payloads.xml import error_payload
from durable_bus.supervisor.outbox import Outbox
from durable_bus.supervisor.outcomes.buffers import BufferRegistry, OpenBuffer, Range
from durable_bus.supervisor.outcomes.threads import ThreadRegistry
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.wire.protocol import Segment

if TYPE_CHECKING:
    from durable_bus.journal.buffers import BufferRow
    from durable_bus.journal.journal import Journal

__all__ = [
    "LOST_MAX",
    "LOST_WITH_SUPERVISOR_MAX",
    "Collector",
    "FailedAttempt",
    "backoff_ms",
    "complete_message_id",
]

_BACKOFF_DOUBLINGS_MAX = 30
LOST_MAX = 3
"""How many deaths of its worker an item may be charged with; then it has failed as `lost`."""
LOST_WITH_SUPERVISOR_MAX = 5
"""The same for deaths of the whole supervisor: those are more often somebody else's doing."""


def complete_message_id(buffer_id: str) -> str:
    """The id of a buffer's BufferComplete: always the same, so that a receiver can tell a second delivery."""
    return f"{buffer_id}/complete"


def backoff_ms(settings: ListenerSettings, charged: int) -> int:
    """How long to wait after so many failed attempts that count: each time twice as long."""
    return int(1000 * min(settings.backoff_s * 2 ** min(charged - 1, _BACKOFF_DOUBLINGS_MAX), SECONDS_MAX))


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt at an item that did not lead to an outcome."""

    buffer_seq: int
    index: int
    attempt: int
    kind: str
    message: str
    traceback: str = ""
    supervisor_died: bool = False
    dispatch_id: int | None = None
    worker_pid: int | None = None
    durations: str = ""


class Collector:
    """Turns answers into results and completions."""

    def __init__(
        self,
        journal: "Journal",
        registry: BufferRegistry,
        outbox: Outbox,
        post: Post,
        threads: ThreadRegistry,
    ) -> None:
        self._journal = journal
        self._post = post
        self._threads = threads
        self._registry = registry
        self._outbox = outbox
        self.watchers: dict[int, set[int]] = {}
        """Connections that want to hear of a buffer's end; a convenience, so neither staged nor journaled."""

    def open(self, row: "BufferRow") -> OpenBuffer:
        """The buffer has just been opened in this commit: from now on the dispatcher sees it."""
        return self._registry.create(row)

    def buffer(self, buffer_seq: int) -> OpenBuffer | None:
        """The buffer, as long as it is open."""
        return self._registry.get(buffer_seq)

    def record(self, segment: Segment, payloads: bytes, worker_pid: int) -> None:
        """A contiguous range of answers. Of items that have their outcome already nothing is kept."""
        buffer = self._registry.get(segment.buffer)
        if buffer is None:
            return
        recorded = self._journal.work.record_results(
            buffer_seq=buffer.seq,
            first_index=segment.first,
            item_count=segment.count,
            payloads=payloads,
            success=segment.success,
            is_xml=segment.is_xml,
            dispatch_id=segment.dispatch,
            attempt=segment.attempt,
            worker_pid=worker_pid,
            durations=segment.durations,
            passed_on=buffer.passed_on,
        )
        self._count(buffer.seq, recorded, segment.success)

    def passed_on(self, buffer: OpenBuffer) -> None:
        """An item's outcome is that its handler passed its work on."""
        self._registry.buffers[buffer.seq] = buffer._replace(passed_on=True)

    def record_one(
        self, buffer_seq: int, index: int, payload: str, *, success: bool, is_xml: bool, attempt: int
    ) -> bool:
        """The result of an item that its own handler did not answer: its conversation has ended elsewhere."""
        if self._registry.get(buffer_seq) is None:
            return False
        recorded = self._journal.work.record_result(
            buffer_seq=buffer_seq,
            index=index,
            payload=payload,
            success=success,
            is_xml=is_xml,
            attempt=attempt,
        )
        self._count(buffer_seq, int(recorded), success)
        return recorded

    def _count(self, buffer_seq: int, recorded: int, success: bool) -> None:
        if not recorded:
            return
        succeeded, failed = (recorded, 0) if success else (0, recorded)
        buffer = self._registry.record_results(buffer_seq, recorded, failed=failed)
        # The rows decide: the statement closes the buffer only when as many results as items are counted from
        # inserts.
        buffers = self._journal.buffers
        if buffer and buffer.is_complete and buffers.count_last(buffer_seq, succeeded, failed):
            self._emit(buffer)
        else:
            buffers.count(buffer_seq, succeeded, failed)

    def attempt_failed(self, failed: FailedAttempt, settings: ListenerSettings | None) -> None:
        """An attempt failed: journal it, and either plan the next one or record the item as failed.

        `settings` is the listener's in the newest table; without it (today's app lacks the listener) nothing
        is retried.
        """
        buffer = self._registry.get(failed.buffer_seq)
        if buffer is None or self._journal.work.has_outcome(failed.buffer_seq, failed.index):
            return
        work = self._journal.work
        before = work.item_attempts(failed.buffer_seq, failed.index)
        retry_at: int | None = None
        again_alone = False
        if failed.kind in ("exception", "timeout"):
            charged = before.charged + 1
            if settings and charged < settings.attempts:
                retry_at = self._journal.now_ms + backoff_ms(settings, charged)
        elif failed.kind == "lost":
            so_far = before.lost_with_supervisor if failed.supervisor_died else before.lost
            again_alone = so_far + 1 < (LOST_WITH_SUPERVISOR_MAX if failed.supervisor_died else LOST_MAX)
        work.record_failure(
            item=(failed.buffer_seq, failed.index),
            attempt=failed.attempt,
            kind=failed.kind,
            message=failed.message,
            traceback=failed.traceback,
            supervisor_died=failed.supervisor_died,
            retry_at=retry_at,
        )
        if retry_at is not None:
            due = retry_at if buffer.retry_at is None else min(retry_at, buffer.retry_at)
            self._registry.buffers[buffer.seq] = buffer._replace(retry_at=due)
        elif again_alone:
            self._registry.give_back(buffer.seq, [Range(failed.index, 1, before.total + 2, alone=True)])
        else:
            recorded = work.record_result(
                buffer_seq=failed.buffer_seq,
                index=failed.index,
                payload=error_payload(failed.kind, failed.message),
                success=False,
                is_xml=True,
                attempt=failed.attempt,
                dispatch_id=failed.dispatch_id,
                worker_pid=failed.worker_pid,
                durations=failed.durations,
            )
            self._count(failed.buffer_seq, int(recorded), success=False)

    def cancel(self, buffer: OpenBuffer) -> None:
        """End a buffer as it is: what has no result stays *missing*, and BufferComplete is emitted like any
        other.
        """
        if self._journal.buffers.cancel(buffer.seq):
            self._emit(buffer)

    def _emit(self, buffer: OpenBuffer) -> None:
        """Write the buffer's one BufferComplete, in the transaction of what ended it."""
        self._registry.remove(buffer.seq)
        self._outbox.log(
            "buffer ended", buffer=buffer.buffer_id, recorded=buffer.recorded, failed=buffer.failed
        )
        if buffer.collect:
            to_id = buffer.return_to or buffer.from_id
            # Our own: none of its fields can hold what an answer is checked for.
            payload = codec_of(BufferComplete).dump(
                BufferComplete(buffer.buffer_id, buffer.total, buffer.recorded - buffer.failed, "")
            )
            self._post.add(
                message_id=complete_message_id(buffer.buffer_id),
                from_id=f"buffer_{buffer.buffer_id}",
                to_id=to_id,
                thread_id=buffer.starter_thread_id,
                payload=payload,
                buffer_seq=buffer.seq,
                settled=to_id == "",
            )
            if to_id and to_id != buffer.from_id:
                chain = self._threads.lookup(buffer.starter_thread_id)
                if chain is not None:
                    self._threads.set(buffer.starter_thread_id, chain.handed_to(to_id))
        for connection_id in self.watchers.pop(buffer.seq, ()):
            self._outbox.to_client(connection_id, {"k": "ended", "buffer_id": buffer.buffer_id})
