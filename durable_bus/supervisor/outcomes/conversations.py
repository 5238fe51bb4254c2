"""What follows from an outcome: a message settled, forwarded, answered; a buffer started; a chain that ends.

All of it happens in the commit that records the outcome. Every chain ends: whatever ends a message on a
thread above an item (None, attempts used up, an unknown or refused name, an error nobody handled) is recorded
on the nearest item below it, None as an empty success and all else as a failed result. A SystemError or
BufferError that cannot be handled never causes another.
"""

from typing import Any, NamedTuple

from durable_bus.journal.buffers import BufferRow
from durable_bus.journal.messages import NewMessage
from durable_bus.journal.work import Failure
from durable_bus.payloads.forms import FORM_NAMES, TEXT, XML
from durable_bus.payloads.messages import SYSTEM_BUFFER, BufferDispatched, BufferError, BufferStart
from durable_bus.payloads.outcomes import End, Forward, Outcome, Start
from durable_bus.payloads.packing import unpack
from durable_bus.payloads.xml_writing import dump_dataclass, error_payload
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import ItemLease
from durable_bus.supervisor.outcomes import collector, messages, opening, threads
from durable_bus.supervisor.outcomes.attempts import next_attempt_at
from durable_bus.supervisor.outcomes.opening import NewBuffer
from durable_bus.supervisor.outcomes.threads import Chain, ItemHop

__all__ = ["end", "item_outcome", "message_failed", "message_outcome", "respond"]

_ERROR_KINDS = ("SystemError", "BufferError")


class _Handled(NamedTuple):
    """What a handler has come to an outcome of: an item or a message, and where it was handled."""

    own_name: str
    thread_id: str
    error: str | None = None
    """Its payload, when it was a SystemError or BufferError."""


# Outcomes


def item_outcome(context: Context, lease: ItemLease, index: int, outcome: Outcome, body: bytes) -> None:
    """The handler of an item passed its work on. Nothing follows when the item has an outcome."""
    buffer = context.state.buffers.get(lease.buffer_seq)
    if buffer is None:
        return
    if context.journal.work.forward_item(buffer.seq, index, lease.lease_id, lease.attempt):
        context.state.buffers.change(buffer.seq, passed_on=True)
        _carry_out(context, _Handled(buffer.target, f"{buffer.thread_id}/{index}"), outcome, body)


def message_outcome(context: Context, message_seq: int, outcome: Outcome, body: bytes) -> None:
    """The handler of a message came to an end. Nothing follows when the message was settled before, or
    when the buffer that it was said for has ended meanwhile, as by a cancel.
    """
    row = context.journal.messages.by_seq(message_seq)
    if context.journal.messages.settle(message_seq) and not _is_over(context, row.thread_id):
        error = row.payload if row.kind in _ERROR_KINDS else None
        _carry_out(context, _Handled(row.to_id, row.thread_id, error), outcome, body)


def _is_over(context: Context, thread_id: str) -> bool:
    """The nearest item below is of a buffer that has ended: nobody waits for what is said there."""
    below = (threads.lookup(context.journal, thread_id) or Chain()).down_to_item()
    if below is None:
        return False
    assert isinstance(below.last, ItemHop)
    row = context.journal.buffers.by_id(below.last.buffer_id)
    return row is None or row.ended_commit is not None


def _carry_out(context: Context, handled: _Handled, outcome: Outcome, body: bytes) -> None:
    own_name, thread_id, _ = handled
    goes_on = isinstance(outcome, Forward | Start)
    limit = threads.limit_reached(context.journal, thread_id) if goes_on else None
    if limit is not None:
        end(context, thread_id, error_payload("routing", limit))
    elif isinstance(outcome, End):
        end(context, thread_id, "", form=TEXT, success=True)
    elif isinstance(outcome, Start):
        _start(context, handled, outcome, body)
    else:
        (payload,) = unpack(body)
        if isinstance(outcome, Forward):
            _forward(context, handled, outcome.to, payload, outcome.form)
        else:
            respond(context, own_name, thread_id, payload, form=outcome.form, success=outcome.success)


