"""What a worker has to say, on its way to the supervisor: answers in contiguous segments, failures, outcomes,
and what handlers spend.

Answers leave at the end of a batch, every 95 ms inside one, and at the latest after 100 ms also while a slow
item runs: a thread of its own sees to that.
"""

import contextlib
import os
import time
import traceback
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from time import sleep
from typing import NoReturn

import msgspec

from durable_bus.errors import UsageError
from durable_bus.journal.formats import packed
from durable_bus.payloads.outcomes import Outcome
from durable_bus.payloads.packing import pack
from durable_bus.wire.framing import encode, write_all
from durable_bus.wire.parts import Failed, Handled, Segment, Spent
from durable_bus.wire.work import Answers, Work, WorkItems
from durable_bus.worker.failing import Described

__all__ = ["OpenSegment", "Replies", "Spending", "end_worker"]

FLUSH_S = 0.1
FLUSH_BYTES_MAX = 1024 * 1024
_SPENT_MAX = 1000
"""So many reports of what is spent leave at once: a handler may make them in a loop."""


class OpenSegment:
    """A `protocol.Segment` that grows until it is sent."""

    __slots__ = ("first", "form", "micros", "payloads", "success", "work")

    def __init__(self, work: WorkItems, first: int, success: bool, form: int) -> None:
        self.work = work
        self.first = first
        self.success = success
        self.form = form
        self.payloads: list[bytes] = []
        """In UTF-8."""
        self.micros: list[int] = []

    def header(self, count: int) -> Segment:
        """What the supervisor is told of its first `count` answers, beside their payloads."""
        micros = self.micros[:count]
        return Segment(
            dispatch=self.work.dispatch,
            buffer=self.work.buffer,
            first=self.first,
            count=count,
            success=self.success,
            form=self.form,
            attempt=self.work.attempt,
            total_us=sum(micros),
            durations=packed(micros),
        )

    def goes_on_with(self, other: "OpenSegment") -> bool:
        alike = (self.work, self.success, self.form) == (other.work, other.success, other.form)
        return alike and other.first == self.first + len(self.micros)

    def drop(self, count: int) -> None:
        """The first `count` answers have been sent."""
        del self.payloads[:count], self.micros[:count]
        self.first += count


class Spending(msgspec.Struct, gc=False):
    """What one attempt spends: its metadata calls it, from any thread of the handler.

    A Struct, as it is made for every item whose handler takes the metadata: 0.1 us instead of 0.3.
    """

    replies: "Replies"
    dispatch: int
    index: int
    number: int = 0
    """How many reports there were."""
    ended: bool = False
    """The attempt has ended. Set before its answer is added, and without the lock: a report that is added all
    the same is added before anybody can send the answer.
    """

    def __call__(self, amounts: dict[str, float]) -> None:
        """Report it. Raises UsageError when the attempt has ended."""
        self.replies.add_spent(self, amounts)

    def __deepcopy__(self, memo: object) -> "Spending":
        return self

    def __reduce__(self) -> tuple[Callable[[], Callable[[dict[str, float]], None]], tuple[()]]:
        """A handler may send its metadata to a process of its own."""
        return _elsewhere, ()


def _elsewhere() -> Callable[[dict[str, float]], None]:
    """A Spending as it arrives in another process."""
    return _refuse


def _refuse(amounts: dict[str, float]) -> None:
    raise UsageError("spend() is for the process that runs the handler; this is another")


def _joined(segments: list[OpenSegment]) -> list[OpenSegment]:
    """Segments that came in whatever order, joined where one goes on where another ends."""
    joined: list[OpenSegment] = []
    for one in sorted(segments, key=lambda one: (one.work.dispatch, one.first)):
        last = joined[-1] if joined else None
        if last is not None and last.goes_on_with(one):
            last.payloads += one.payloads
            last.micros += one.micros
        else:
            joined.append(one)
    return joined


def end_worker() -> NoReturn:
    """Print the exception that is being handled, and end the process.

    For what must not fail: a worker that went on without it would hold its items for ever; those of a dead
    one go out again. Raising would end a thread or a task alone.
    """
    try:
        traceback.print_exc()
    finally:
        os._exit(1)


