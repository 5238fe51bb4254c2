"""What workers hold: a lease for each range of items, and for each message, that was handed to one."""

import msgspec

from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Lease, MessageLease, Range, Worker
from durable_bus.supervisor.outcomes import messages
from durable_bus.supervisor.state import State
from durable_bus.wire.slot import ORDINAL_MAX

__all__ = [
    "Suspect",
    "answered",
    "contiguous",
    "give",
    "halves",
    "lost",
    "quarantine",
    "take_back",
    "worker_gone",
]

Suspect = tuple[Lease, int]
"""A position of a lease that a worker had started and not answered when it ended."""


def contiguous(indexes: list[int]) -> list[tuple[int, int]]:
    """Sorted indexes as ranges (first, count)."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and ranges[-1][0] + ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((index, 1))
    return ranges


def give(state: State, worker: Worker, lease: Lease) -> None:
    """A worker is given a range of items, or a message."""
    state.leases[lease.lease_id] = lease
    state.given |= {worker.worker_id}
    state.workers.change(
        worker.worker_id,
        unanswered=worker.unanswered + lease.item_count,
        messages=worker.messages + isinstance(lease, MessageLease),
        next_ordinal=worker.next_ordinal + lease.item_count,
        held=(*worker.held, lease.lease_id),
        exclusive=lease.alone,
    )


def answered(context: Context, lease_id: int, first: int, count: int) -> Lease | None:
    """`count` answers from index `first` on have come. The lease before that; None when it has ended."""
    lease = context.state.leases.get(lease_id)
    if lease is not None:
        buffer = context.state.buffers.get(lease.buffer_seq) if isinstance(lease, ItemLease) else None
        if buffer is not None and buffer.regained is not None:
            context.state.buffers.change(buffer.seq, regained=buffer.regained + count)
        mask = (((1 << count) - 1) << (first - lease.first)) & lease.all_answered
        _replace(context, lease, msgspec.structs.replace(lease, answered=lease.answered | mask))
    return lease


def _replace(context: Context, before: Lease, after: Lease) -> None:
    """A lease is shorter now, or more of it is answered. It ends when nothing of it is left."""
    state, fewer = context.state, before.open_count - after.open_count
    if after.answered == after.all_answered:
        _end(context, before, "answered" if after.item_count else "returned", fewer)
        return
    state.leases[before.lease_id] = after
    worker = state.workers.get(before.worker_id)
    if worker is not None:
        state.workers.change(worker.worker_id, unanswered=worker.unanswered - fewer)


def _end(context: Context, lease: Lease, how: str, fewer: int) -> None:
    """A lease is over, and its worker has so many fewer to answer."""
    state, worker = context.state, context.state.workers.get(lease.worker_id)
    state.leases.discard(lease.lease_id)
    if isinstance(lease, ItemLease):
        context.journal.work.end_dispatch(lease.lease_id, how)
    if worker is not None:
        state.workers.change(
            worker.worker_id,
            unanswered=worker.unanswered - fewer,
            messages=worker.messages - isinstance(lease, MessageLease),
            held=tuple(one for one in worker.held if one != lease.lease_id),
            exclusive=worker.exclusive and not lease.alone,
        )


def take_back(context: Context, worker: Worker, from_ordinal: int, end_ordinal: int = ORDINAL_MAX) -> None:
    """What a worker holds from an ordinal on, up to another, and will not start, waits again."""
    for lease in context.state.held_by(worker):
        keep = min(max(from_ordinal - lease.first_ordinal, 0), lease.item_count)
        if keep == lease.item_count or lease.first_ordinal >= end_ordinal:
            continue
        _give_back(context, lease, [at for at in lease.open_positions() if at >= keep], alone=lease.alone)
        if isinstance(lease, ItemLease) and keep:
            context.journal.work.shorten_dispatch(lease.lease_id, lease.first + keep)
        shortened = msgspec.structs.replace(
            lease, item_count=keep, answered=lease.answered & ((1 << keep) - 1)
        )
        _replace(context, lease, shortened)


def _give_back(
    context: Context, lease: Lease, positions: list[int], *, alone: bool = False, interrupted: bool = False
) -> None:
    """These positions of a lease wait again: items in their buffer, a message for its name.

    `interrupted`: its worker died while it ran the message.
    """
    if not positions:
        return
    if isinstance(lease, MessageLease):
        messages.put_back(context, lease.message_seq, lease.listener, interrupted=interrupted)
    elif isinstance(lease, ItemLease):
        found = contiguous(positions)
        ranges = [Range(lease.first + first, count, lease.attempt, alone) for first, count in found]
        context.state.give_back(lease.buffer_seq, ranges)


def worker_gone(context: Context, worker: Worker, started: int) -> list[Suspect]:
    """A worker has ended: what it had not started waits again, and the worker is forgotten.

    Returns what it had started and not answered. The caller charges one of them, or gives them back with
    `quarantine`.
    """
    suspects: list[Suspect] = []
    for lease in context.state.held_by(worker):
        opened = lease.open_positions()
        suspects += [(lease, at) for at in opened if lease.first_ordinal + at < started]
        _give_back(context, lease, [at for at in opened if lease.first_ordinal + at >= started])
        context.state.leases.discard(lease.lease_id)
        if isinstance(lease, ItemLease):
            context.journal.work.end_dispatch(lease.lease_id, "died")
    context.state.workers.discard(worker.worker_id)
    return suspects


def lost(context: Context, lease: ItemLease, *, suspected: bool) -> list[Suspect]:
    """An engine brings nothing back of a lease: it ends. Returns its items if they are suspected of that, as
    in `worker_gone`; else they wait again.
    """
    positions = lease.open_positions()
    if not suspected:
        _give_back(context, lease, positions, alone=lease.alone)
    _end(context, lease, "died" if suspected else "returned", len(positions))
    return [(lease, position) for position in positions] if suspected else []


def halves(suspects: list[Suspect]) -> list[tuple[Lease, list[int]]]:
    """Suspects in two halves, each to go to a worker that holds nothing else.

    A death among them then halves the circle again, until it is one item's: nine deaths find one among 500,
    and the innocent ones are not run one by one meanwhile.
    """
    half = (len(suspects) + 1) // 2
    parts: list[tuple[Lease, list[int]]] = []
    for lease in {lease.lease_id: lease for lease, _ in suspects}.values():
        positions = [at for of, at in suspects if of.lease_id == lease.lease_id]
        parts += [(lease, positions[first : first + half]) for first in range(0, len(positions), half)]
    return parts


def quarantine(context: Context, suspects: list[Suspect]) -> None:
    """Nobody is charged. Items go out again in halves, alone; a message counts one more interruption."""
    for lease, positions in halves([one for one in suspects if isinstance(one[0], ItemLease)]):
        _give_back(context, lease, positions, alone=True)
    for lease, position in suspects:
        if isinstance(lease, MessageLease):
            _give_back(context, lease, [position], interrupted=True)
