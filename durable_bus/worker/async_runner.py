"""A worker whose app has async handlers: an event loop that runs up to `concurrency` items of each at once.

Sync handlers of the same app run on the loop, one at a time, and block it meanwhile, as they would in any
program.

Handlers share the loop, so what one does to it must not cost the others anything. Nothing of ours is a task
that somebody could cancel: work is fed by callbacks. A loop that a handler has stopped is run on. Each step
of an item is noted in the slot: so the supervisor knows which one does not end, or has ended the process.
"""

import asyncio
import contextlib
import os
import time
import traceback
from collections import deque

from durable_bus.app.bus import Bus
from durable_bus.errors import WorkerSilent
from durable_bus.payloads.messages import HandlerResponse
from durable_bus.payloads.outcomes import Outcome, message_outcome, passed_on
from durable_bus.wire.decoding import decode_work
from durable_bus.wire.framing import READ_BYTES, Frame, FrameReader
from durable_bus.wire.slot import LIMIT, SINCE, STARTED
from durable_bus.wire.work import Work, WorkMessage
from durable_bus.worker.async_items import Batch, Item, Steps
from durable_bus.worker.failing import RestingLimits, describe
from durable_bus.worker.handling import MessageHandling
from durable_bus.worker.prints import RUNNING, Prints
from durable_bus.worker.replies import FLUSH_S, Replies, end_worker
from durable_bus.worker.sync_runner import SyncRunner

__all__ = ["AsyncRunner"]

_FLUSH_EVERY_S = 0.02
_FLUSH_SOON_S = 0.004
"""The same of what somebody waits for, or is paid for: under a limit on how many run, nothing starts in the
place of an item before the supervisor knows that it has ended; and what a kill loses of spending is unknown.
"""
_CANCEL_GRACE_S = 1.0
"""How long a handler that was cancelled for being late may take to give in; then it is left to itself."""


