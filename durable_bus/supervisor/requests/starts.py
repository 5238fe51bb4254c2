"""Starting a buffer: its items arrive in chunks, or all at once, and then it opens. A stream opens with its
first chunk, and is sealed when no more come.

A start that is repeated, because its answer was lost, goes on where it was: a buffer's row says how many
chunks are on disk, and which request opened it. A stream whose producer has gone waits for the next one.
"""

from msgspec.structs import replace

from durable_bus.errors import BufferEnded, BufferError, LimitExceeded, OtherItems, UsageError
from durable_bus.journal.buffers import BufferRow
from durable_bus.payloads.packing import split
from durable_bus.payloads.xml_reading import PAYLOAD_BYTES_MAX
from durable_bus.supervisor.context import Context
from durable_bus.supervisor.entries import Arriving
from durable_bus.supervisor.outcomes import budgets, collector, opening
from durable_bus.supervisor.outcomes.opening import NewBuffer
from durable_bus.supervisor.outcomes.threads import Chain
from durable_bus.supervisor.requests import Handlers
from durable_bus.supervisor.requests.mailboxes import name_of
from durable_bus.supervisor.workers import workforce
from durable_bus.wire.parts import Terms
from durable_bus.wire.protocol import (
    Abandon,
    Answer,
    Chunk,
    Ended,
    Open,
    Opened,
    Received,
    Receiving,
    Request,
    Start,
    Submit,
    Watch,
    Watching,
)

__all__ = ["CHUNK_ITEMS_MAX", "HANDLERS", "ITEMS_MAX", "buffer_of", "closed", "give_up"]

CHUNK_ITEMS_MAX = 10_000
ITEMS_MAX = 1 << 32


def buffer_of(context: Context, request: Request) -> str | None:
    """The buffer that a request is about the start of: a chunk does not say it again."""
    if isinstance(request, Start):
        return request.buffer_id
    arriving = context.state.starts.get(request.request)
    return None if arriving is None else arriving.start.buffer_id


def _arriving(context: Context, connection_id: int, request: Request) -> Arriving | None:
    """What comes by this request; None when it was refused, and the client told so. What a connection says
    that its client has given up for another one is read at any time, and then for nobody.
    """
    arriving = context.state.starts.get(request.request)
    return None if arriving is None or arriving.connection_id != connection_id else arriving


def give_up(context: Context, request_id: str) -> None:
    """A start was refused or abandoned: its buffer goes, unless it was there before. What has come of a
    stream stays.
    """
    arriving = context.state.starts.discard(request_id)
    if arriving is not None and not arriving.existing and not arriving.opened:
        context.journal.buffers.drop(arriving.buffer_seq)


def closed(context: Context, connection_id: int) -> None:
    """Who was sending has gone; it may come back and go on."""
    for buffer_seq, watchers in [*context.state.watchers.items()]:
        if connection_id in watchers:
            context.state.watchers[buffer_seq] = watchers - {connection_id}
    for arriving in [*context.state.starts.values()]:
        if arriving.connection_id == connection_id:
            context.state.starts.discard(arriving.start.request)


# The requests


def _submit(context: Context, connection_id: int, submit: Submit, bodies: list[bytes]) -> Answer:
    if submit.stream:
        raise UsageError("the items of a stream come in chunks")
    arriving = _claim(context, connection_id, submit)
    if arriving.existing:
        return _existing(context, arriving, submit.digest)
    if arriving.buffer_seq:
        raise BufferError(submit.buffer_id, "its items were sent in chunks before")
    items = _items(submit, bodies, 0)
    new = _new_buffer(context, connection_id, submit)
    row = opening.open_whole(context, new, items, submit.forms, submit.digest, submit.count)
    return _told(context, arriving, row)


