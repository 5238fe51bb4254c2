"""Budgets: how much a buffer may spend, with all that its handlers start. Who has spent it is paused.

What handlers spend is recorded in the commit that takes it in, each amount once. What a worker has not told
when it is killed is not known to anybody.
"""

from durable_bus.errors import BufferError
from durable_bus.payloads.amounts import is_unit
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Budget, OpenBuffer
from durable_bus.supervisor.outcomes import threads
from durable_bus.supervisor.outcomes.threads import Chain, ItemHop
from durable_bus.supervisor.scheduling import recall
from durable_bus.supervisor.state import State
from durable_bus.wire.parts import Spent

__all__ = ["check_amounts", "forget", "pause", "resume", "spend", "take_in"]


def check_amounts(buffer_id: str, budget: dict[str, float]) -> None:
    """Raises BufferError for a budget that cannot be."""
    for unit, amount in budget.items():
        if not is_unit(unit) or not amount > 0:
            raise BufferError(
                buffer_id, f"{amount} of {unit!r:.60} is no budget: an amount above 0 of a unit"
            )


def take_in(context: Context, buffer: OpenBuffer) -> None:
    """A buffer has opened, or a new run has found it open. One whose budget is spent is paused at once: a
    handler has started it that ran when it was reached.
    """
    root = buffer.budget_of
    if root is None:
        return
    if root not in context.state.budgets:
        granted, spent, _ = context.journal.pace.budget(root)
        context.state.budgets[root] = Budget(granted, spent)
    if context.state.budgets[root].is_spent and not buffer.paused:
        pause(context, buffer, "budget")


def forget(state: State, buffer: OpenBuffer) -> None:
    """A buffer has ended. Its budget is forgotten when nobody is left who spends of it."""
    root = buffer.budget_of
    if root is not None and all(other.budget_of != root for other in state.buffers.values()):
        state.budgets.discard(root)


def spend(context: Context, spent: Spent) -> None:
    """A handler has spent something."""
    pace = context.journal.pace
    if spent.dispatch >= 0:
        buffer_seq, new = pace.spend_on_item(spent.dispatch, spent.index, spent.number, spent.amounts)
    else:
        message_seq = -spent.dispatch
        buffer_seq = _buffer_of_message(context, message_seq)
        new = pace.spend_on_message(message_seq, buffer_seq, spent.number, spent.amounts)
    root = None if buffer_seq is None else context.journal.buffers.by_seq(buffer_seq).budget_of
    budget = None if root is None else context.state.budgets.get(root)
    if root is None or budget is None:
        return
    sums = dict(budget.spent)
    for unit, amount in new.items():
        sums[unit] = sums.get(unit, 0.0) + amount
    budget = context.state.budgets.change(root, spent=sums)
    if budget.is_spent:
        for other in [*context.state.buffers.values()]:
            if other.budget_of == root and not other.paused:
                pause(context, other, "budget")


def _buffer_of_message(context: Context, message_seq: int) -> int | None:
    """The buffer of the nearest item on a message's thread; None: there is none."""
    thread_id = context.journal.messages.thread_of(message_seq)
    if thread_id is None:
        return None
    below = (threads.lookup(context.journal, thread_id) or Chain()).down_to_item()
    if below is None or not isinstance(below.last, ItemHop):
        return None
    row = context.journal.buffers.by_id(below.last.buffer_id)
    return None if row is None else row.buffer_seq


def pause(context: Context, buffer: OpenBuffer, why: str) -> None:
    """Hand out nothing more of a buffer."""
    context.journal.buffers.pause(buffer.seq, why)
    context.outbox.log("buffer paused", buffer=buffer.buffer_id, why=why)
    context.state.buffers.change(buffer.seq, paused=True)
    recall.recall_buffer(context, buffer.seq)


def resume(context: Context, buffer: OpenBuffer, more: dict[str, float]) -> None:
    """Go on with a buffer. When its budget is spent, it and all that share it may spend `more`: as much as
    it was given at first, of the units that `more` does not say.
    """
    root, state, journal = buffer.budget_of, context.state, context.journal
    resumed = [buffer]
    if more and root is None:
        raise BufferError(buffer.buffer_id, "it was started without a budget")
    if root is not None and (more or state.budgets[root].is_spent):
        granted, spent, first = journal.pace.budget(root)
        if state.budgets[root].is_spent:
            sharing = [
                one for one in state.buffers.values() if one.budget_of == root and one.seq != buffer.seq
            ]
            resumed += [one for one in sharing if journal.buffers.paused_why(one.seq) == "budget"]
            more = {**first, **more}
        budget = Budget(
            {unit: granted.get(unit, 0.0) + more.get(unit, 0.0) for unit in granted | more}, spent
        )
        if budget.is_spent:
            raise BufferError(buffer.buffer_id, "it has spent more than that already: resume it with more")
        journal.pace.grant(root, more)
        state.budgets[root] = budget
    for one in resumed:
        journal.buffers.resume(one.seq)
        state.buffers.change(one.seq, paused=False)
        context.outbox.log("buffer resumed", buffer=one.buffer_id)
