"""The collector: turns answers into results and completions.

Everything here happens inside a commit of the supervisor. A result, the counters it moves, the end of its
buffer and the BufferComplete that follows from it are one transaction: there is no moment at which the last
result is on disk and its completion is not.
"""

from durable_bus.journal.messages import NewMessage
from durable_bus.journal.work import Failure
from durable_bus.payloads.dataclass_xml import codec_of
from durable_bus.payloads.forms import XML
from durable_bus.payloads.messages import BufferComplete
from durable_bus.payloads.xml_writing import error_payload
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, OpenBuffer, Range
from durable_bus.supervisor.outcomes import budgets, messages, threads
from durable_bus.supervisor.outcomes.attempts import next_attempt_at
from durable_bus.supervisor.outcomes.threads import ItemHop
from durable_bus.supervisor.scheduling import recall
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Segment
from durable_bus.wire.protocol import Ended

__all__ = [
    "attempt_failed",
    "complete_message_id",
    "end_early",
    "end_overdue",
    "give_again",
    "record",
    "record_passed_on",
    "sealed",
]


def complete_message_id(buffer_id: str) -> str:
    """The id of a buffer's BufferComplete: always the same, so that a receiver can tell a second delivery."""
    return f"{buffer_id}/complete"


def record(
    context: Context, segment: Segment, payloads: bytes, worker_pid: int, place: str | None = None
) -> None:
    """A contiguous range of answers. Of items that have their outcome already nothing is kept. `place`: where
    they ran, if not in a worker of ours.
    """
    buffer = context.state.buffers.get(segment.buffer)
    if buffer is None:
        return
    recorded = context.journal.work.record_results(
        buffer_seq=buffer.seq,
        first_index=segment.first,
        item_count=segment.count,
        payloads=payloads,
        success=segment.success,
        form=segment.form,
        dispatch_id=segment.dispatch,
        attempt=segment.attempt,
        worker_pid=worker_pid,
        place=place,
        durations=segment.durations,
        passed_on=buffer.passed_on,
    )
    _count(context, buffer.seq, recorded, success=segment.success)


def give_again(context: Context, buffer_seq: int, first_index: int, sources: list[int], attempt: int) -> None:
    """Neighbouring items get the answers that equal items have got. `sources`: the keys of those."""
    recorded = context.journal.work.give_again(buffer_seq, first_index, sources, attempt)
    _count(context, buffer_seq, recorded, success=True)


def record_passed_on(context: Context, hop: ItemHop, payload: str, *, success: bool, form: int) -> None:
    """The result of an item that its own handler did not answer: its conversation has ended elsewhere."""
    row = context.journal.buffers.by_id(hop.buffer_id)
    if row is None or row.buffer_seq not in context.state.buffers:
        return
    recorded = context.journal.work.record_result(
        buffer_seq=row.buffer_seq,
        index=hop.item_index,
        payload=payload,
        success=success,
        form=form,
        attempt=context.journal.work.forwarded_attempt(row.buffer_seq, hop.item_index) or 1,
    )
    _count(context, row.buffer_seq, int(recorded), success=success)


def _count(context: Context, buffer_seq: int, recorded: int, *, success: bool) -> None:
    if not recorded:
        return
    succeeded, failed = (recorded, 0) if success else (0, recorded)
    before = context.state.buffers[buffer_seq]
    counts = {"recorded": before.recorded + recorded, "failed": before.failed + failed}
    buffer = context.state.buffers.change(buffer_seq, **counts)
    # The rows decide: the statement closes the buffer only when as many results as items are counted from
    # inserts.
    buffers = context.journal.buffers
    if buffer.is_complete and buffers.count_last(buffer_seq, succeeded, failed):
        _emit(context, buffer)
        return
    buffers.count(buffer_seq, succeeded, failed)
    if buffer.enough is not None and buffer.recorded - buffer.failed >= buffer.enough:
        end_early(context, buffer, "enough")
    elif buffer.max_failures is not None and buffer.failed >= buffer.max_failures:
        end_early(context, buffer, "max_failures")


