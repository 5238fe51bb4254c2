"""Mailboxes: durable queues of named clients. A message is with one receiver at a time.

It waits again when that receiver's connection closes, when the receiver was interrupted before it took the
message, or when we die; it is settled by a response or an acknowledgement.
"""

from typing import Any

import msgspec

from durable_bus.errors import LimitExceeded, MessageRefused, NotFound, UnserialisableAnswer, UsageError
from durable_bus.journal.messages import MessageRow, NewMessage
from durable_bus.journal.work import Failure
from durable_bus.payloads.messages import as_said, check_name
from durable_bus.payloads.settings import ValueForms
from durable_bus.payloads.values import ValueWriter
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX
from durable_bus.payloads.xml_writing import error_payload
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.outcomes import conversations, messages, opening, threads
from durable_bus.supervisor.outcomes.threads import Chain
from durable_bus.supervisor.requests import Handlers
from durable_bus.supervisor.workers import workforce
from durable_bus.wire.protocol import (
    AbandonReceiving,
    Acknowledge,
    Answer,
    Message,
    Nothing,
    Receive,
    Respond,
    Send,
    Sent,
    Settled,
    StopReceiving,
)

__all__ = ["HANDLERS", "closed", "give_up", "name_of", "open_mailbox", "plan"]

_WRITER = ValueWriter(ValueForms)


def name_of(context: Context, connection_id: int) -> str:
    """The name of a client, "" when it has none."""
    return context.state.client_names.get(connection_id, "")


def open_mailbox(context: Context, connection_id: int, name: str, listeners: dict[str, Any]) -> None:
    """This connection speaks for `name`, whose mailbox is journaled from now on."""
    check_name(name, "client")
    if name in listeners:
        raise _is_a_listener(name)
    context.state.client_names[connection_id] = name
    context.journal.messages.add_mailbox(name)


def give_up(context: Context, listeners: dict[str, Any]) -> None:
    """The app has new listeners: a client that has the name of one is told what its hello would be told
    now, and its connection ends. What it had waits again, for the listener.
    """
    for connection_id, name in [*context.state.client_names.items()]:
        if name in listeners:
            context.outbox.hang_up(connection_id, _is_a_listener(name))
            context.outbox.log("client refused", name=name, reason="it is a listener's name now")
            closed(context, connection_id)


def closed(context: Context, connection_id: int) -> None:
    """What this receiver had waits again."""
    for request_id, (receiver, _) in [*context.state.receivers.items()]:
        if receiver == connection_id:
            context.state.receivers.discard(request_id)
    for message_seq, (receiver, _) in [*context.state.delivered.items()]:
        if receiver == connection_id:
            _put_back(context, message_seq)
    context.state.client_names.discard(connection_id)


def _put_back(context: Context, message_seq: int) -> None:
    """Who had it has it no more."""
    context.state.delivered.discard(message_seq)
    row = context.journal.messages.by_seq(message_seq)
    if row.settled_commit is None:
        messages.put_back(context, message_seq, row.to_id)


def plan(context: Context) -> None:
    """Give waiting messages to receivers that wait for them."""
    for request_id, (connection_id, name) in [*context.state.receivers.items()]:
        if name not in context.state.waiting_names:
            continue
        rows = context.journal.messages.waiting(name, 1)
        if not rows:
            messages.found_none(context, name)
            continue
        row = rows[0]
        context.journal.messages.deliver(row.message_seq, None)
        context.state.delivered[row.message_seq] = (connection_id, request_id)
        context.state.receivers.discard(request_id)
        context.outbox.to_client(connection_id, _message(request_id, row))


# The requests


def _own_name(context: Context, connection_id: int) -> str:
    name = name_of(context, connection_id)
    if not name:
        raise MessageRefused("a client needs a name for this: Client(journal, name=…)")
    return name


def _send(context: Context, connection_id: int, send: Send, bodies: list[bytes]) -> Answer:
    """A message on a new thread."""
    name = _own_name(context, connection_id)
    _check_payload(send.payload)
    workforce.require_app(context)
    if not opening.is_known(context, send.to):
        raise MessageRefused(f"unknown name {send.to!r:.120}: neither a listener nor a mailbox")
    thread_id, message_id = context.ports.new_id(), context.ports.new_id()
    threads.set_chain(context.journal, Chain((name, send.to)), thread_id)
    messages.add(context, NewMessage(name, send.to, thread_id, send.payload, send.form), message_id)
    return _kept(context, Sent(send.request, message_id, thread_id))


def _receive(context: Context, connection_id: int, receive: Receive, bodies: list[bytes]) -> None:
    """Answered by `plan`, in this commit when a message waits, else when one comes."""
    context.state.receivers[receive.request] = (connection_id, _own_name(context, connection_id))


