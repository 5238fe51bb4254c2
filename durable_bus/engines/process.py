"""The engine process: to the supervisor a worker that holds many batches at once, to the engine a client that
submits them.

It dies with its supervisor, never writes the journal, and can be killed at any moment, as any worker. What it
holds is submitted as it comes, and nothing of it is taken back: for the supervisor all of it has begun. What
comes back of a batch is the frames that its worker has written; they go on as they are. When nothing comes
back, the supervisor hears `Lost`, and decides.
"""

import contextlib
import os
import selectors
import sys
import time
import traceback
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Literal

import msgspec

from durable_bus.app.bus import Bus
from durable_bus.app.finding import load_app
from durable_bus.engines.batch import Reply, code_of, described_app, greet, run_batch
from durable_bus.engines.executors import Engine, Fate, open_engine
from durable_bus.errors import DurableBusError, EngineError, encodable, said
from durable_bus.payloads.packing import split
from durable_bus.wire.decoding import decode_work
from durable_bus.wire.engine_errors import engine_says
from durable_bus.wire.framing import READ_BYTES, Frame, FrameReader, encode, write_all
from durable_bus.wire.slot import LIMIT, SINCE, STARTED, Slot
from durable_bus.wire.spawning import WorkerArguments
from durable_bus.wire.work import Answers, AppNotImportable, Lost, Places, Ready, Work, WorkItems
from durable_bus.worker.beginning import begin

__all__ = ["main"]

_TURN_S = 0.25
"""How often it looks at what nothing tells: time-outs, and whether the engine is there."""
_ALIVE_S = 1.0
_GREET_S = 60.0
"""How long it waits for a first worker of the engine to say that it has the app. In a cluster's queue one may
wait for longer: then its batches do.
"""
_RETURNED_S = 1.0
"""A batch that goes back without having run keeps its place for so long: the engine may take none now, or
have but workers that refuse it.
"""


class _Held:
    """A batch that was submitted."""

    __slots__ = ("begun_s", "count", "future", "timeout_s")

    def __init__(self, future: "Future[Reply]", count: int, timeout_s: float | None) -> None:
        self.future = future
        self.count = count
        self.timeout_s = timeout_s
        """Of its listener, for each item."""
        self.begun_s: float | None = None
        """Since when a worker may run it, monotonic."""

    def is_late(self, now_s: float, grace_s: float) -> bool:
        if self.timeout_s is None or self.begun_s is None:
            return False
        return now_s - self.begun_s > self.count * self.timeout_s + grace_s


class _EngineGone(Exception):
    """Nothing more comes of this engine. What it says is why."""


