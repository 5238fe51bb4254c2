"""The way in for what clients ask: each request is admitted, carried out and answered, or refused.

An answer leaves after the commit that holds what it tells of. A request carries an id made by its client. One
whose answer was lost is simply sent again: it is answered from the journal and not done twice.
"""

import contextlib
from collections.abc import Callable

import msgspec

from durable_bus.errors import (
    BufferError,
    DurableBusError,
    JournalError,
    JournalUnreachable,
    StorageFull,
    UsageError,
    VersionMismatch,
)
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.requests import Handlers, control, mailboxes, starts
from durable_bus.supervisor.workers import workforce
from durable_bus.supervisor.workers.workforce import Deferred
from durable_bus.wire.decoding import error_frame
from durable_bus.wire.framing import Frame
from durable_bus.wire.parts import Misfit
from durable_bus.wire.protocol import (
    Abandon,
    AbandonReceiving,
    Acknowledge,
    Answer,
    AppForms,
    AskForms,
    AskStatus,
    Cancel,
    Chunk,
    Controlled,
    FromClient,
    Hello,
    Open,
    Request,
    Respond,
    Resume,
    Send,
    Sent,
    Settled,
    Start,
    Stop,
    StopReceiving,
    Welcome,
)

__all__ = ["closed", "handle", "handle_on_full_disk"]

_NO_ROOM = "no room on disk"
_ANSWERED_ONCE = (Send, Respond, Acknowledge, Cancel, Resume)
"""Requests whose answers are kept (`Journal.add_request`): done a second time they would do more, or fail."""
_WRITES_NOTHING = (AskStatus, Stop, StopReceiving)
"""Requests that change memory at most. A hello without a name is another."""


def handle(context: Context, connection_id: int, frame: Frame[FromClient]) -> None:
    """Do what a frame asks and queue its answer. Raises Deferred, after which nothing was changed."""
    if context.outbox.is_hanging_up(connection_id):
        return
    error = _try(context, connection_id, frame, context.journal.savepoint)
    if error is not None:
        if frame.header.request is not None:
            starts.give_up(context, frame.header.request)
        _refuse(context, connection_id, frame.header, error)


def handle_on_full_disk(context: Context, connection_id: int, frame: Frame[FromClient]) -> bool:
    """Outside a commit, after one was refused for want of room: answer what needs none, refuse what does
    and can be asked for again. False: neither, the frame is to be kept until there is room.
    """
    request = frame.header
    if isinstance(request, Abandon | AbandonReceiving):
        return False  # nobody says it again
    if isinstance(request, Start | Chunk | Open):
        buffer_id = starts.buffer_of(context, request)
        if buffer_id is not None:  # else its start was refused, and the client told so
            _refuse(context, connection_id, request, BufferError(buffer_id, _NO_ROOM))
        return True
    writes_nothing = isinstance(request, (*_WRITES_NOTHING, Misfit))
    if not writes_nothing and not (isinstance(request, Hello) and request.name is None):
        _refuse(context, connection_id, request, StorageFull(_NO_ROOM))
        return True
    if connection_id not in context.state.greeted and not isinstance(request, Hello | AskStatus | Misfit):
        return False  # its hello is kept: a client's frames are answered in order
    try:
        error = _try(context, connection_id, frame, contextlib.nullcontext)
    except Deferred:
        return False
    if error is not None:
        _refuse(context, connection_id, request, error)
    return True


def _try(
    context: Context,
    connection_id: int,
    frame: Frame[FromClient],
    savepoint: Callable[[], contextlib.AbstractContextManager[None]],
) -> DurableBusError | None:
    """Do what a frame asks and queue its answer; or why that is refused. Raises Deferred."""
    request = frame.header
    refusal = _refusal(context, connection_id, request)
    if refusal is not None or isinstance(request, Misfit):
        return refusal
    handler = _HANDLERS[type(request)]
    try:
        with savepoint():
            answer = _answered_before(context, request) or handler(
                context, connection_id, request, frame.bodies
            )
    except JournalError:
        raise
    except DurableBusError as error:
        return error
    except UnicodeDecodeError as error:  # found by the journal, which looks at each item anyway
        return UsageError(f"an item is not UTF-8: {error}")
    if answer is not None:
        context.outbox.to_client(connection_id, answer)
    return None


def _refusal(context: Context, connection_id: int, request: FromClient) -> DurableBusError | None:
    """Why a request may not come in, None when it may."""
    if isinstance(request, Misfit):
        if request.kind == "hello" and request.version != context.config.version:
            return _other_version(context, request.version)
        return UsageError(request.message)
    if connection_id not in context.state.greeted and not isinstance(request, Hello | AskStatus):
        return UsageError("say hello first")
    meant = request.journal if isinstance(request, Hello | AskStatus) else None
    if meant is not None and context.config.journal_file not in (None, meant):
        # Two journals may have been given one socket: what is meant for the other must not come in here.
        return JournalUnreachable(
            f"the daemon at its socket serves another journal, {context.config.journal}"
        )
    return None


def _answered_before(context: Context, request: Request) -> Answer | None:
    """What a request was answered that is repeated because its answer was lost; None: it is not one."""
    if not isinstance(request, _ANSWERED_ONCE):
        return None
    kept = context.journal.request_answer(request.request)
    if kept is None:
        return None
    answer: Answer = msgspec.convert({**kept, "request": request.request}, Sent | Settled | Controlled)
    return answer


def _refuse(context: Context, connection_id: int, request: FromClient, error: DurableBusError) -> None:
    """Tell the client that its request was refused. Writes nothing, so that a full disk can be told too:
    the client of a start answers with `abandon`, which gives up what belongs to it.
    """
    context.outbox.to_client(connection_id, error_frame(error, request.request))


def closed(context: Context, connection_id: int) -> None:
    context.state.greeted.discard(connection_id)
    starts.closed(context, connection_id)
    mailboxes.closed(context, connection_id)


# The requests


def _hello(context: Context, connection_id: int, hello: Hello, bodies: list[bytes]) -> Answer:
    if hello.version != context.config.version:
        raise _other_version(context, hello.version)
    listeners = context.state.listeners
    if hello.needs_app:
        listeners = workforce.require_app(context)
    elif listeners is None and hello.name is not None:
        # A daemon greets also while its app cannot be imported: then by the last table known.
        listeners = context.journal.last_listeners()
        if listeners is None and not workforce.is_settled(context):
            raise Deferred
    if hello.name is not None:
        mailboxes.open_mailbox(context, connection_id, hello.name, listeners or {})
    context.state.greeted[connection_id] = True
    return Welcome(hello.request, listeners or {}, context.state.forms)


def _other_version(context: Context, version: str | None) -> VersionMismatch:
    return VersionMismatch(
        f"the daemon is durable_bus {context.config.version}, this client is {version!r:.40}"
    )


def _forms(context: Context, connection_id: int, ask: AskForms, bodies: list[bytes]) -> Answer:
    workforce.require_app(context)
    assert context.state.forms is not None, "it comes with the table of listeners"
    return AppForms(ask.request, context.state.forms)


def _stop(context: Context, connection_id: int, stop: Stop, bodies: list[bytes]) -> None:
    context.state.stop_asked = True


_HANDLERS: Handlers = {
    Hello: _hello,
    AskForms: _forms,
    Stop: _stop,
    **starts.HANDLERS,
    **mailboxes.HANDLERS,
    **control.HANDLERS,
}
