"""Runs the items of sync handlers inside a worker, and turns what handlers return or raise into answers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from durable_bus.app.bus import Bus, Listener
from durable_bus.payloads.forms import TEXT, form_of_each
from durable_bus.payloads.messages import HandlerResponse
from durable_bus.payloads.outcomes import Forward, Start, message_outcome, passed_on
from durable_bus.payloads.packing import split, unpack
from durable_bus.payloads.values import quick_answer
from durable_bus.payloads.xml_reading import BEFORE_XML, PAYLOAD_BYTES_MAX
from durable_bus.wire.decoding import decode_work
from durable_bus.wire.framing import Frame, read_frame
from durable_bus.wire.slot import LIMIT, SINCE, STARTED
from durable_bus.wire.telemetry import Processing, processing
from durable_bus.wire.work import Work, WorkItems, WorkMessage
from durable_bus.worker.failing import RestingLimits
from durable_bus.worker.handling import MessageHandling, metadata_of
from durable_bus.worker.replies import FLUSH_BYTES_MAX, OpenSegment, Replies, Spending

__all__ = ["SyncRunner"]

_FLUSH_SPENT_NS = 4_000_000
_FLUSH_NS = 95_000_000
"""More than a batch should take: it is mostly one frame and one commit, not one and a small rest."""


def _arguments(listener: Listener, work: WorkItems, body: bytes) -> tuple[Iterator[Any], int]:
    """A dispatch's payloads as the handler takes them, and how many they are. One that is malformed raises
    MalformedItem at its turn, and the next one may follow.

    Text to str is decoded at once. After an item that has slept the processor's caches are cold: with this,
    and the look at short answers in `_run_items`, items of 1 ms take 25 us of processor time instead of 32.
    """
    loads = listener.payload_type.loads
    if loads[TEXT] is bytes.decode and work.forms == "0":
        with contextlib.suppress(UnicodeDecodeError):  # then only the item that it is about is malformed
            texts = unpack(body)
            return iter(texts), len(texts)
    payloads = split(body)
    if len(work.forms) == 1:
        return map(loads[int(work.forms)], payloads), len(payloads)
    forms = form_of_each(work.forms, len(payloads))
    return map(lambda form, payload: loads[form](payload), forms, payloads), len(payloads)


class SyncRunner:
    """Runs the items of sync handlers, one at a time, on the main thread."""

    def __init__(
        self,
        bus: Bus,
        words: "memoryview[int]",
        replies: Replies,
        messages: MessageHandling,
        resting: RestingLimits,
    ) -> None:
        self._listeners = bus.listeners
        self._words = words
        self._replies = replies
        self._messages = messages
        self._resting = resting
        self._writers = bus.writers
        self._work: Work | None = None
        self._span: Processing | None = None
        """Of the dispatch that runs, where somebody traces."""

    def at_work(self) -> tuple[Work, int] | None:
        """What runs now, and the index of the item of it. The slot says so: an item costs nothing more."""
        work = self._work
        if work is None or isinstance(work, WorkMessage):
            return None if work is None else (work, 0)
        try:
            return work, work.first + self._words[STARTED] - 1 - work.ordinal
        except ValueError:  # a child that the handler has forked has no slot
            return None

    def serve(self, read_fd: int) -> None:
        """Run until the supervisor closes the pipe."""
        while (frame := read_frame(read_fd, decode_work)) is not None:
            self.run(frame)

    def run(self, frame: Frame[Work]) -> None:
        """A range of items, or a message. Then the worker is idle."""
        work, listener = frame.header, self._listeners[frame.header.listener]
        self._work = work
        if self._resting.returns(listener):
            # Nothing is said to be started: what is thrown away is none of what ran if this process dies.
            self._replies.discard(work.ordinal, work.ordinal + len(split(frame.bodies[0])))
        elif isinstance(work, WorkMessage):
            self._run_message(listener, work, frame.bodies)
        elif (span := processing(work)) is None:
            self._run_items(listener, work, frame.bodies)
        else:
            self._run_traced(span, listener, work, frame.bodies)
        self._work = None
        self._words[SINCE] = 0
        self._replies.flush()
        self._replies.idle()

    def _run_traced(self, span: Processing, listener: Listener, work: WorkItems, bodies: list[bytes]) -> None:
        """With its span as the current one. What is answered leaves before the span: to export it may take
        long, and whoever dies meanwhile shall lose the span alone.
        """
        self._span = span
        try:
            with span:
                self._run_items(listener, work, bodies)
        finally:
            self._span = None
        begun = self._words[STARTED] - work.ordinal
        self._replies.flush()
        span.end(begun)

    def _run_items(self, listener: Listener, work: WorkItems, bodies: list[bytes]) -> None:
        """The hot path: what is here runs for every item."""
        words, replies = self._words, self._replies
        handler, takes_metadata = listener.handler, listener.takes_metadata
        arguments, count = _arguments(listener, work, bodies[0])
        forms = form_of_each(work.forms, count)
        end_ordinal = work.ordinal + count
        index_from_ordinal = work.first - work.ordinal
        monotonic_ns = time.monotonic_ns
        segment: OpenSegment | None = None
        bytes_added = 0
        begun_ns = monotonic_ns()
        flush_at_ns = begun_ns + _FLUSH_NS
        for ordinal in range(work.ordinal, end_ordinal):
            # Say "started" before looking at the limit: the supervisor sets the limit before it looks at
            # "started", so that no item is both run here and given to somebody else.
            words[STARTED] = ordinal + 1
            if ordinal >= words[LIMIT]:
                words[STARTED] = ordinal
                replies.discard(ordinal, end_ordinal)
                return
            words[SINCE] = begun_ns
            index = ordinal + index_from_ordinal
            try:
                argument = next(arguments)
                if takes_metadata:
                    value = self._call_with_metadata(handler, argument, work, index)
                else:
                    value = handler(argument)
                found: tuple[Forward | Start, bytes] | None = None
                if (
                    type(value) is str
                    and value[:1] not in BEFORE_XML
                    and len(value) <= PAYLOAD_BYTES_MAX
                    and value.isascii()
                    and "\0" not in value
                ):
                    payload, form, success = value.encode(), TEXT, True  # all that the writer would find out
                elif (quick := quick_answer(value)) is not None:
                    payload, form, success = *quick, True
                else:
                    payload, form, success, found = self._written(value, forms[index - work.first], index)
            except BaseException as error:  # a handler's SystemExit ends its item, not the worker
                ended_ns = monotonic_ns()
                bytes_added += self._add_failed(listener, work, index, error, ended_ns - begun_ns)
                segment = None
                if ordinal + 1 < end_ordinal and self._resting.returns(listener):
                    replies.discard(ordinal + 1, end_ordinal)
                    return
            else:
                ended_ns = monotonic_ns()
                if found is not None:
                    self._add_outcome(work, index, *found)
                    segment = None
                    begun_ns = ended_ns
                    continue
                if segment is None or segment.form != form or segment.success is not success:
                    segment = replies.segment(work, index, success, form)
                segment.payloads.append(payload)
                segment.micros.append((ended_ns - begun_ns) // 1000)
                bytes_added += len(payload)
            if takes_metadata and replies.holds_spent:  # what a kill loses of it nobody knows
                flush_at_ns = min(flush_at_ns, begun_ns + _FLUSH_SPENT_NS)
            if ended_ns > flush_at_ns or bytes_added > FLUSH_BYTES_MAX:
                replies.flush()
                ended_ns = monotonic_ns()  # it may have waited for room in the pipe
                flush_at_ns = ended_ns + _FLUSH_NS
                bytes_added = 0
            begun_ns = ended_ns

    def _call_with_metadata(
        self, handler: Callable[..., object], argument: object, work: WorkItems, index: int
    ) -> object:
        spending = Spending(self._replies, work.dispatch, index)
        try:
            return handler(argument, metadata_of(work, index, spending))
        finally:
            spending.ended = True

    def _written(
        self, value: object, form: int, index: int
    ) -> tuple[bytes, int, bool, tuple[Forward | Start, bytes] | None]:
        """An answer that takes more than a look: its bytes, its form, and whether it is a success; or to whom
        the item is passed on.
        """
        writer = self._writers[form]
        if isinstance(value, HandlerResponse):
            found = passed_on(writer, value)
            if found is not None:
                return b"", form, True, found
            value = value.payload
        text, form, success = writer.outcome(value)
        if not success and self._span is not None:
            self._span.failed(index, "answered")
        return text.encode(), form, success, None

    def _add_failed(
        self, listener: Listener, work: Work, index: int, error: BaseException, duration_ns: int
    ) -> int:
        """What a handler has raised, or why there is no answer. Returns how long that is."""
        described = self._resting.failed(listener, error)
        if self._span is not None:
            self._span.failed(index, described.kind, error)
        self._replies.add_failed(work, index, described, duration_ns // 1000)
        return len(described.traceback) + len(described.answer)

    def _add_outcome(self, work: WorkItems, index: int, outcome: Forward | Start, body: bytes) -> None:
        if self._span is not None:
            outcome = self._span.carried_by(outcome)
        self._replies.add_outcome(work, index, outcome, body)

    def _run_message(self, listener: Listener, work: WorkMessage, bodies: list[bytes]) -> None:
        words, replies = self._words, self._replies
        words[STARTED] = work.ordinal + 1
        if work.ordinal >= words[LIMIT]:
            words[STARTED] = work.ordinal
            replies.discard(work.ordinal, work.ordinal + 1)
            return
        begun_ns = words[SINCE] = time.monotonic_ns()
        spending = Spending(replies, work.dispatch, 0)
        try:
            try:
                value = listener.call(*self._messages.arguments(listener, work, bodies, spending))
            finally:
                spending.ended = True
            outcome, body = message_outcome(self._writers[work.form], value)
        except BaseException as error:
            self._add_failed(listener, work, 0, error, time.monotonic_ns() - begun_ns)
        else:
            replies.add_outcome(work, 0, outcome, body)