def _stop_receiving(
    context: Context, connection_id: int, stop: StopReceiving, bodies: list[bytes]
) -> Answer | None:
    """Its receiver's time is up. A message that went out just before is answered already and stands."""
    return None if context.state.receivers.discard(stop.request) is None else Nothing(stop.request)


def _abandon_receiving(
    context: Context, connection_id: int, abandon: AbandonReceiving, bodies: list[bytes]
) -> None:
    """Its receiver was interrupted: a message that is on its way to it waits again."""
    context.state.receivers.discard(abandon.request)
    for message_seq, receiver in [*context.state.delivered.items()]:
        if receiver == (connection_id, abandon.request):
            _put_back(context, message_seq)


def _respond(context: Context, connection_id: int, respond: Respond, bodies: list[bytes]) -> Answer:
    _check_payload(respond.payload)
    name = _own_name(context, connection_id)
    row, _ = _settle(context, connection_id, respond, responds=True)
    _answer(context, name, row, respond)
    return _kept(context, Settled(respond.request, respond.message_id))


def _acknowledge(
    context: Context, connection_id: int, acknowledge: Acknowledge, bodies: list[bytes]
) -> Answer:
    name = _own_name(context, connection_id)
    row, chain = _settle(context, connection_id, acknowledge, responds=False)
    if chain.last == name:
        payload = error_payload("acknowledged", f"{name} acknowledged the message without responding")
        # Between clients an acknowledgement is the ordinary end of a message, as None is of a listener's:
        # only an item must have a result all the same.
        conversations.end(context, row.thread_id, payload, tell_client=False)
    return _kept(context, Settled(acknowledge.request, acknowledge.message_id))


def _settle(
    context: Context, connection_id: int, request: Respond | Acknowledge, *, responds: bool
) -> tuple[MessageRow, Chain]:
    """Settle a message to this client; it, and the chain of its thread. Raises NotFound or MessageRefused."""
    name, message_id = _own_name(context, connection_id), request.message_id
    row = context.journal.messages.by_id(message_id)
    if row is None or row.to_id != name:
        raise NotFound(f"no message {message_id!r:.120} to {name}")
    holder, _ = context.state.delivered.get(row.message_seq, (connection_id, ""))
    if request.waiting and holder != connection_id:
        raise MessageRefused(f"another client called {name} has message {message_id} in hand")
    if not context.journal.messages.settle(row.message_seq):  # first: the chain says nothing of it then
        raise MessageRefused(f"message {message_id} was settled before")
    chain = threads.lookup(context.journal, row.thread_id) or Chain()
    if responds and len(chain.hops) < 2:
        raise MessageRefused("nobody is waiting for a response on this thread: acknowledge the message")
    context.state.delivered.discard(row.message_seq)
    return row, chain


def _kept(context: Context, answer: Answer) -> Answer:
    """The answer, journaled: asked again, the request would do more, or fail."""
    context.journal.add_request(answer.request, msgspec.to_builtins(answer))
    return answer


def _answer(context: Context, name: str, row: MessageRow, respond: Respond) -> None:
    """Carry a response on. Our clients have checked theirs; one that came unchecked all the same fails as
    a listener's would, for what is recorded on an item must be able to stand in a results document.
    """
    thread_id = row.thread_id
    try:
        payload, form = _WRITER.answer(as_said(respond.payload, respond.form, is_compact=False))
    except UnserialisableAnswer as error:
        failure = Failure(error.kind, str(error))
        context.journal.work.record_failure(failure, 1, message_seq=row.message_seq)
        conversations.end(context, thread_id, error_payload(error.kind, str(error), error.answer))
    else:
        conversations.respond(context, name, thread_id, payload, form=form, success=respond.success)


def _check_payload(payload: str) -> None:
    """Raises what a payload is refused with that no worker could be handed."""
    if "\0" in payload:
        raise UsageError("a payload cannot hold NUL")
    if len(payload.encode()) > PAYLOAD_BYTES_MAX:
        raise LimitExceeded(f"a payload is over the limit of {PAYLOAD_BYTES_MAX} bytes")


def _is_a_listener(name: str) -> MessageRefused:
    return MessageRefused(f"{name} is a listener of the app: choose another name for the client")


def _message(request_id: str, row: MessageRow) -> Message:
    """A message as its receiver is told of it."""
    return Message(
        request_id,
        row.message_id,
        row.kind,
        row.from_id,
        row.thread_id,
        row.payload,
        row.form,
        row.buffer_seq if row.kind == "BufferComplete" else None,
    )


HANDLERS: Handlers = {
    Send: _send,
    Receive: _receive,
    StopReceiving: _stop_receiving,
    AbandonReceiving: _abandon_receiving,
    Respond: _respond,
    Acknowledge: _acknowledge,
}
