"""Recall: taking back what a worker holds and has not started. For an idle one (work stealing), for what is
more urgent, for a stop, a reload, a pause or a cancel, and because it does not begin it.

Three steps, each in a turn of its own. A worker is given a limit, an ordinal from which on it may start
nothing, and after that commit the limit is set in its slot. In the next turn what it has not started by then
is read from the slot and goes back to its buffers. When the worker comes to the limit it throws the rest away
and says so; only then it may get something again, because frames that were recalled may still lie in its
pipe. Meanwhile the limit may only go down.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease, Worker
from durable_bus.supervisor.scheduling import leases, rules, turns
from durable_bus.supervisor.scheduling.rules import THEFT_WORTH_US, WATCHED_S, Load
from durable_bus.wire.slot import ORDINAL_MAX

if TYPE_CHECKING:
    from durable_bus.supervisor.scheduling import pacing

__all__ = [
    "adjust_limits",
    "discarded",
    "help_idle",
    "let_go",
    "preempts",
    "recall",
    "recall_buffer",
    "take_back",
]


def recall(context: Context, worker: Worker, limit: int = 0) -> None:
    """Tell a worker to start nothing more of what it holds, or nothing from an ordinal on."""
    if worker.unanswered and limit < worker.limit:
        context.state.workers.change(worker.worker_id, limit=limit)


def recall_buffer(context: Context, buffer_seq: int) -> None:
    """From every worker that holds items of this buffer."""
    for lease in context.state.leases.values():
        if isinstance(lease, ItemLease) and lease.buffer_seq == buffer_seq:
            recall(context, context.state.workers[lease.worker_id])


def let_go(context: Context, worker: Worker) -> None:
    """It gets nothing more; when it has answered what it started, its process ends."""
    if not worker.leaving:
        limit = 0 if worker.unanswered else worker.limit
        context.state.workers.change(worker.worker_id, leaving=True, limit=limit)


def take_back(context: Context) -> None:
    """Give back what recalled workers have not started; end the processes of those who are let go."""
    workers = context.state.workers
    for worker in [*workers.values()]:
        slot = context.slot(worker.worker_id)
        if worker.limit == worker.taken or slot.limit != worker.limit:
            continue
        # The worker says "started" before it looks at the limit: what it may still run counts as started.
        boundary = max(slot.limit, slot.started)
        leases.take_back(context, worker, boundary)
        worker = workers.change(worker.worker_id, taken=worker.limit)
        if worker.begun(boundary) >= worker.next_ordinal:
            _end(context, worker)
    for worker in workers.values():
        if worker.leaving and worker.unanswered == 0:
            context.outbox.kill(worker.worker_id)


def discarded(context: Context, worker: Worker, first_ordinal: int, end_ordinal: int) -> None:
    """A worker has thrown away what it was told not to start."""
    leases.take_back(context, worker, first_ordinal, end_ordinal)
    # Kept, as it is said once: who is recalled again before its limit is lifted has nothing to say. An engine
    # ends its batches in any order, and may say it of an older one later.
    discarded_to = max(worker.discarded_to, end_ordinal)
    worker = context.state.workers.change(worker.worker_id, discarded_to=discarded_to)
    if worker.recalled and end_ordinal >= worker.next_ordinal:
        _end(context, worker)


def _end(context: Context, worker: Worker) -> None:
    """The recall is over: the worker may get something again, unless nobody may."""
    if not context.state.stopping and not worker.leaving:
        context.state.workers.change(worker.worker_id, limit=ORDINAL_MAX, taken=ORDINAL_MAX)


def adjust_limits(context: Context) -> None:
    """After the commit: set the slots of workers that may start nothing more, or may again."""
    for worker in context.state.workers.values():
        slot = context.slot(worker.worker_id)
        if slot.limit != worker.limit:
            slot.limit = worker.limit


# ---- for what is more urgent


def preempts(context: Context, worker: Worker, begun: int, priority: int) -> bool:
    """Whether a worker is to give back items of lower priority that it has not begun, instead of taking
    others behind them. They would make those wait for up to two batches. Those stay that went out because
    they had waited long, or they would come back as often as it is their turn.
    """
    state = context.state
    later_us, first = 0.0, worker.next_ordinal
    less_urgent: set[int] = set()
    for lease in state.held_by(worker):
        count = lease.first_ordinal + lease.item_count - max(begun, lease.first_ordinal)
        other = state.buffers.get(lease.buffer_seq) if isinstance(lease, ItemLease) else None
        if other is not None and other.level < priority and count > 0:
            later_us += count * state.item_us.get(lease.listener, THEFT_WORTH_US)
            first = min(first, max(begun, lease.first_ordinal))
            less_urgent.add(other.seq)
    if later_us < THEFT_WORTH_US or worker.worker_id in state.given:
        return False
    recall(context, worker, first)
    for seq in less_urgent:
        state.buffers.change(seq, regained=0)
    return True


# ---- for an idle worker


def help_idle(context: Context, gates: "pacing.Gates", alone_listeners: Collection[str]) -> None:
    """When workers idle while others hold what they will not start soon: take some of that back. Not for the
    one that is kept free: what is taken would go back to where it was.
    """
    state = context.state
    able = [one for one in state.workers.values() if one.gets_items and one.may_get and context.room(one)]
    idle = [one for one in able if not one.unanswered]
    if idle:
        kept_free = turns.reserved(able, gates.not_at_rest(), alone_listeners)
        idle = [one for one in idle if one.worker_id != kept_free]
    loads, state.watched = _loads(context) if idle else ([], {})
    tables = [(worker.listeners or {}).__contains__ for worker in idle]
    thefts, look_again_s = rules.thefts(tables, loads)
    if len(loads) < len(state.watched):
        # Somebody was given something just now, of which nothing is taken yet.
        look_again_s = WATCHED_S if look_again_s is None else min(look_again_s, WATCHED_S)
    state.help_at_s = None if look_again_s is None else context.now_s() + look_again_s
    for theft in thefts:
        begun = state.watched[theft.worker_id][1]
        recall(context, state.workers[theft.worker_id], begun + theft.keep)


def _loads(context: Context) -> tuple[list[Load], dict[int, tuple[int, int, int]]]:
    """Workers that hold something they have not begun, and all that are watched (`State.watched`): of those
    that were given something in this turn nothing is taken yet.
    """
    state, now_ns = context.state, context.ports.clock.monotonic_ns()
    loads: list[Load] = []
    watched: dict[int, tuple[int, int, int]] = {}
    for worker in state.workers.values():
        if not (worker.gets_items and worker.unanswered) or worker.exclusive or worker.limit == 0:
            continue  # the messages of the worker beside an engine are for nobody else
        slot = context.slot(worker.worker_id)
        begun = worker.begun(slot.started)
        unbegun = min(worker.next_ordinal, worker.limit) - begun
        if unbegun <= 0:
            continue
        new = (now_ns, begun, now_ns)
        since_ns, begun_before, stalled_ns = state.watched.get(worker.worker_id, new)
        if begun != begun_before:
            stalled_ns = now_ns
        watched[worker.worker_id] = (since_ns, begun, stalled_ns)
        if worker.worker_id in state.given:
            continue
        listener = state.leases[worker.held[-1]].listener
        settings = worker.settings(listener)
        loads.append(
            Load(
                worker.worker_id,
                listener,
                unbegun,
                state.item_us.get(listener, 0.0) / (settings.concurrency if settings else 1),
                runs=slot.since_ns != 0,
                stalled_s=(now_ns - stalled_ns) / 1e9,
                watched_s=(now_ns - since_ns) / 1e9,
            )
        )
    return loads, watched
