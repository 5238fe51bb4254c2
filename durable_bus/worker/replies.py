"""What a worker has to say, on its way to the supervisor: answers in contiguous segments, failures, outcomes.

Answers leave at the end of a batch, every 95 ms inside one, and at the latest after 100 ms also while a slow
item runs: a thread of its own sees to that.
"""

import os
import threading
import time
import traceback
from typing import NoReturn

import msgspec

from durable_bus.journal.formats import packed
from durable_bus.payloads.outcomes import Outcome
from durable_bus.payloads.packing import pack
from durable_bus.wire.framing import encode, write_all
from durable_bus.wire.parts import Failed, Handled, Segment
from durable_bus.wire.work import Answers, Work, WorkItems

__all__ = ["OpenSegment", "Replies", "end_worker"]

FLUSH_S = 0.1
FLUSH_BYTES_MAX = 1024 * 1024


class OpenSegment:
    """A `protocol.Segment` that grows until it is sent."""

    __slots__ = ("first", "form", "micros", "success", "texts", "work")

    def __init__(self, work: WorkItems, first: int, success: bool, form: int) -> None:
        self.work = work
        self.first = first
        self.success = success
        self.form = form
        self.texts: list[str] = []
        self.micros: list[int] = []

    def header(self, count: int) -> Segment:
        """What the supervisor is told of its first `count` answers, beside their texts."""
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
        del self.texts[:count], self.micros[:count]
        self.first += count


def _joined(segments: list[OpenSegment]) -> list[OpenSegment]:
    """Segments that came in whatever order, joined where one goes on where another ends."""
    joined: list[OpenSegment] = []
    for one in sorted(segments, key=lambda one: (one.work.dispatch, one.first)):
        last = joined[-1] if joined else None
        if last is not None and last.goes_on_with(one):
            last.texts += one.texts
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
        self._lock = threading.Lock()
        self._segments: list[OpenSegment] = []
        self._out_of_turn: list[OpenSegment] = []
        """Of one answer each."""
        self._failed: list[Failed] = []
        self._outcomes: list[tuple[Handled, bytes]] = []
        self._discarded: tuple[int, int] | None = None
        self._busy = threading.Event()
        self._since_ns = 0
        """When the oldest answer that was not sent may have been added."""
        threading.Thread(target=self._flush_forever, name="durable_bus answers", daemon=True).start()

    def renew_lock(self) -> None:
        """In a forked child, where the thread that may hold the lock does not exist."""
        self._lock = threading.Lock()

    def segment(self, work: WorkItems, first: int, success: bool, form: int) -> OpenSegment:
        """A new segment to add to. The caller appends to its `texts` first and to its `micros` then, without
        a lock: what has no duration yet does not count as added.
        """
        segment = OpenSegment(work, first, success, form)
        with self._lock:
            self._segments = [earlier for earlier in self._segments if earlier.micros]
            self._segments.append(segment)
        self._work()
        return segment

    def _work(self) -> None:
        """Something was added: the flushing thread sees to it that it leaves in time."""
        if not self._busy.is_set():
            self._since_ns = time.monotonic_ns()
            self._busy.set()

    def add_answer(self, work: WorkItems, index: int, answer: tuple[str, int, bool], micros: int) -> None:
        """An answer, as `ValueWriter.outcome` gives it, that comes in whatever order."""
        text, form, success = answer
        segment = OpenSegment(work, index, success, form)
        segment.texts.append(text)
        segment.micros.append(micros)
        with self._lock:
            self._out_of_turn.append(segment)
        self._work()

    def add_failed(self, work: Work, index: int, described: tuple[str, str, str, str], micros: int) -> None:
        """An attempt that came to nothing, and why: (kind, message, traceback, answer)."""
        kind, message, trace, answer = described
        failed = Failed(work.dispatch, index, kind, message, trace, packed([micros]), answer)
        with self._lock:
            self._failed.append(failed)
        self._work()

    def add_outcome(self, work: Work, index: int, outcome: Outcome, body: bytes) -> None:
        """What the handling of an item or message led to, other than an item's answer."""
        with self._lock:
            self._outcomes.append((Handled(work.dispatch, index, outcome), body))
        self._work()

    def discard(self, first_ordinal: int, end_ordinal: int) -> None:
        """Ordinals that were taken back by the supervisor and will not be started."""
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
        if not (ready or self._failed or self._outcomes or self._discarded):
            return
        header = Answers(
            [segment.header(count) for segment, count in ready],
            self._failed,
            [outcome for outcome, _ in self._outcomes],
            discarded=self._discarded,
        )
        bodies = [pack(segment.texts[:count]) for segment, count in ready]
        self.send(header, *bodies, *(body for _, body in self._outcomes))
        for segment, count in ready:
            segment.drop(count)
        self._failed, self._outcomes, self._discarded = [], [], None

    def send(self, header: msgspec.Struct, *bodies: bytes) -> None:
        """Send a frame. Ends the process when the supervisor is gone: nobody is left to tell."""
        try:
            write_all(self._fd, encode(header, *bodies))
        except OSError:
            os._exit(1)

    def idle(self) -> None:
        """Everything is sent; the flushing thread may rest."""
        self._busy.clear()

    def _flush_forever(self) -> None:
        while True:
            self._busy.wait()
            left_s = FLUSH_S - (time.monotonic_ns() - self._since_ns) / 1e9
            if left_s > 0:
                time.sleep(left_s)
            else:
                self.flush()
