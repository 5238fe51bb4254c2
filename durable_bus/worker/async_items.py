"""What async handlers run as: items, the steps of each, and the batches that they came in."""

import asyncio
import inspect
import os
import time
from collections.abc import Coroutine, Generator
from typing import Any

from durable_bus.app.bus import Listener
from durable_bus.payloads.forms import form_of_each
from durable_bus.payloads.messages import HandlerMetadata
from durable_bus.payloads.packing import unpack
from durable_bus.wire.framing import Frame
from durable_bus.wire.slot import CURRENT, SINCE
from durable_bus.wire.telemetry import Processing, processing
from durable_bus.wire.work import Work, WorkItems, WorkMessage
from durable_bus.worker.handling import MessageHandling, metadata_of
from durable_bus.worker.replies import Replies, Spending

__all__ = ["Batch", "Item", "Steps"]


class Item:
    """An item or a message, from its start until it is settled, which happens once."""

    __slots__ = ("batch", "begun_ns", "is_late", "position", "settled", "spending", "task", "timer")

    def __init__(self, batch: "Batch", replies: Replies) -> None:
        self.batch = batch
        self.position = batch.position
        self.begun_ns = time.monotonic_ns()
        self.spending = Spending(replies, batch.work.dispatch, self.index)
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_late = False
        self.settled = False

    @property
    def index(self) -> int:
        work = self.batch.work
        return 0 if isinstance(work, WorkMessage) else work.first + self.position

    @property
    def micros(self) -> int:
        return (time.monotonic_ns() - self.begun_ns) // 1000


class Steps(Coroutine[Any, Any, None]):
    """An item's coroutine, which says in the slot when a step of it begins and ends: 0.7 us a step."""

    __slots__ = ("_inner", "_item", "_ordinal", "_words")

    def __init__(self, item: Item, inner: Coroutine[Any, Any, None], words: "memoryview[int]") -> None:
        self._item = item
        self._ordinal = item.batch.work.ordinal + item.position
        self._inner = inner
        self._words = words

    def send(self, value: Any) -> Any:
        self._begin()
        try:
            return self._inner.send(value)
        finally:
            self._end()

    def throw(self, *error: Any) -> Any:
        if inspect.getcoroutinestate(self._inner) == inspect.CORO_CREATED:
            return self.send(None)  # cancelled by a neighbour before it began: nobody would settle it
        self._begin()
        try:
            return self._inner.throw(*error)
        finally:
            self._end()

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        """What libraries ask the coroutine of a task, such as whether it has begun (anyio does)."""
        return getattr(self._inner, name)

    def _begin(self) -> None:
        if not self._item.settled:  # or an idle worker would say that it is busy
            self._words[SINCE] = time.monotonic_ns()
        self._words[CURRENT] = self._ordinal + 1

    def _end(self) -> None:
        try:
            self._words[CURRENT] = 0
        except ValueError:
            os._exit(0)  # a child that the handler forked has no slot, and its loop is its parent's


class Batch:
    """What one frame has brought, and how far it is started."""

    def __init__(self, listener: Listener, frame: Frame[Work]) -> None:
        self.listener = listener
        self.work, self.bodies = frame.header, frame.bodies
        self.payloads = unpack(frame.bodies[0])
        digits = str(self.work.form) if isinstance(self.work, WorkMessage) else self.work.forms
        self.forms = form_of_each(digits, len(self.payloads))
        self.position = 0
        self.span: Processing | None = None
        self._begun = self._running = 0

    @property
    def ordinal(self) -> int:
        """Of what is started next."""
        return self.work.ordinal + self.position

    def begin(self) -> None:
        """The next one is started. The span begins with the first: the batch may have waited for room."""
        if self.position == 0 and isinstance(self.work, WorkItems):
            self.span = processing(self.work)
        self.position += 1
        self._begun += 1
        self._running += 1

    def drop(self) -> None:
        """Nothing more of it is started."""
        self.position = len(self.payloads)

    def settled(self) -> None:
        """One of it has its outcome."""
        self._running -= 1

    @property
    def has_traced_all(self) -> bool:
        """Its span may end: no item of it runs, and none is started any more."""
        return self.span is not None and not self._running and self.position == len(self.payloads)

    def end_span(self) -> None:
        if self.span is not None and self.has_traced_all:
            self.span.end(self._begun)

    def arguments(self, item: Item, messages: MessageHandling) -> tuple[Any, HandlerMetadata]:
        """What the handler is given. Raises MalformedItem."""
        if isinstance(self.work, WorkMessage):
            return messages.arguments(self.listener, self.work, self.bodies, item.spending)
        argument = self.listener.payload_type.load(self.payloads[item.position], self.forms[item.position])
        return argument, metadata_of(self.work, item.index, item.spending)