def message_failed(
    context: Context, message_seq: int, attempt: int, failure: Failure, place: str | None = None
) -> None:
    """An attempt at a message failed: journal it, and plan the next one or end its chain. `place`: where it
    ran, if not in a worker of ours.
    """
    journal = context.journal
    row = journal.messages.by_seq(message_seq)
    if row.settled_commit is not None:
        return
    before = journal.work.message_attempts(message_seq)
    settings = (context.state.listeners or {}).get(row.to_id)
    next_at = next_attempt_at(failure, before, settings, journal.now_ms, (0, message_seq))
    journal.work.record_failure(failure, attempt, message_seq=message_seq, place=place)
    if next_at is not None:
        lost = failure.kind == "lost"
        messages.put_back(context, message_seq, row.to_id, due_at=next_at, interrupted=lost)
        return
    journal.messages.settle(message_seq, failed=True)
    is_error = row.kind in _ERROR_KINDS
    end(
        context,
        row.thread_id,
        row.payload if is_error else error_payload(failure.kind, failure.message, failure.answer),
    )


# What they lead to


def respond(
    context: Context, own_name: str, thread_id: str, payload: str, *, form: int, success: bool
) -> None:
    """Drop the own hop, deliver to what is then last; an item means the collector."""
    chain = threads.respond(context.journal, thread_id)
    last = chain.last
    if isinstance(last, ItemHop):
        collector.record_passed_on(context, last, payload, form=form, success=success)
    else:
        # Without anybody left to answer, the message itself is the record of the answer.
        new = NewMessage(own_name, last or "", thread_id, payload, form, settled=last is None)
        messages.add(context, new)


def end(
    context: Context,
    thread_id: str,
    payload: str,
    *,
    form: int = XML,
    success: bool = False,
    tell_client: bool = True,
) -> None:
    """Nobody will say anything on this thread any more: its nearest item gets its result.

    Without an item below, a failure is told to the nearest mailbox: a client must not wait for ever.
    """
    chain = threads.lookup(context.journal, thread_id) or Chain()
    below = chain.down_to_item()
    if below is not None:
        threads.set_chain(context.journal, below, thread_id)
        assert isinstance(below.last, ItemHop)
        collector.record_passed_on(context, below.last, payload, form=form, success=success)
        return
    if success or not tell_client:
        return
    for length in range(len(chain.hops) - 1, 0, -1):
        name = str(chain.hops[length - 1])
        if context.journal.messages.has_mailbox(name):
            threads.set_chain(context.journal, Chain(chain.hops[:length]), thread_id)
            messages.add(context, NewMessage("system", name, thread_id, payload, form))
            return


def _forward(context: Context, handled: _Handled, to_id: str, payload: str, form: int) -> None:
    own_name, thread_id, _ = handled
    refusal = _refusal(context, own_name, [to_id])
    if refusal is None and to_id == SYSTEM_BUFFER:
        refusal = (
            f"{own_name} sent {'XML' if form == XML else FORM_NAMES[form]} to {to_id!r}, which takes a "
            f"BufferStart as a value: return HandlerResponse(BufferStart(target, items), {to_id!r})"
        )
    if refusal is None and not opening.is_known(context, to_id):
        refusal = f"{own_name} sent to the unknown name {to_id!r:.120}"
    refused = refusal is not None
    messages.add(context, NewMessage(own_name, to_id, thread_id, payload, form, refused, refused))
    if refusal is None:
        threads.extend(context.journal, thread_id, to_id)
    else:
        _refused(context, handled, error_payload("routing", refusal))


def _refused(context: Context, handled: _Handled, error: str) -> None:
    """What a handler wanted cannot be: its chain ends with why. When it was handling an error, it ends
    with that one, which came first: nobody is told of an error because of another, or two could take
    turns for ever.
    """
    end(context, handled.thread_id, error if handled.error is None else handled.error)