def _start(context: Context, connection_id: int, start: Start, bodies: list[bytes]) -> Answer | None:
    before = context.state.starts.get(start.request)
    if before is not None and before.connection_id > connection_id:
        return None  # said before, by a connection that its client has given up: see `_arriving`
    arriving = _claim(context, connection_id, start)
    if not arriving.buffer_seq:
        buffer_seq = opening.begin(context, _new_buffer(context, connection_id, start))
        arriving = replace(arriving, buffer_seq=buffer_seq)
    context.state.starts[start.request] = arriving
    return Receiving(
        start.request, arriving.next_chunk, arriving.existing, arriving.received, arriving.buffer_seq
    )


def _claim(context: Context, connection_id: int, start: Start) -> Arriving:
    """What is there already of the buffer that a start wants: all, what this request has sent, or nothing.
    What a vanished client has left under its id is dropped.

    Raises BufferError for a start that cannot be carried out, and Deferred.
    """
    nothing = Arriving(start, connection_id)
    row = context.journal.buffers.by_id(start.buffer_id)
    sealed = row is not None and row.sealed_commit is not None
    if row is not None and sealed and row.request_id == start.request:
        # Its acknowledgement was lost: it is given again, whatever today's app is like.
        return replace(nothing, buffer_seq=row.buffer_seq, existing=True, repeated=True)
    workforce.require_app(context)
    opening.check(context, start.buffer_id, start.buffer_id, start.target, start.return_to)
    if row is None:
        return nothing
    there = replace(
        nothing,
        buffer_seq=row.buffer_seq,
        next_chunk=row.next_chunk,
        received=row.item_count,
        opened=row.opened_commit is not None,
    )
    if start.stream and there.opened:
        return _claim_stream(context, there, row)
    if there.opened:
        if not sealed and row.ended_commit is None:
            raise BufferError(start.buffer_id, "it is a stream that is not sealed")
        return replace(nothing, buffer_seq=row.buffer_seq, existing=True)
    came_whole = start.stream and row.next_chunk > 0  # by a client that now wants a stream
    if row.request_id == start.request and not came_whole:
        return there
    _refuse_second_producer(context, start, row)
    context.journal.buffers.drop(row.buffer_seq)
    return nothing


def _claim_stream(context: Context, there: Arriving, row: BufferRow) -> Arriving:
    """What a producer goes on with. It is the only one from now on, also if the one before comes back."""
    start = there.start
    why = _differs(context, there, row)
    if why is not None:
        raise BufferError(start.buffer_id, f"this id is used already, {why}")
    if row.request_id != start.request and start.again:
        # Of its last chunks nobody knows whether they are there, as the numbers go on with another's.
        raise BufferError(start.buffer_id, "another client has gone on with this stream meanwhile")
    if row.sealed_commit is not None:
        return replace(there, existing=True)
    if row.ended_commit is not None:
        if row.ended_how != "cancelled":
            return replace(there, existing=True)  # it has ended before it was sealed: no more items come
        raise BufferError(start.buffer_id, "it was cancelled")
    if row.request_id != start.request:
        _refuse_second_producer(context, start, row)
        context.journal.buffers.take_over(row.buffer_seq, start.request)
    return there


def _refuse_second_producer(context: Context, start: Start, row: BufferRow) -> None:
    if any(other.buffer_seq == row.buffer_seq for other in context.state.starts.values()):
        raise BufferError(start.buffer_id, "another client is sending its items just now")


def _new_buffer(context: Context, connection_id: int, start: Start) -> NewBuffer:
    """A client's buffer has a thread of its own, which begins with the client's name when it has one."""
    name, terms = name_of(context, connection_id), start.terms or Terms()
    budgets.check_amounts(start.buffer_id, terms.budget)
    retried, deadline_ms = _retried(context, start), terms.deadline_ms
    return NewBuffer(
        buffer_id=start.buffer_id,
        target=start.target,
        return_to=start.return_to or name,
        from_id=name,
        starter_thread_id=context.ports.new_id(),
        collect=start.collect,
        request_id=start.request,
        chain=Chain((name,) if name else ()),
        retry_of=None if retried is None else retried.buffer_seq,
        priority=terms.priority,
        not_before=terms.not_before_ms,
        deadline_at=None if deadline_ms is None else context.journal.now_ms + deadline_ms,
        enough=terms.enough,
        max_failures=terms.max_failures,
        budget_of=0 if terms.budget else None,
        budget=terms.budget,
        traceparent=start.traceparent,
    )