class Replies:
    """Collects and sends. The thread that runs handlers adds; it and the flushing thread send."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = allocate_lock()
        self._segments: list[OpenSegment] = []
        self._out_of_turn: list[OpenSegment] = []
        """Of one answer each."""
        self._failed: list[Failed] = []
        self._outcomes: list[tuple[Handled, bytes]] = []
        self._spent: list[Spent] = []
        self._discarded: tuple[int, int] | None = None
        self._busy = False
        self._begins = allocate_lock()
        """Released when there is something to send, and taken by the thread that flushes."""
        self._since_ns = 0
        """When the oldest answer that was not sent may have been added."""
        self._is_child = False

    def flush_in_time(self) -> None:
        """From now on what was added leaves after 100 ms also where nobody calls `flush`.

        Call this when the app is imported: gevent's `patch_all` fails where another thread is. The thread,
        its locks and its `sleep` are Python's own, not what an app puts in their place.
        """
        start_new_thread(self._flush_forever, ())

    def renew_lock(self) -> None:
        """In a forked child, where the thread that may hold the lock does not exist."""
        self._lock = allocate_lock()
        self._is_child = True

    def segment(self, work: WorkItems, first: int, success: bool, form: int) -> OpenSegment:
        """A new segment to add to. The caller appends to its `payloads` first and to its `micros` then,
        without a lock: what has no duration yet does not count as added.
        """
        segment = OpenSegment(work, first, success, form)
        with self._lock:
            self._segments = [earlier for earlier in self._segments if earlier.micros]
            self._segments.append(segment)
        self._work()
        return segment

    def _work(self) -> None:
        """Something was added: the flushing thread sees to it that it leaves in time."""
        if not self._busy:
            self._since_ns = time.monotonic_ns()
            self._busy = True
            with contextlib.suppress(RuntimeError):  # it is released: the thread has not looked yet
                self._begins.release()

    def add_answer(self, work: WorkItems, index: int, answer: tuple[str, int, bool], micros: int) -> None:
        """An answer, as `ValueWriter.outcome` gives it, that comes in whatever order."""
        text, form, success = answer
        segment = OpenSegment(work, index, success, form)
        segment.payloads.append(text.encode())
        segment.micros.append(micros)
        with self._lock:
            self._out_of_turn.append(segment)
        self._work()

    def add_failed(self, work: Work, index: int, described: Described, micros: int) -> None:
        """An attempt that came to nothing, and why."""
        failed = Failed(
            work.dispatch,
            index,
            described.kind,
            described.message,
            described.traceback,
            packed([micros]),
            described.answer,
            described.final,
            described.after_s,
            described.limit,
        )
        with self._lock:
            self._failed.append(failed)
        self._work()

    def add_outcome(self, work: Work, index: int, outcome: Outcome, body: bytes) -> None:
        """What the handling of an item or message led to, other than an item's answer."""
        with self._lock:
            self._outcomes.append((Handled(work.dispatch, index, outcome), body))
        self._work()

    def add_spent(self, spending: Spending, amounts: dict[str, float]) -> None:
        """What an attempt has spent, by unit. Raises UsageError when it has ended."""
        with self._lock:
            if spending.ended:
                raise UsageError("spend() comes too late: this attempt has ended")
            if self._is_child:
                _refuse(amounts)
            self._spent.append(Spent(spending.dispatch, spending.index, spending.number, amounts))
            spending.number += 1
            self._work()
            is_full = len(self._spent) >= _SPENT_MAX
        if is_full:
            self.flush()

    @property
    def holds_spent(self) -> bool:
        """Reports of what is spent have not left yet."""
        return bool(self._spent)

    def discard(self, first_ordinal: int, end_ordinal: int) -> None:
        """Ordinals that will not be started: the supervisor has taken them back, or a limit rests. Of several
        calls before a `flush` the first begins what is said, and the last one ends it.
        """
        with self._lock:
            if self._discarded is not None:
                first_ordinal = min(first_ordinal, self._discarded[0])
            self._discarded = (first_ordinal, end_ordinal)
        self._work()

    def flush(self) -> None:
        """Send what there is. Ends the process when that cannot be."""
        with self._lock:
            try:
                self._send_all()
            except BaseException:
                end_worker()
            self._since_ns = time.monotonic_ns()

    def _send_all(self) -> None:
        segments, self._out_of_turn = [*self._segments, *_joined(self._out_of_turn)], []
        ready = [(segment, len(segment.micros)) for segment in segments if segment.micros]
        if not (ready or self._failed or self._outcomes or self._spent or self._discarded):
            return
        header = Answers(
            [segment.header(count) for segment, count in ready],
            self._failed,
            [outcome for outcome, _ in self._outcomes],
            self._spent,
            discarded=self._discarded,
        )
        bodies = [pack(segment.payloads[:count]) for segment, count in ready]
        self.send(header, *bodies, *(body for _, body in self._outcomes))
        for segment, count in ready:
            segment.drop(count)
        self._failed, self._outcomes, self._spent, self._discarded = [], [], [], None

    def send(self, header: msgspec.Struct, *bodies: bytes) -> None:
        """Send a frame. Ends the process when the supervisor is gone: nobody is left to tell."""
        try:
            write_all(self._fd, encode(header, *bodies))
        except OSError:
            os._exit(1)

    def idle(self) -> None:
        """Everything is sent, unless a thread has spent something meanwhile; the flushing thread may rest."""
        with self._lock:
            if not self._spent:
                self._busy = False

    def _flush_forever(self) -> None:
        while True:
            if not self._busy:
                self._begins.acquire()
                continue
            left_s = FLUSH_S - (time.monotonic_ns() - self._since_ns) / 1e9
            if left_s > 0:
                sleep(left_s)
            else:
                self.flush()
