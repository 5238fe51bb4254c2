"""A worker whose app has async handlers: an event loop that runs up to `concurrency` items of each at once.

Sync handlers of the same app run on the loop, one at a time, and block it meanwhile, as they would in any
program.
"""

import asyncio
import os
import time
from typing import Any

from durable_bus.answers import FLUSH_S, Answers, end_worker
from durable_bus.bus import Bus, Listener
from durable_bus.channel import READ_BYTES, Frame, FrameReader, unpack
from durable_bus.errors import WorkerSilent
from durable_bus.messages import HandlerResponse
from durable_bus.outcomes import MessageHandling, metadata_of, outcome_of, passed_on
from durable_bus.sync_runner import (
    LIMIT,
    SINCE,
    STARTED,
    SyncRunner,
    describe,
    forms_of,
)
from durable_bus.xml import load

__all__ = ["serve"]

_FLUSH_EVERY_S = 0.02
_CANCEL_GRACE_S = 1.0
"""How long a handler that was cancelled for being late may take to give in; then it is left to itself."""


class _Item:
    """An item or a message, from its start until it is settled, which happens once."""

    __slots__ = ("begun_ns", "index", "is_late", "listener", "settled", "task", "timer", "work")

    def __init__(self, listener: Listener, work: dict[str, Any], index: int) -> None:
        self.listener = listener
        self.work = work
        self.index = index
        self.begun_ns = time.monotonic_ns()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_late = False
        self.settled = False

    @property
    def micros(self) -> int:
        return (time.monotonic_ns() - self.begun_ns) // 1000