def _retried(context: Context, start: Start) -> BufferRow | None:
    """The ended buffer whose unsuccessful items these are, when the client says so."""
    if start.retry_of is None:
        return None
    row = context.journal.buffers.by_id(start.retry_of)
    if row is None or row.ended_commit is None:
        raise BufferError(start.buffer_id, f"{start.retry_of!r:.120} is no ended buffer")
    return row


def _chunk(context: Context, connection_id: int, chunk: Chunk, bodies: list[bytes]) -> Answer | None:
    arriving = _arriving(context, connection_id, chunk)
    if arriving is None:
        return None
    next_chunk = arriving.next_chunk
    if arriving.existing or chunk.number < next_chunk:
        return Received(chunk.request, next_chunk)
    if chunk.number > next_chunk:
        raise UsageError(f"chunk {chunk.number} came before chunk {next_chunk}")
    items, streams = _items(chunk, bodies, arriving.received), arriving.start.stream
    buffer_seq, buffers = arriving.buffer_seq, context.journal.buffers
    there, count = arriving.received, chunk.count
    if not buffers.add_chunk(buffer_seq, next_chunk, there, items, chunk.forms, count=count, streams=streams):
        raise _not_taken(context, arriving)
    received = arriving.received + chunk.count
    if arriving.opened:
        context.state.buffers.change(buffer_seq, total=received)
    elif streams:
        opening.take_in(context, buffers.by_seq(buffer_seq))
        context.outbox.log("stream opened", buffer=arriving.start.buffer_id, target=arriving.start.target)
    context.state.starts[chunk.request] = replace(
        arriving, next_chunk=next_chunk + 1, received=received, opened=streams
    )
    return Received(chunk.request, next_chunk + 1)


def _abandon(context: Context, connection_id: int, abandon: Abandon, bodies: list[bytes]) -> None:
    give_up(context, abandon.request)


def _open(context: Context, connection_id: int, request: Open, bodies: list[bytes]) -> Answer | None:
    arriving = _arriving(context, connection_id, request)
    if arriving is None:
        return None
    if arriving.existing:
        answer = _existing(context, arriving, request.digest)
    else:
        buffer_id, total = arriving.start.buffer_id, request.total
        if total == 0:
            raise BufferError(buffer_id, "No items specified")
        if not context.journal.buffers.seal(arriving.buffer_seq, total, request.digest):
            raise _not_taken(context, arriving, total)
        if arriving.opened:
            collector.sealed(context, arriving.buffer_seq)
        row = context.journal.buffers.by_seq(arriving.buffer_seq)
        if not arriving.opened:
            opening.take_in(context, row)
        answer = _told(context, arriving, row)
    context.state.starts.discard(request.request)
    return answer


def _not_taken(context: Context, arriving: Arriving, total: int | None = None) -> BufferError:
    """Why a chunk is not taken, or a buffer of so many items not sealed."""
    buffer_id = arriving.start.buffer_id
    row = context.journal.buffers.by_id(buffer_id)
    is_there = row is not None and row.buffer_seq == arriving.buffer_seq
    if row is not None and is_there and row.ended_how not in (None, "cancelled"):
        return BufferEnded(buffer_id, f"it has ended while its items arrived ({row.ended_how})")
    if total is not None and row is not None and is_there and row.ended_commit is None:
        return BufferError(buffer_id, f"{arriving.received} of {total} items arrived")
    return BufferError(buffer_id, "it was cancelled while its items arrived")


def _existing(context: Context, arriving: Arriving, digest: str | None) -> Answer:
    row = context.journal.buffers.by_seq(arriving.buffer_seq)
    if not (arriving.repeated or arriving.start.stream):
        _compare(context, arriving, digest, row)
    return _told(context, arriving, row)


