"""What a start finds of earlier runs. Not a mode: afterwards the dispatcher does what it always does."""

from durable_bus.journal.work import Failure
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease
from durable_bus.supervisor.outcomes import collector, conversations, messages, opening
from durable_bus.supervisor.scheduling import leases, pacing
from durable_bus.supervisor.scheduling.message_dispatcher import INTERRUPTIONS_MAX

__all__ = ["load"]


def load(context: Context) -> None:
    """Load what is open, in the commit that starts a run: buffers, and what was in somebody's hands when the
    last run ended. If we die here, the next start does the same again.
    """
    pacing.load(context)
    for row, paused, begun in context.journal.buffers.open_ones():
        retry_at = context.journal.work.next_retry_at(row.buffer_seq)
        opening.take_in(context, row, recovered=begun, paused=paused, retry_at=retry_at)
    _settle_dispatches(context)
    _settle_messages(context)


def _settle_dispatches(context: Context) -> None:
    """What the last run had handed out: one item that was alone is charged, the oldest of a worker go out
    again alone.

    Workers take their dispatches in order, so nothing but a worker's oldest unfinished one can have been
    running (or, for an async listener, little more: those count from the next crash on). An engine runs all
    that it holds side by side.
    """
    suspected_pids: set[int] = set()
    for row in context.journal.work.interrupted():
        context.journal.work.end_dispatch(row.dispatch_id, "crashed")
        buffer = context.state.buffers.get(row.buffer_seq)
        if buffer is None:
            continue
        first, end = row.first_index, row.end_index
        rows = context.journal.buffers.outstanding(buffer.seq, first, end, end - first)
        indexes = [index for index, failures in rows if failures == row.attempt - 1]
        if not indexes:
            continue
        oldest = row.place is not None or row.worker_pid not in suspected_pids
        suspected_pids.add(row.worker_pid)
        lease = ItemLease(
            lease_id=row.dispatch_id,
            worker_id=0,
            listener=buffer.target,
            attempt=row.attempt,
            alone=True,
            first_ordinal=0,
            item_count=end - first,
            buffer_seq=buffer.seq,
            first=first,
        )
        if row.alone and len(indexes) == 1:
            message = "the supervisor died while this item ran alone in its worker"
            failure = Failure("lost", message, supervisor_died=True)
            collector.attempt_failed(context, lease, indexes[0], failure, row.worker_pid, place=row.place)
        elif oldest or row.alone:
            leases.quarantine(context, [(lease, index - first) for index in indexes])


def _settle_messages(context: Context) -> None:
    """Whoever had a message when the last run ended has it no more. One that was alone is charged."""
    for name in context.journal.messages.names_with_waiting():
        context.state.waiting_names[name] = True
    for row in context.journal.messages.delivered():
        message_seq, with_worker = row.message_seq, row.worker_pid is not None
        if with_worker and row.interruptions >= INTERRUPTIONS_MAX:
            attempt = context.journal.work.message_attempts(message_seq).total + 1
            message = "the supervisor died while this message was alone with its worker"
            failure = Failure("lost", message, supervisor_died=True)
            conversations.message_failed(context, message_seq, attempt, failure)
        else:
            messages.put_back(context, message_seq, row.to_id, interrupted=with_worker)