class _EngineProcess:
    def __init__(self, engine: Engine, bus: Bus, code: str, arguments: WorkerArguments, slot: Slot) -> None:
        self._engine = engine
        self.settings = bus.settings()
        self._app = described_app(arguments.app)
        self._code = code
        self._journal = arguments.journal
        self._read_fd, self._write_fd, _ = arguments.fds
        self._words = slot.words
        self._reader = FrameReader(decode_work)
        self._places_wanted = arguments.engine.places if arguments.engine is not None else None
        self.places = self._places_wanted or 2 * max(1, engine.capacity)
        """How many batches it may hold."""
        self._held: dict[int, _Held] = {}
        """By dispatch, in the order they came."""
        self._returned: dict[int, tuple[float, str]] = {}
        """Batches that go back: until when they keep their place, monotonic, and why."""
        self._done: deque[tuple[int, Future[Reply]]] = deque()
        self._wake_fd, self._woken_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._looked_s = time.monotonic()

    def greet(self) -> None:
        """Raises EngineError when the first worker that answers cannot run the app."""
        try:
            refusal = self._engine.submit(greet, self._app, self._code).result(_GREET_S)
        except FutureTimeout:
            return
        except Exception as error:
            refusal = f"its workers run no batch: {type(error).__name__}: {said(error)}"
        if refusal:
            raise EngineError(engine_says(self._engine.name, refusal))

    def serve(self) -> None:
        """Until the supervisor closes the pipe, or the engine is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_fd, selectors.EVENT_READ)
            selector.register(self._wake_fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(_TURN_S)}
                if self._held or self._returned:
                    self._words[SINCE] = time.monotonic_ns()
                if self._wake_fd in ready:
                    os.read(self._wake_fd, READ_BYTES)
                try:
                    self._take_done()
                    if self._read_fd in ready and not self._read():
                        return
                    self._look()
                except _EngineGone as gone:
                    self._lost([*self._held, *self._returned], "returned", str(gone))
                    raise
                if not (self._held or self._returned):
                    self._words[SINCE] = 0

    # What the supervisor says

    def _read(self) -> bool:
        """False at the pipe's end."""
        data = os.read(self._read_fd, READ_BYTES)
        for frame in self._reader.feed(data):
            self._take(frame)
        return bool(data)

    def _take(self, frame: Frame[Work]) -> None:
        work = frame.header
        assert isinstance(work, WorkItems), "an engine is given items only"
        count = len(split(frame.bodies[0]))
        end_ordinal = work.ordinal + count
        # As a worker does: say "started" before looking at the limit.
        self._words[SINCE] = time.monotonic_ns()
        self._words[STARTED] = end_ordinal
        limit = max(work.ordinal, self._words[LIMIT])
        if limit < end_ordinal:
            self._words[STARTED] = limit
            self._send(Answers(discarded=(limit, end_ordinal)))
            if limit == work.ordinal:
                return
            count = limit - work.ordinal
            frame = _first_of(frame, count)
        self._submit(work, frame, count)

    def _submit(self, work: WorkItems, frame: Frame[Work], count: int) -> None:
        settings = self.settings.get(work.listener)
        data = encode(work, *frame.bodies)
        try:
            future = self._engine.submit(run_batch, self._app, self._code, self._journal, data)
        except Exception as error:
            self._failed(work.dispatch, error, has_run=False)
            return
        self._held[work.dispatch] = _Held(future, count, settings.timeout_s if settings else None)
        future.add_done_callback(lambda done, dispatch=work.dispatch: self._note_done(dispatch, done))  # type: ignore[misc]

    def _note_done(self, dispatch: int, future: "Future[Reply]") -> None:
        """In whatever thread the engine has."""
        self._done.append((dispatch, future))
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups
            os.write(self._woken_fd, b"\0")

    # What the engine says

    def _take_done(self) -> None:
        while self._done:
            dispatch, future = self._done.popleft()
            held = self._held.get(dispatch)
            if held is None or held.future is not future:
                continue  # it came too late, and somebody else may have it by now
            try:
                frames, refusal = future.result()
            except BaseException as error:
                self._failed(dispatch, error, has_run=True)
                continue
            del self._held[dispatch]
            if refusal:
                self._return(dispatch, refusal)
            else:
                write_all(self._write_fd, frames)

    def _failed(self, dispatch: int, error: BaseException, *, has_run: bool) -> None:
        """No reply has come, but an error of the engine's."""
        fate = self._engine.fate(error)
        why = f"{type(error).__name__}: {said(error)}".rstrip(": ")
        self._held.pop(dispatch, None)
        if fate is Fate.LOST and has_run:
            self._lost([dispatch], "lost", why)
            return
        self._return(dispatch, why)
        if fate is Fate.GONE:
            raise _EngineGone(why)

    def _return(self, dispatch: int, why: str) -> None:
        """It has surely done nothing wrong, and goes back in a moment."""
        self._returned[dispatch] = (time.monotonic() + _RETURNED_S, why)

    def _lost(self, dispatches: list[int], how: Literal["lost", "late", "returned"], why: str) -> None:
        if dispatches:
            for dispatch in dispatches:
                self._held.pop(dispatch, None)
                self._returned.pop(dispatch, None)
            self._send(Lost(dispatches, how, encodable(why)))

    # What nobody says

    def _look(self) -> None:
        now_s = time.monotonic()
        over = [dispatch for dispatch, (until_s, _) in self._returned.items() if until_s <= now_s]
        for dispatch in over:
            self._lost([dispatch], "returned", self._returned[dispatch][1])
        for ahead, (dispatch, held) in enumerate([*self._held.items()]):
            if held.begun_s is None and self._engine.has_begun(held.future, ahead):
                held.begun_s = now_s
            if held.is_late(now_s, self._engine.grace_s):
                self._lost([dispatch], "late", "its time is over")
                self._engine.abandon(held.future)
        if now_s - self._looked_s >= _ALIVE_S:
            self._looked_s = now_s
            if not self._engine.is_alive():
                raise _EngineGone("it does not answer any more")
            self._look_at_places()

    def _look_at_places(self) -> None:
        """A cluster may grow and shrink."""
        before = self.places
        self.places = self._places_wanted or 2 * max(1, self._engine.capacity)
        if self.places != before:
            self._send(Places(self.places))

    def _send(self, header: msgspec.Struct) -> None:
        write_all(self._write_fd, encode(header))


def _first_of(frame: Frame[Work], count: int) -> Frame[Work]:
    """The first items of a range."""
    work = frame.header
    assert isinstance(work, WorkItems)
    forms = work.forms if len(work.forms) == 1 else work.forms[:count]
    body = b"".join(payload + b"\0" for payload in split(frame.bodies[0])[:count])
    return frame._replace(header=msgspec.structs.replace(work, forms=forms), bodies=[body])


def _refuse(write_fd: int, error: DurableBusError) -> int:
    cause = error if error.__cause__ is None else error.__cause__
    trace = "".join(traceback.format_exception(cause)) if error.__cause__ is not None else ""
    write_all(write_fd, encode(AppNotImportable(encodable(said(error)), encodable(trace))))
    return 1


def main(arguments: WorkerArguments) -> int:
    """The engine process."""
    slot = begin(arguments)
    write_fd, spec = arguments.fds[1], arguments.engine
    assert spec is not None
    try:
        bus = load_app(arguments.app)
        code = code_of(bus)
        engine = open_engine(spec.name, (greet, described_app(arguments.app), code))
    except DurableBusError as error:
        return _refuse(write_fd, error)
    try:
        process = _EngineProcess(engine, bus, code, arguments, slot)
        try:
            process.greet()
        except DurableBusError as error:
            return _refuse(write_fd, error)
        ready = Ready(process.settings, bus.forms, bus.limits, process.places)
        write_all(write_fd, encode(ready))
        process.serve()
    except _EngineGone as gone:
        sys.stderr.write(f"durable_bus: the engine {spec.name} is gone: {gone}\n")
        return 1
    except OSError:
        return 1  # the supervisor is gone: nobody is left to tell
    finally:
        engine.close()
    return 0
