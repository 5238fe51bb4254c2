"""Hands messages to workers, ahead of all items. Those to mailboxes wait for who asks for them."""

from durable_bus.journal.messages import MessageRow
from durable_bus.payloads.packing import pack
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import MessageLease, Worker
from durable_bus.supervisor.outcomes import messages
from durable_bus.supervisor.scheduling import leases, turns
from durable_bus.supervisor.scheduling.pacing import Gates
from durable_bus.wire.framing import encode
from durable_bus.wire.work import WorkMessage

__all__ = ["INTERRUPTIONS_MAX", "plan_messages"]

_PAGE_MESSAGES = 200
INTERRUPTIONS_MAX = 2
"""After so many deaths near it that nobody was charged with, a message goes to a worker alone."""


def plan_messages(context: Context, gates: Gates) -> set[str]:
    """Hand out what waits for listeners, as far as workers have room for it. Returns the listeners for whose
    message a worker is to be kept free: it must be alone.
    """
    state = context.state
    alone_listeners: set[str] = set()
    for name in sorted(state.waiting_names):
        if not any(worker.settings(name) for worker in state.workers.values()):
            continue  # a mailbox, or a listener that today's app does not have
        rows = context.journal.messages.waiting(name, _PAGE_MESSAGES)
        for row in rows:
            if not gates.free(name):
                break
            alone = row.interruptions >= INTERRUPTIONS_MAX
            workers = [worker for worker in state.workers.values() if context.room(worker)]
            worker = turns.freest(workers, name, alone=alone)
            if worker is None:
                if alone:
                    alone_listeners.add(name)
                break
            _hand_out(context, worker, row, alone=alone)
            gates.take(name, 1)
        else:
            if len(rows) < _PAGE_MESSAGES:
                messages.found_none(context, name)
    return alone_listeners


def _hand_out(context: Context, worker: Worker, row: MessageRow, *, alone: bool) -> None:
    message_seq = row.message_seq
    context.journal.messages.deliver(message_seq, worker.pid)
    lease = MessageLease(
        lease_id=-message_seq,
        worker_id=worker.worker_id,
        listener=row.to_id,
        attempt=context.journal.work.message_attempts(message_seq).total + 1,
        alone=alone,
        first_ordinal=worker.next_ordinal,
        message_seq=message_seq,
    )
    leases.give(context.state, worker, lease)
    work = WorkMessage(
        dispatch=lease.lease_id,
        message_id=row.message_id,
        thread=row.thread_id,
        from_id=row.from_id,
        listener=lease.listener,
        attempt=lease.attempt,
        ordinal=lease.first_ordinal,
        form=row.form,
        completes=row.buffer_seq if row.kind == "BufferComplete" else None,
    )
    context.outbox.to_worker(worker.worker_id, encode(work, pack([row.payload])))