class _AsyncRunner:
    """Feeds items to handlers in the order they came, as far as each listener's concurrency allows."""

    def __init__(
        self, bus: Bus, words: "memoryview[int]", answers: Answers, messages: MessageHandling
    ) -> None:
        self._bus = bus
        self._messages = messages
        self._words = words
        self._answers = answers
        self._sync = SyncRunner(words, answers, messages)
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._room = {name: asyncio.Semaphore(one.concurrency) for name, one in bus.listeners.items()}
        self._running = 0
        self._beating = False
        self._pid = os.getpid()
        self._done: list[tuple[dict[str, Any], int, str, bool, bool, int]] = []
        self._flush_planned = False
        self._items: set[_Item] = set()
        """Those that are not settled: a loop holds its tasks weakly."""

    async def serve(self, read_fd: int) -> None:
        loop = asyncio.get_running_loop()
        reader = FrameReader()
        ended = loop.create_future()

        def readable() -> None:
            try:
                data = os.read(read_fd, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                ended.set_result(None)
                loop.remove_reader(read_fd)
            for frame in reader.feed(data):
                self._frames.put_nowait(frame)

        loop.add_reader(read_fd, readable)
        feeding = asyncio.create_task(self._feed_or_end())
        await ended
        feeding.cancel()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the supervisor that the loop turns: a blocked one cannot cancel anything by itself."""
        self._beating = self._running > 0
        self._words[SINCE] = time.monotonic_ns() if self._beating else 0
        if self._beating:
            loop.call_later(FLUSH_S, self._beat, loop)

    async def _feed_or_end(self) -> None:
        """The loop would turn on without it, and the worker be deaf."""
        try:
            await self._feed()
        except Exception:
            end_worker()

    async def _feed(self) -> None:
        while True:
            frame = await self._frames.get()
            work = frame.header
            listener = self._bus.listeners[work["listener"]]
            if listener.is_async:
                await self._start_items(listener, work, frame.bodies)
            else:
                self._sync.run(listener, work, frame.bodies)
                await asyncio.sleep(0)

    async def _start_items(self, listener: Listener, work: dict[str, Any], bodies: list[bytes]) -> None:
        payloads = unpack(bodies[0])
        forms = forms_of(work, bodies, len(payloads))
        room = self._room[listener.name]
        for position, payload in enumerate(payloads):
            await room.acquire()
            ordinal = work["ordinal"] + position
            self._words[STARTED] = ordinal + 1  # before looking at the limit, see sync_runner.SyncRunner.run
            if ordinal >= self._words[LIMIT]:
                room.release()
                self._words[STARTED] = ordinal
                self._answers.discard(ordinal, work["ordinal"] + len(payloads))
                self._flush()
                return
            self._running += 1
            if not self._beating:
                self._beat(asyncio.get_running_loop())
            item = _Item(listener, work, work["first"] + position)
            item.task = asyncio.create_task(self._run(item, payload, forms[position], bodies))
            self._items.add(item)

    async def _run(self, item: _Item, payload: str, form: int, bodies: list[bytes]) -> None:
        """Handle one item or message. Whatever it raises stays in here: SystemExit and KeyboardInterrupt, let
        out of a task, would end the whole loop and with it every neighbour.

        A task of its own is all an item gets. An inner one, waited for with a time-out, cost 28 µs an item.
        """
        listener, work = item.listener, item.work
        found: tuple[dict[str, Any], bytes] | None = None
        try:
            if "message" in work:
                argument, metadata = self._messages.arguments(listener, work, bodies)
            else:
                argument = load(payload, form == 1, listener.annotation)
                metadata = metadata_of(work, item.index)
            awaitable = listener.call(argument, metadata)
            if listener.timeout_s is not None:
                item.timer = asyncio.get_running_loop().call_later(listener.timeout_s, self._late, item)
            value = await awaitable
            if "message" in work:
                found = self._messages.outcome(value)
            elif isinstance(value, HandlerResponse):
                found = passed_on(value)
                value = value.payload
            if found is None:
                text, is_xml, success = outcome_of(value)
        except BaseException as error:
            if item.is_late:
                self._give_up(item)
            elif not item.settled:
                self._settled(item)
                self._answers.add_failed(work, item.index, *describe(error), item.micros)
        else:
            if item.is_late:  # what it answers all the same is too late
                self._give_up(item)
            elif found is not None:
                self._settled(item)
                self._answers.add_outcome(work, item.index, *found)
            else:
                self._settled(item)
                self._done.append((work, item.index, text, is_xml, success, item.micros))
        finally:
            if os.getpid() != self._pid:
                os._exit(0)  # a child that the handler forked, see worker.py

    def _late(self, item: _Item) -> None:
        """Its time is over. A handler that will not be cancelled is left to itself after a while."""
        item.is_late = True
        assert item.task is not None
        item.task.cancel()
        item.timer = asyncio.get_running_loop().call_later(_CANCEL_GRACE_S, self._give_up, item)

    def _give_up(self, item: _Item) -> None:
        if not item.settled:
            self._settled(item)
            assert item.listener.timeout_s is not None
            silent = WorkerSilent(item.listener.timeout_s)
            self._answers.add_failed(item.work, item.index, *describe(silent), item.micros)

    def _settled(self, item: _Item) -> None:
        """Its outcome is known: make room for another, and say so soon, with what else comes."""
        item.settled = True
        if item.timer is not None:
            item.timer.cancel()
        self._items.discard(item)
        self._running -= 1
        self._room[item.listener.name].release()
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_later(_FLUSH_EVERY_S if self._running else 0, self._flush)

    def _flush(self) -> None:
        """Put what has come in, in whatever order, into contiguous segments, and send it."""
        self._flush_planned = False
        done, self._done = self._done, []
        done.sort(key=lambda answer: (answer[0]["dispatch"], answer[1]))
        segment = None
        next_index = -1
        for work, index, text, is_xml, success, micros in done:
            same = segment is not None and segment.dispatch == work["dispatch"] and index == next_index
            if segment is None or not same or (segment.is_xml, segment.success) != (is_xml, success):
                segment = self._answers.segment(work, index, success, is_xml)
            segment.texts.append(text)
            segment.micros.append(micros)
            next_index = index + 1
        self._answers.flush()
        if not self._running:
            self._words[SINCE] = 0
            self._answers.idle()


def serve(
    bus: Bus, read_fd: int, words: "memoryview[int]", answers: Answers, messages: MessageHandling
) -> None:
    """Run until the supervisor closes the pipe."""
    os.set_blocking(read_fd, False)
    asyncio.run(_AsyncRunner(bus, words, answers, messages).serve(read_fd))