def _told(context: Context, arriving: Arriving, row: BufferRow) -> Answer:
    """The answer to a start. It is not kept: the buffer's row is enough to give it again."""
    start = arriving.start
    if not arriving.existing:
        event = "stream sealed" if arriving.opened else "buffer opened"
        context.outbox.log(event, buffer=start.buffer_id, target=start.target, items=row.item_count)
    _tell_end(context, arriving.connection_id, row)
    existed = arriving.existing and not arriving.repeated
    return Opened(start.request, start.buffer_id, row.buffer_seq, row.item_count, existed)


def _compare(context: Context, arriving: Arriving, digest: str | None, row: BufferRow) -> None:
    """The same id with the same content is the buffer that exists; with any other it is refused."""
    buffer_id = arriving.start.buffer_id
    why = _differs(context, arriving, row)
    if why is not None:
        raise BufferError(buffer_id, f"this id is used already, {why}")
    if row.digest != digest:
        raise OtherItems(buffer_id, "this id is used already, with other items")


def _differs(context: Context, arriving: Arriving, row: BufferRow) -> str | None:
    """In what a buffer differs from what a start wants, beside its items; None: in nothing. A handler's
    thread is content too: no client's start is on it.
    """
    start = arriving.start
    if row.from_id and not context.journal.messages.has_mailbox(row.from_id):
        return f"by a buffer that {row.from_id} started"
    alike = row.target == start.target and row.collect == start.collect
    if not alike or not _returns_alike(context, arriving, row):
        return "with other target, collect or return_to"
    return None


def _returns_alike(context: Context, arriving: Arriving, row: BufferRow) -> bool:
    """A buffer returns to whom its start says, or else to the client that starts it. A retry says what
    the retried buffer does: when that says nobody, whoever asks again need not be who asked first.
    """
    said = arriving.start.return_to
    retried = _retried(context, arriving.start)
    if retried is not None and retried.buffer_seq == row.retry_of:
        return bool(said == retried.return_to)
    return bool((said or name_of(context, arriving.connection_id)) == row.return_to)


def _watch(context: Context, connection_id: int, watch: Watch, bodies: list[bytes]) -> Answer:
    row = context.journal.buffers.by_id(watch.buffer_id)
    if row is not None:
        _tell_end(context, connection_id, row)
    return Watching(watch.request, watch.buffer_id)


def _tell_end(context: Context, connection_id: int, row: BufferRow) -> None:
    """Tell this connection when the buffer ends; at once when it has."""
    if row.ended_commit is not None:
        context.outbox.to_client(connection_id, Ended(row.buffer_id))
    else:
        watchers = context.state.watchers.get(row.buffer_seq, frozenset())
        context.state.watchers[row.buffer_seq] = watchers | {connection_id}


def _items(chunk: Chunk | Submit, bodies: list[bytes], received: int) -> bytes:
    """A chunk's items, as one body. Raises UsageError or LimitExceeded for what the journal must not get: it
    counts them itself.
    """
    count = chunk.count
    if not 0 < count <= CHUNK_ITEMS_MAX:
        raise UsageError(f"a chunk holds 1 to {CHUNK_ITEMS_MAX} items, not {count}")
    if received + count > ITEMS_MAX:
        raise LimitExceeded(f"a buffer holds at most {ITEMS_MAX} items")
    if len(bodies) != 1 or not bodies[0].endswith(b"\0"):
        raise UsageError("a chunk's items are one body, and each ends with NUL")
    items = bodies[0]
    if len(chunk.forms) not in (1, count):
        raise UsageError(f"a chunk's forms are not those of {count} items")
    if len(items) > PAYLOAD_BYTES_MAX:
        if (held := items.count(b"\0")) != count:  # before millions of them are cut
            raise UsageError(f"a chunk said to hold {count} items holds {held}")
        if max(map(len, split(items))) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"an item is over the limit of {PAYLOAD_BYTES_MAX} bytes")
    return items


HANDLERS: Handlers = {
    Submit: _submit,
    Start: _start,
    Chunk: _chunk,
    Open: _open,
    Abandon: _abandon,
    Watch: _watch,
}
