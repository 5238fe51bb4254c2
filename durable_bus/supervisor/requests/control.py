"""What clients may ask about what exists: cancel, pause, resume, change a limit, prune; and how the
supervisor is.

Each is idempotent: asked again, in this run or a later one, it changes nothing more and answers the same.
Only of a buffer whose items still arrived a cancel leaves nothing that could answer: its id is free again,
and who asks anew is told that there is no such buffer.
"""

import msgspec

from durable_bus.errors import BufferError, NotFound
from durable_bus.journal.buffers import BufferRow
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, MessageLease, OpenBuffer, Worker
from durable_bus.supervisor.maintenance import retain
from durable_bus.supervisor.outcomes import budgets, collector
from durable_bus.supervisor.requests import Handlers
from durable_bus.supervisor.scheduling import pacing, timeouts
from durable_bus.wire.parts import WorkerStatus
from durable_bus.wire.protocol import (
    Answer,
    AskStatus,
    Cancel,
    Controlled,
    LimitSet,
    OfBuffer,
    Pause,
    Prune,
    Pruned,
    Resume,
    SetLimit,
    Status,
)

__all__ = ["HANDLERS"]


def _find(context: Context, request: OfBuffer) -> tuple[BufferRow, OpenBuffer | None]:
    """Its row; and what is remembered of it while it is open."""
    row = context.journal.buffers.by_id(request.buffer_id)
    if row is None:
        raise NotFound(f"no buffer {request.buffer_id!r:.120}")
    return row, context.state.buffers.get(row.buffer_seq)


def _answer(context: Context, request: OfBuffer) -> Answer:
    state, paused = context.journal.buffers.state(request.buffer_id) or ("gone", False)
    return Controlled(request.request, request.buffer_id, state, state == "open" and bool(paused))


def _cancel(context: Context, connection_id: int, cancel: Cancel, bodies: list[bytes]) -> Answer:
    """End a buffer as it is, and the buffers that handlers of its items have started."""
    row, buffer = _find(context, cancel)
    if row.opened_commit is None:
        context.journal.buffers.drop(row.buffer_seq)
        answer = _answer(context, cancel)
        # If we die before it is sent, the client asks again, and the buffer would not be there any more.
        context.journal.add_request(cancel.request, msgspec.to_builtins(answer))
        return answer
    if buffer is not None:
        collector.end_early(context, buffer, "cancelled")
    return _answer(context, cancel)


def _pause(context: Context, connection_id: int, pause: Pause, bodies: list[bytes]) -> Answer:
    """Hand nothing more of it out; what runs goes on, and its results are recorded.

    Raises BufferError while its items arrive: a pause is of what is open, and would be forgotten.
    """
    row, buffer = _find(context, pause)
    if row.opened_commit is None:
        raise BufferError(row.buffer_id, "its items are still arriving: pause it when it is open")
    if buffer is not None:
        budgets.pause(context, buffer, "asked")
    return _answer(context, pause)


def _resume(context: Context, connection_id: int, resume: Resume, bodies: list[bytes]) -> Answer:
    row, buffer = _find(context, resume)
    budgets.check_amounts(row.buffer_id, resume.budget)
    if buffer is None:
        context.journal.buffers.resume(row.buffer_seq)
    else:
        budgets.resume(context, buffer, resume.budget)
    answer = _answer(context, resume)
    if buffer is not None and buffer.budget_of is not None:
        # If we die before it is sent, the client asks again, and would be granted the same once more.
        context.journal.add_request(resume.request, msgspec.to_builtins(answer))
    return answer


def _set_limit(context: Context, connection_id: int, ask: SetLimit, bodies: list[bytes]) -> Answer:
    limit = pacing.set_by_hand(context, ask.name, ask.rate, ask.running, reset=ask.reset)
    return LimitSet(ask.request, ask.name, limit.rate, limit.running, limit.by_hand)


def _prune(context: Context, connection_id: int, prune: Prune, bodies: list[bytes]) -> Answer:
    """A page. The client goes on with `next`."""
    return Pruned(prune.request, *retain(context.journal, prune.before_ms, prune.after or [0, 0]))


def _status(context: Context, connection_id: int, ask: AskStatus, bodies: list[bytes]) -> Answer:
    """How the workers are; all else is in the journal."""
    return Status(
        ask.request,
        [_worker(context, worker) for worker in context.state.workers.values()],
        context.state.import_error or context.state.engine_error,
        context.state.storage_full,
        context.ports.clock.now_ms(),
        context.counting.told(),
    )


def _worker(context: Context, worker: Worker) -> WorkerStatus:
    """What it runs is an item, maybe of a buffer that was cancelled meanwhile, or a message."""
    told = WorkerStatus(
        pid=worker.pid,
        state="booting" if worker.listeners is None else "leaving" if worker.leaving else "ready",
        old_code=worker.generation < context.state.generation,
        in_hand=worker.unanswered,
    )
    if worker.engine:
        told.engine = worker.engine
        return told
    running = timeouts.running(context, worker, context.state.held_by(worker))
    if running is not None:
        lease = running.lease
        told.listener, told.seconds = lease.listener, round(running.seconds, 3)
        if isinstance(lease, MessageLease):
            told.message_id = context.journal.messages.by_seq(lease.message_seq).message_id
        elif isinstance(lease, ItemLease):
            told.buffer_id = context.journal.buffers.by_seq(lease.buffer_seq).buffer_id
            told.item_index = lease.first + running.ordinal - lease.first_ordinal
    return told


HANDLERS: Handlers = {
    Cancel: _cancel,
    Pause: _pause,
    Resume: _resume,
    SetLimit: _set_limit,
    Prune: _prune,
    AskStatus: _status,
}