def attempt_failed(
    context: Context,
    lease: ItemLease,
    index: int,
    failure: Failure,
    worker_pid: int,
    durations: str = "",
    place: str | None = None,
) -> None:
    """An attempt failed: journal it, and either plan the next one or record the item as failed. `place`:
    where it ran, if not in a worker of ours.
    """
    state, work = context.state, context.journal.work
    buffer = state.buffers.get(lease.buffer_seq)
    if buffer is None or work.has_outcome(buffer.seq, index):
        return
    before = work.item_attempts(buffer.seq, index)
    settings = (state.listeners or {}).get(lease.listener)
    next_at = next_attempt_at(failure, before, settings, context.journal.now_ms, (buffer.seq, index))
    work.record_failure(
        failure, lease.attempt, item=(buffer.seq, index), retry_at=next_at or None, place=place
    )
    if next_at == 0:
        again = Range(index, 1, before.total + 2, alone=True)
        state.give_back(buffer.seq, [again])
    elif next_at is not None:
        due = next_at if buffer.retry_at is None else min(next_at, buffer.retry_at)
        state.buffers.change(buffer.seq, retry_at=due)
    else:
        recorded = work.record_result(
            buffer_seq=buffer.seq,
            index=index,
            payload=error_payload(failure.kind, failure.message, failure.answer),
            success=False,
            form=XML,
            attempt=lease.attempt,
            dispatch_id=lease.lease_id,
            worker_pid=worker_pid,
            place=place,
            durations=durations,
        )
        _count(context, buffer.seq, int(recorded), success=False)


def sealed(context: Context, buffer_seq: int) -> None:
    """No more items of a stream come. When all of them have their results already, this is its end."""
    buffer = context.state.buffers.change(buffer_seq, sealed=True)
    if buffer.is_complete and context.journal.buffers.count_last(buffer_seq, 0, 0):
        _emit(context, buffer)


def end_early(context: Context, buffer: OpenBuffer, how: str) -> None:
    """End a buffer as it is, and cancel those that handlers of its items have started: what has no result
    stays *missing*, and BufferComplete is emitted as ever. `how`: see `BufferTable.cancel`.
    """
    within = f"{buffer.thread_id}/"
    for other in [*context.state.buffers.values()]:
        if other.seq == buffer.seq or other.thread_id.startswith(within):
            recall.recall_buffer(context, other.seq)
            other_how = how if other.seq == buffer.seq else "cancelled"
            if context.journal.buffers.cancel(other.seq, other_how):
                _emit(context, other)
                context.outbox.log("buffer ended early", buffer=other.buffer_id, how=other_how)


def end_overdue(context: Context) -> None:
    """End what is over its deadline."""
    now_ms = context.journal.now_ms
    for buffer in [*context.state.buffers.values()]:
        is_open = buffer.seq in context.state.buffers  # it may have ended within another one
        if is_open and buffer.deadline_at is not None and buffer.deadline_at <= now_ms:
            end_early(context, buffer, "deadline")


def _forget_who_waits(state: State, buffer_seq: int) -> None:
    """Nothing of a buffer that has ended waits for an equal item."""
    for key in [key for key in state.held_equal if key[0] == buffer_seq]:
        state.held_equal.discard(key)


def _emit(context: Context, buffer: OpenBuffer) -> None:
    """Write the buffer's one BufferComplete, in the transaction of what ended it."""
    context.state.buffers.discard(buffer.seq)
    _forget_who_waits(context.state, buffer.seq)
    budgets.forget(context.state, buffer)
    context.outbox.log(
        "buffer ended", buffer=buffer.buffer_id, recorded=buffer.recorded, failed=buffer.failed
    )
    if buffer.collect:
        to_id = buffer.return_to or buffer.from_id
        # Our own: none of its fields can hold what an answer is checked for.
        payload = codec_of(BufferComplete).dump(
            BufferComplete(buffer.buffer_id, buffer.total, buffer.recorded - buffer.failed, "")
        )
        new = NewMessage(
            from_id=f"buffer_{buffer.buffer_id}",
            to_id=to_id,
            thread_id=buffer.starter_thread_id,
            payload=payload,
            settled=to_id == "",
            buffer_seq=buffer.seq,
        )
        messages.add(context, new, complete_message_id(buffer.buffer_id))
        if to_id and to_id != buffer.from_id:
            chain = threads.lookup(context.journal, buffer.starter_thread_id)
            if chain is not None:
                threads.set_chain(context.journal, chain.handed_to(to_id), buffer.starter_thread_id)
    for connection_id in context.state.watchers.discard(buffer.seq) or ():
        context.outbox.to_client(connection_id, Ended(buffer.buffer_id))