class AsyncRunner:
    """Feeds items to handlers in the order they came, as far as each listener's concurrency allows."""

    def __init__(
        self,
        bus: Bus,
        words: "memoryview[int]",
        replies: Replies,
        messages: MessageHandling,
        resting: RestingLimits,
    ) -> None:
        self._bus = bus
        self._messages = messages
        self._words = words
        self._replies = replies
        self._resting = resting
        self.sync = SyncRunner(bus, words, replies, messages, resting)
        self._loop = asyncio.new_event_loop()
        self._reader = FrameReader(decode_work)
        self._ended = False
        self._last_frame = False
        """Nothing comes behind what it has: the loop stops when that has ended."""
        self._frames: deque[Frame[Work]] = deque()
        self._batch: Batch | None = None
        """The one that is being started: what has come behind it waits."""
        self._feed_planned = False
        self._room = {name: one.settings.concurrency for name, one in bus.listeners.items()}
        self._beating = False
        self._pid = os.getpid()
        limits = bus.limits
        self._slots = {
            name
            for name, one in bus.listeners.items()
            if any(limits[limit].running is not None for limit in one.settings.limits)
        }
        """Listeners under a limit on how many run."""
        self._flush_timer: asyncio.TimerHandle | None = None
        self._items: set[Item] = set()
        """Those that are not settled: a loop holds its tasks weakly."""

    def serve(self, read_fd: int) -> None:
        """Run the loop until the supervisor closes the pipe.

        A handler may stop the loop, or let SystemExit out of a callback or task of its own. That is no reason
        to end: `asyncio.run` would, and cancel every neighbour.
        """
        os.set_blocking(read_fd, False)
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(read_fd, self._readable, read_fd)
        while not self._ended:
            try:
                self._loop.run_forever()
            except BaseException:
                if os.getpid() != self._pid:
                    return  # a child that a callback has forked
                with contextlib.suppress(OSError, ValueError):  # nobody reads what we print
                    traceback.print_exc()

    def run(self, frame: Frame[Work]) -> None:
        """A range of items, until each has ended. For a process that is no worker: its loop is closed then,
        and what handlers have left on it is cancelled.
        """
        self._frames.append(frame)
        self._last_frame = True
        self._plan_feed()
        asyncio.set_event_loop(self._loop)
        while self._holds_something():
            with contextlib.suppress(BaseException):  # a handler may stop the loop, as in `serve`
                self._loop.run_forever()
        with contextlib.suppress(BaseException):
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=_CANCEL_GRACE_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self._loop.close()

    def _holds_something(self) -> bool:
        return bool(self._items or self._batch is not None or self._frames)

    def _readable(self, read_fd: int) -> None:
        try:
            data = os.read(read_fd, READ_BYTES)
            self._frames.extend(self._reader.feed(data))
        except BlockingIOError:
            return
        except Exception:  # the loop would turn on without it, and the worker be deaf
            end_worker()
        if data:
            if not self._feed_planned:
                self._feed_or_end()  # 30 us before the next round of the loop; no step is in its midst
        else:
            self._ended = True
            self._loop.remove_reader(read_fd)
            self._loop.stop()

    def _beat(self) -> None:
        """Tell the supervisor that the loop turns: a blocked one cannot cancel anything by itself."""
        self._beating = bool(self._items)
        self._words[SINCE] = time.monotonic_ns() if self._beating else 0
        if self._beating:
            self._loop.call_later(FLUSH_S, self._beat)

    def _plan_feed(self) -> None:
        """Not at once: whoever makes room is in the midst of a step of its own."""
        if not self._feed_planned:
            self._feed_planned = True
            self._loop.call_soon(self._feed_or_end)

    def _feed_or_end(self) -> None:
        self._feed_planned = False
        try:
            self._feed()
        except Exception:  # as in `_readable`
            end_worker()

    def _feed(self) -> None:
        """Start what there is room for. Whoever ends makes room, and it goes on from there."""
        while self._batch is not None or self._frames:
            if self._batch is None:
                frame = self._frames.popleft()
                listener = self._bus.listeners[frame.header.listener]
                if not listener.settings.is_async:
                    self._run_sync(frame)
                    if self._frames:
                        self._plan_feed()  # the loop turns in between
                    return
                self._batch = Batch(listener, frame)
            batch = self._batch
            if self._resting.returns(batch.listener):
                self._discard(batch)  # at once, also where there is no room
                continue
            if not self._room[batch.listener.settings.name]:
                return
            self._start_next(batch)
            if batch.position == len(batch.payloads):
                self._batch = None

    def _discard(self, batch: Batch) -> None:
        """Throw away what has not begun of a batch. Said at once: what comes behind it may begin."""
        self._replies.discard(batch.ordinal, batch.work.ordinal + len(batch.payloads))
        batch.drop()
        self._batch = None
        self._end_span(batch)

    def _end_span(self, batch: Batch) -> None:
        """What is answered leaves first: to export a span may take long, and whoever dies meanwhile shall
        lose the span alone.
        """
        self._flush()
        batch.end_span()

    def _run_sync(self, frame: Frame[Work]) -> None:
        self._replies.flush()  # what coroutines have answered must not wait until it ends
        self.sync.run(frame)
        if self._items:  # the sync runner says that it is idle, but the coroutines go on
            self._words[SINCE] = time.monotonic_ns()

    def _start_next(self, batch: Batch) -> None:
        ordinal = batch.ordinal
        self._words[STARTED] = ordinal + 1  # before looking at the limit, see sync_runner.SyncRunner.run
        if ordinal >= self._words[LIMIT]:
            self._words[STARTED] = ordinal
            self._discard(batch)
            return
        item = Item(batch, self._replies)
        batch.begin()
        self._room[batch.listener.settings.name] -= 1
        self._items.add(item)
        if not self._beating:
            self._beat()
        elif len(self._items) == 1:
            self._words[SINCE] = time.monotonic_ns()  # the next beat may never come
        item.task = self._loop.create_task(Steps(item, self._run(item), self._words))

    async def _run(self, item: Item) -> None:
        """Handle one item or message. Whatever it raises stays in here: SystemExit and KeyboardInterrupt, let
        out of a task, would end the whole loop and with it every neighbour.

        A task of its own is all an item gets. An inner one, waited for with a time-out, cost 28 µs an item.
        """
        listener, work = item.batch.listener, item.batch.work
        if Prints.installed:  # 0.5 us, which nobody else is to pay
            RUNNING.set((work, item.index))
        span = item.batch.span
        if span is not None:
            span.attach()  # until the task ends, whose context it is
        outcome: tuple[Outcome, bytes] | None = None
        try:
            awaitable = listener.call(*item.batch.arguments(item, self._messages))
            if listener.settings.timeout_s is not None:
                item.timer = self._loop.call_later(listener.settings.timeout_s, self._late, item)
            value = await awaitable
            writer = self._bus.writers[item.batch.forms[item.position]]
            if isinstance(work, WorkMessage):
                outcome = message_outcome(writer, value)
            elif isinstance(value, HandlerResponse):
                outcome = passed_on(writer, value)
                value = value.payload
            if outcome is None:
                answer = writer.outcome(value)
        except BaseException as error:
            if item.is_late:
                self._give_up(item)
            elif not item.settled:
                described = self._resting.failed(listener, error)
                if span is not None:
                    span.failed(item.index, described.kind, error)
                self._settled(item)
                self._replies.add_failed(work, item.index, described, item.micros)
        else:
            if item.is_late:  # what it answers all the same is too late
                self._give_up(item)
                return
            if span is not None:
                if outcome is not None:
                    outcome = span.carried_by(outcome[0]), outcome[1]
                elif not answer[2]:
                    span.failed(item.index, "answered")
            self._settled(item)
            if outcome is not None:
                self._replies.add_outcome(work, item.index, *outcome)
            elif not isinstance(work, WorkMessage):
                self._replies.add_answer(work, item.index, answer, item.micros)
        finally:
            if os.getpid() != self._pid:
                os._exit(0)  # a child that the handler forked, see process.py

    def _late(self, item: Item) -> None:
        """Its time is over. A handler that will not be cancelled is left to itself after a while."""
        item.is_late = True
        assert item.task is not None
        item.task.cancel()
        item.timer = self._loop.call_later(_CANCEL_GRACE_S, self._give_up, item)

    def _give_up(self, item: Item) -> None:
        if not item.settled:
            if item.batch.span is not None:
                item.batch.span.failed(item.index, "timeout")
            self._settled(item)
            timeout_s = item.batch.listener.settings.timeout_s
            assert timeout_s is not None
            silent = describe(WorkerSilent(timeout_s))
            self._replies.add_failed(item.batch.work, item.index, silent, item.micros)

    def _settled(self, item: Item) -> None:
        """Its outcome is known: make room for another, and say so soon, with what else comes."""
        item.settled = item.spending.ended = True
        item.task = None  # or they would hold each other, for the garbage collector to find
        if item.timer is not None:
            item.timer.cancel()
        self._items.discard(item)
        item.batch.settled()
        if item.batch.has_traced_all:
            self._loop.call_soon(self._end_span, item.batch)  # its answer is said a line later
        self._room[item.batch.listener.settings.name] += 1
        if self._batch is not None:
            self._plan_feed()
        self._plan_flush(soon=item.spending.number > 0 or item.batch.listener.settings.name in self._slots)

    def _plan_flush(self, *, soon: bool) -> None:
        delay_s = 0.0 if not self._items else _FLUSH_SOON_S if soon else _FLUSH_EVERY_S
        at_s = self._loop.time() + delay_s
        if self._flush_timer is not None:
            if self._flush_timer.when() <= at_s:
                return
            self._flush_timer.cancel()
        self._flush_timer = self._loop.call_at(at_s, self._flush)

    def _flush(self) -> None:
        """Send what has come."""
        self._flush_timer = None
        self._replies.flush()
        if not self._items:
            self._words[SINCE] = 0
            self._replies.idle()
            if self._last_frame and not self._holds_something():
                self._loop.stop()
