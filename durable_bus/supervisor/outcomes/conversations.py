"""What follows from an outcome: a message settled, forwarded, answered; a buffer started; a chain that ends.

All of it happens in the commit that records the outcome. Every chain ends: whatever ends a message on a
thread above an item (None, attempts used up, an unknown or refused name, an error nobody handled) is recorded
on the nearest item below it, None as an empty success and all else as a failed result. A SystemError or
BufferError that cannot be handled never causes another.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from durable_bus.errors import UsageError
from durable_bus.payloads.messages import (
    SYSTEM_BUFFER,
    BufferDispatched,
    BufferError,
    BufferStart,
    check_name,
)
from durable_bus.payloads.outcomes import End, Forward, Outcome, Start
from durable_bus.payloads.packing import split, unpack
from durable_bus.payloads.xml import dump, error_payload
from durable_bus.supervisor.outcomes.collector import (
    LOST_MAX,
    LOST_WITH_SUPERVISOR_MAX,
    Collector,
    backoff_ms,
    complete_message_id,
)
from durable_bus.supervisor.outcomes.threads import Chain, ItemHop, ThreadRegistry
from durable_bus.supervisor.scheduling.leases import InHand
from durable_bus.supervisor.scheduling.message_dispatcher import Post
from durable_bus.supervisor.workers.workforce import Workforce

if TYPE_CHECKING:
    import sqlite3

    from durable_bus.journal.journal import Journal

__all__ = ["Conversations"]

_ERROR_KINDS = ("SystemError", "BufferError")


class _Handled(NamedTuple):
    """What a handler has come to an outcome of: an item or a message, and where it was handled."""

    own_name: str
    thread_id: str
    error: str | None = None
    """Its payload, when it was a SystemError or BufferError."""


class Conversations:
    """Carries outcomes out."""

    def __init__(
        self,
        journal: "Journal",
        collector: Collector,
        post: Post,
        threads: ThreadRegistry,
        workforce: Workforce,
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._collector = collector
        self._post = post
        self._threads = threads
        self._workforce = workforce
        self._new_id = new_id

    def require_app(self) -> None:
        """Raises Deferred or BusNotImportable while it is not known who listens."""
        self._workforce.require_app()

    def is_known(self, name: str) -> bool:
        """A listener of the newest table, or a mailbox."""
        return name in (self._workforce.listeners or {}) or self._journal.messages.has_mailbox(name)

    # Outcomes

    def item_outcome(self, held: InHand, index: int, outcome: Outcome, body: bytes) -> None:
        """The handler of an item passed its work on. Nothing follows when the item has its outcome
        already.
        """
        buffer = self._collector.buffer(held.buffer_seq)
        if buffer is None:
            return
        if self._journal.work.forward_item(buffer.seq, index, held.dispatch_id, held.attempt):
            self._collector.passed_on(buffer)
            self._carry_out(_Handled(buffer.target, f"{buffer.thread_id}/{index}"), outcome, body)

    def message_outcome(self, message_seq: int, outcome: Outcome, body: bytes) -> None:
        """The handler of a message came to an end. Nothing follows when the message was settled before, or
        when the buffer that it was said for has ended meanwhile, as by a cancel.
        """
        row = self._journal.messages.by_seq(message_seq)
        if self._journal.messages.settle(message_seq) and not self._is_over(row["thread_id"]):
            error = row["payload"] if row["kind"] in _ERROR_KINDS else None
            self._carry_out(_Handled(row["to_id"], row["thread_id"], error), outcome, body)

    def _is_over(self, thread_id: str) -> bool:
        """The nearest item below is of a buffer that has ended: nobody waits for what is said there."""
        below = (self._threads.lookup(thread_id) or Chain()).down_to_item()
        if below is None:
            return False
        assert isinstance(below.last, ItemHop)
        row = self._journal.buffers.by_id(below.last.buffer_id)
        return row is None or row["ended_commit"] is not None

    def _carry_out(self, handled: _Handled, outcome: Outcome, body: bytes) -> None:
        own_name, thread_id, _ = handled
        goes_on = isinstance(outcome, Forward | Start)
        limit = self._threads.limit_reached(thread_id) if goes_on else None
        if limit is not None:
            self.end(thread_id, error_payload("routing", limit), is_xml=True, success=False)
        elif isinstance(outcome, End):
            self.end(thread_id, "", is_xml=False, success=True)
        elif isinstance(outcome, Start):
            self._start(handled, outcome, body)
        else:
            (payload,) = unpack(body)
            if isinstance(outcome, Forward):
                self._forward(handled, outcome.to, payload, outcome.is_xml)
            else:
                self.respond(own_name, thread_id, payload, is_xml=outcome.is_xml, success=outcome.success)

    def message_failed(
        self, held_attempt: int, message_seq: int, kind: str, message: str, **options: Any
    ) -> None:
        """An attempt at a message failed: journal it, and plan the next one or end its chain.

        `options`: `traceback`, and `supervisor_died` for one that was lost with the supervisor.
        """
        row = self._journal.messages.by_seq(message_seq)
        if row["settled_commit"] is not None:
            return
        before = self._journal.work.message_attempts(message_seq)
        settings = (self._workforce.listeners or {}).get(row["to_id"])
        due_at: int | None = None
        if kind in ("exception", "timeout"):
            charged = before.charged + 1
            if settings and charged < settings.attempts:
                due_at = self._journal.now_ms + backoff_ms(settings, charged)
        elif kind == "lost":
            died = options.get("supervisor_died", False)
            so_far = before.lost_with_supervisor if died else before.lost
            if so_far + 1 < (LOST_WITH_SUPERVISOR_MAX if died else LOST_MAX):
                due_at = 0
        self._journal.work.record_failure(
            message_seq=message_seq, attempt=held_attempt, kind=kind, message=message, **options
        )
        if due_at is not None:
            self._post.put_back(message_seq, row["to_id"], due_at=due_at, interrupted=kind == "lost")
            return
        self._journal.messages.settle(message_seq, failed=True)
        if row["kind"] in _ERROR_KINDS:
            self.end(row["thread_id"], row["payload"], is_xml=True, success=False)
        else:
            self.end(row["thread_id"], error_payload(kind, message), is_xml=True, success=False)

    # What they lead to

    def respond(self, own_name: str, thread_id: str, payload: str, *, is_xml: bool, success: bool) -> None:
        """Drop the own hop, deliver to what is then last; an item means the collector."""
        chain = self._threads.respond(thread_id)
        last = chain.last
        if isinstance(last, ItemHop):
            self._record(last, payload, is_xml=is_xml, success=success)
        else:
            # Without anybody left to answer, the message itself is the record of the answer.
            self._post.add(
                from_id=own_name,
                to_id=last or "",
                thread_id=thread_id,
                payload=payload,
                is_xml=is_xml,
                settled=last is None,
            )

    def end(
        self, thread_id: str, payload: str, *, is_xml: bool, success: bool, tell_client: bool = True
    ) -> None:
        """Nobody will say anything on this thread any more: its nearest item gets its result.

        Without an item below, a failure is told to the nearest mailbox: a client must not wait for ever.
        """
        chain = self._threads.lookup(thread_id) or Chain()
        below = chain.down_to_item()
        if below is not None:
            self._threads.set(thread_id, below)
            hop = below.last
            assert isinstance(hop, ItemHop)
            self._record(hop, payload, is_xml=is_xml, success=success)
            return
        if success or not tell_client:
            return
        for length in range(len(chain.hops) - 1, 0, -1):
            name = str(chain.hops[length - 1])
            if self._journal.messages.has_mailbox(name):
                self._threads.set(thread_id, Chain(chain.hops[:length]))
                self._post.add(
                    from_id="system", to_id=name, thread_id=thread_id, payload=payload, is_xml=is_xml
                )
                return

    def _record(self, hop: ItemHop, payload: str, *, is_xml: bool, success: bool) -> None:
        row = self._journal.buffers.by_id(hop.buffer_id)
        if row is None:
            return
        buffer_seq = row["buffer_seq"]
        attempt = self._journal.work.forwarded_attempt(buffer_seq, hop.index) or 1
        self._collector.record_one(
            buffer_seq, hop.index, payload, success=success, is_xml=is_xml, attempt=attempt
        )

    def _forward(self, handled: _Handled, to_id: str, payload: str, is_xml: bool) -> None:
        own_name, thread_id, _ = handled
        refusal = self._refusal(own_name, [to_id])
        if refusal is None and to_id == SYSTEM_BUFFER:
            refusal = (
                f"{own_name} sent {'XML' if is_xml else 'text'} to {to_id!r}, which takes a BufferStart as a "
                f"value: return HandlerResponse(BufferStart(target, items), {to_id!r})"
            )
        if refusal is None and not self.is_known(to_id):
            refusal = f"{own_name} sent to the unknown name {to_id!r:.120}"
        self._post.add(
            from_id=own_name,
            to_id=to_id,
            thread_id=thread_id,
            payload=payload,
            is_xml=is_xml,
            settled=refusal is not None,
            failed=refusal is not None,
        )
        if refusal is None:
            self._threads.extend(thread_id, to_id)
        else:
            self._refused(handled, error_payload("routing", refusal))

    def _refused(self, handled: _Handled, error: str) -> None:
        """What a handler wanted cannot be: its chain ends with why. When it was handling an error, it ends
        with that one, which came first: nobody is told of an error because of another, or two could take
        turns for ever.
        """
        payload = error if handled.error is None else handled.error
        self.end(handled.thread_id, payload, is_xml=True, success=False)

    def _refusal(self, own_name: str, names: list[str]) -> str | None:
        """Why this listener may not address one of these, None when it may."""
        settings = (self._workforce.listeners or {}).get(own_name)
        peers = settings.peers if settings else None
        for name in names:
            if peers is not None and name not in peers:
                return (
                    f"{own_name} may not address {name!r:.120}: its peers are {', '.join(peers) or 'nobody'}"
                )
        return None

    # Buffers started by handlers

    def _start(self, handled: _Handled, start: Start, body: bytes) -> None:
        own_name, thread_id, _ = handled
        addressed = [SYSTEM_BUFFER, start.target]
        if start.return_to not in ("", own_name):  # the starter itself, written out or not, needs no peer
            addressed.append(start.return_to)
        refusal = self._refusal(own_name, addressed)
        if refusal is not None:
            self._refused(handled, error_payload("routing", refusal))
            return
        try:
            self._open(own_name, thread_id, start, body)
        except BufferError as error:
            payload, _ = dump(error)
            if handled.error is not None:
                self._refused(handled, payload)
                return
            self._post.add(from_id=SYSTEM_BUFFER, to_id=own_name, thread_id=thread_id, payload=payload)

    def _open(self, own_name: str, thread_id: str, start: Start, body: bytes) -> None:
        buffer_id = start.buffer_id or self._new_id()
        self.check_start(start.buffer_id or "unknown", buffer_id, start.target, start.return_to)
        if start.count == 0:
            raise BufferError(start.buffer_id or "unknown", "No items specified")
        row = self._journal.buffers.by_id(buffer_id)
        if row is None:
            opened = self._journal.buffers.add_whole(
                split(body),
                start.form,
                start.exceptions,
                digest=start.digest,
                buffer_id=buffer_id,
                target=start.target,
                return_to=start.return_to or own_name,
                from_id=own_name,
                thread_id=f"{thread_id}/{buffer_id}",
                starter_thread_id=thread_id,
                collect=start.collect,
                request_id=self._new_id(),
                retry_of=None,
            )
            self._threads.set(f"{thread_id}/{buffer_id}", self._threads.lookup(thread_id) or Chain())
            self._collector.open(opened)
        else:
            self._compare(row, own_name, thread_id, start)
            message_id = complete_message_id(buffer_id)
            if start.collect and row["ended_commit"] and self._journal.messages.redeliver(message_id):
                self._post.waiting_names.add(row["return_to"])
                # Its BufferComplete is no new message. This is one, and so counts on the thread: who asks
                # again each time it is told must come to an end, too.
                asked, _ = dump(BufferStart(row["target"], "", True, row["return_to"], buffer_id))
                self._post.add(
                    from_id=own_name, to_id=SYSTEM_BUFFER, thread_id=thread_id, payload=asked, settled=True
                )
        if not start.collect:
            payload, _ = dump(BufferDispatched(buffer_id, start.count))
            self._post.add(from_id=SYSTEM_BUFFER, to_id=own_name, thread_id=thread_id, payload=payload)

    @staticmethod
    def _compare(row: "sqlite3.Row", own_name: str, thread_id: str, start: Start) -> None:
        """The same id with the same content, on the same thread, is the buffer that exists."""
        same = (
            row["starter_thread_id"],
            row["target"],
            row["digest"],
            bool(row["collect"]),
            row["return_to"],
        ) == (
            thread_id,
            start.target,
            start.digest,
            start.collect,
            start.return_to or own_name,
        )
        if not same:
            raise BufferError(row["buffer_id"], "this id is used already, by another start")

    def check_start(self, said_id: str, buffer_id: str, target: str, return_to: str) -> None:
        """Raises BufferError for a start that nobody could carry out or answer."""
        listeners = self._workforce.listeners or {}
        if target not in listeners:
            known = ", ".join(sorted(listeners)) or "none"
            raise BufferError(said_id, f"unknown target {target!r:.120}; the listeners are: {known}")
        if return_to and not self.is_known(return_to):
            raise BufferError(said_id, f"unknown return_to {return_to!r:.120}")
        try:
            check_name(buffer_id, "buffer")
        except UsageError as error:
            raise BufferError("unknown", str(error)) from None