def _refusal(context: Context, own_name: str, names: list[str]) -> str | None:
    """Why this listener may not address one of these, None when it may."""
    settings = (context.state.listeners or {}).get(own_name)
    peers = None if settings is None else settings.peers
    for name in names:
        if peers is not None and name not in peers:
            return f"{own_name} may not address {name!r:.120}: its peers are {', '.join(peers) or 'nobody'}"
    return None


# Buffers started by handlers


def _start(context: Context, handled: _Handled, start: Start, body: bytes) -> None:
    own_name, thread_id, _ = handled
    addressed = [SYSTEM_BUFFER, start.target]
    if start.return_to not in ("", own_name):  # the starter itself, written out or not, needs no peer
        addressed.append(start.return_to)
    refusal = _refusal(context, own_name, addressed)
    if refusal is not None:
        _refused(context, handled, error_payload("routing", refusal))
        return
    try:
        _open(context, own_name, thread_id, start, body)
    except BufferError as error:
        payload = dump_dataclass(error)
        if handled.error is not None:
            _refused(context, handled, payload)
            return
        messages.add(context, NewMessage(SYSTEM_BUFFER, own_name, thread_id, payload))


def _open(context: Context, own_name: str, thread_id: str, start: Start, body: bytes) -> None:
    buffer_id = start.buffer_id or context.ports.new_id()
    said_id = start.buffer_id or "unknown"
    opening.check(context, said_id, buffer_id, start.target, start.return_to)
    if start.count == 0:
        raise BufferError(said_id, "No items specified")
    row = context.journal.buffers.by_id(buffer_id)
    if row is None:
        new = NewBuffer(
            buffer_id=buffer_id,
            target=start.target,
            return_to=start.return_to or own_name,
            from_id=own_name,
            starter_thread_id=thread_id,
            collect=start.collect,
            request_id=context.ports.new_id(),
            **_inherited(context, thread_id),
        )
        new = new._replace(traceparent=start.traceparent or new.traceparent)
        opening.open_whole(context, new, body, start.forms, start.digest)
    else:
        _compare(row, own_name, thread_id, start)
        message_id = collector.complete_message_id(buffer_id)
        if start.collect and row.ended_commit and context.journal.messages.redeliver(message_id):
            context.state.waiting_names[row.return_to] = True
            # Its BufferComplete is no new message. This is one, and so counts on the thread: who asks
            # again each time it is told must come to an end, too.
            asked = dump_dataclass(BufferStart(row.target, "", True, row.return_to, buffer_id))
            messages.add(context, NewMessage(own_name, SYSTEM_BUFFER, thread_id, asked, settled=True))
    if not start.collect:
        payload = dump_dataclass(BufferDispatched(buffer_id, start.count))
        messages.add(context, NewMessage(SYSTEM_BUFFER, own_name, thread_id, payload))


def _inherited(context: Context, thread_id: str) -> dict[str, Any]:
    """What a buffer has of the one that it is started in: priority, deadline and budget; and the span, where
    the worker that starts it has none of its own.
    """
    below = (threads.lookup(context.journal, thread_id) or Chain()).down_to_item()
    row = None
    if below is not None and isinstance(below.last, ItemHop):
        row = context.journal.buffers.by_id(below.last.buffer_id)
    if row is None:
        return {}
    return {
        "priority": row.priority,
        "deadline_at": row.deadline_at,
        "budget_of": row.budget_of,
        "traceparent": row.traceparent,
    }


def _compare(row: BufferRow, own_name: str, thread_id: str, start: Start) -> None:
    """The same id with the same content, on the same thread, is the buffer that exists."""
    there = [row.starter_thread_id, row.target, row.digest, row.collect, row.return_to]
    if there != [thread_id, start.target, start.digest, start.collect, start.return_to or own_name]:
        raise BufferError(row.buffer_id, "this id is used already, by another start")
