"""`process:N`, `loky:N`, `executorlib:N`: N pools of one process each, behind one queue.

One pool of N processes would be less code, but when one of its processes dies the whole pool breaks: N
batches come back as suspects, though one of them did it. Here a death breaks the pool of that one process,
and what comes back is the one batch that ran in it.

::

    submit -> queue -> thread of a seat -> its pool of one process
                       thread of a seat -> its pool of one process

Each seat has a thread that starts its process, takes a batch from the queue when the process is free, and
waits for the answer. A batch that waits is in the queue, never in a pool, so it can be cancelled, and no
death touches it. The thread lives as long as the engine: a child that asked to die with its parent dies
with the thread that started it.
"""

import concurrent.futures
import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from durable_bus.engines.child import live_with
from durable_bus.engines.engine import Call, EngineGone, Fate
from durable_bus.wire.process_end import kill, watch_end

__all__ = ["SEAT", "OneEach", "Pools", "WorkerVanished"]

SEAT = "engine seat"
"""How the names of the threads begin."""

_BOOTS_MAX = 3
"""So many processes that die one after the other before they run anything mean that none will ever run."""
_LOOK_EVERY_S = 0.5
_DEAD_LOOKS_MAX = 4
_END_S = 10.0
"""How long one that was killed may take to be gone, before its pool is shut down all the same."""
_CLOSE_S = 1.5


class WorkerVanished(RuntimeError):
    """The process that ran the batch ended, and its pool has not noticed."""


class Pools(NamedTuple):
    """How pools of one process are made, and ended."""

    make: Callable[[], concurrent.futures.Executor]
    end: Callable[[Any], None]
    """Shut the pool down without waiting. A process of this machine is killed besides."""
    is_local: bool = True
    """Its process is a child of ours, so that it can be watched and shall die with us."""


class _Batch(NamedTuple):
    future: "concurrent.futures.Future[Any]"
    function: Callable[..., Any]
    args: tuple[Any, ...]


class _Seat:
    """One process, and the thread that starts it and waits for it."""

    def __init__(self, engine: "OneEach", number: int) -> None:
        self._engine = engine
        self._pool: concurrent.futures.Executor | None = None
        self._pid = 0
        self._end_fd = -1
        self._is_killed = False
        self.running: concurrent.futures.Future[Any] | None = None
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._serve, name=f"{SEAT} {number}", daemon=True)

    def kill(self, future: "concurrent.futures.Future[Any] | None" = None) -> bool:
        """Kill the process; with a future, only while the process runs that one. Return whether it did.

        The thread of this seat finds out, and clears up.
        """
        with self.lock:
            if future is not None and self.running is not future:
                return False
            self._is_killed = True
            if self._end_fd >= 0:
                kill(self._pid, self._end_fd)
            elif self._pool is not None and not self._engine.pools.is_local:
                self._engine.pools.end(self._pool)
            return True

    def _serve(self) -> None:
        try:
            while not self._engine.is_closing and self._boot():
                batch = self._engine.take()
                if batch is None:
                    return
                if batch.future.set_running_or_notify_cancel():
                    self._run(batch)
                del batch  # else its payloads stay in memory until the next one comes
        finally:
            self._discard()

    def _boot(self) -> bool:
        """Have a process that has proved to run. Return False when there cannot be one."""
        for _ in range(_BOOTS_MAX):
            if self._pool is not None:
                return True
            try:
                self._start()
            except Exception as error:  # whatever it is: there is no process
                self._discard()
                reason: Exception = error
            if self._engine.is_closing:
                return False
        if self._pool is None:
            self._engine.give_up(reason)
        return self._pool is not None

    def _start(self) -> None:
        """Have a process, and its answer. Raises whatever its pool does."""
        pools = self._engine.pools
        with self.lock:
            self._pool = pool = pools.make()
        if pools.is_local:
            self._pid = pool.submit(live_with, os.getpid()).result()
            self._end_fd = watch_end(self._pid)
        function, *arguments = self._engine.prepare
        pool.submit(function, *arguments).result()

    def _run(self, batch: _Batch) -> None:
        with self.lock:
            self.running, self._is_killed = batch.future, False
        error: BaseException | None = None
        answer = None
        try:
            answer = self._answer(self._submit(batch))
        except BaseException as raised:
            error = raised
        with self.lock:
            self.running = None
            is_broken = self._is_killed or isinstance(
                error, (concurrent.futures.BrokenExecutor, WorkerVanished)
            )
        if is_broken:
            self._discard()
        # Last: whoever is told may submit the next batch at once, which shall find everything in order.
        if error is None:
            batch.future.set_result(answer)
        else:
            batch.future.set_exception(error)

    def _submit(self, batch: _Batch) -> "concurrent.futures.Future[Any]":
        """Give the batch to the process; to a new one, if that has died while it had nothing to do."""
        assert self._pool is not None
        if not self._has_ended():
            try:
                return self._pool.submit(batch.function, *batch.args)
            except RuntimeError:
                pass  # it is broken, and what it refused has not run
        self._discard()
        if not self._boot():
            raise EngineGone(f"{self._engine.name}: no process starts")
        if self._is_killed:
            raise WorkerVanished("the batch was given up before it ran")
        return self._pool.submit(batch.function, *batch.args)

    def _answer(self, future: "concurrent.futures.Future[Any]") -> Any:
        """What a batch answers. Raises what its pool says, and WorkerVanished where the pool says nothing.

        A pool can wait for ever for the rest of an answer whose sender was killed while it wrote. So we
        look at the process ourselves, and give the pool a moment to find out by itself.
        """
        dead_looks = 0
        while not concurrent.futures.wait([future], _LOOK_EVERY_S).done:
            if self._is_killed or self._has_ended():
                dead_looks += 1
            if dead_looks >= _DEAD_LOOKS_MAX:
                raise WorkerVanished("the process that ran the batch has ended")
        return future.result()

    def _has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        return self._end_fd >= 0 and bool(select.select([self._end_fd], [], [], 0)[0])

    def _discard(self) -> None:
        """Have no process any more.

        It is dead before its pool is shut down: executorlib would otherwise send it a good-bye, and wait
        for ever when it dies meanwhile.
        """
        with self.lock:
            pool, self._pool = self._pool, None
            end_fd, self._end_fd = self._end_fd, -1
        if end_fd >= 0:
            kill(self._pid, end_fd)
            select.select([end_fd], [], [], _END_S)
            os.close(end_fd)
        if pool is not None:
            self._engine.pools.end(pool)


class OneEach:
    """An Engine of processes of its own."""

    grace_s = 0.5

    def __init__(self, name: str, count: int, pools: Pools, prepare: Call) -> None:
        self.name, self.capacity, self.pools, self.prepare = name, count, pools, prepare
        self.is_closing = False
        self._gone_reason = ""
        self._lock = threading.Lock()  # between what is put into the queue and its end
        self._waiting: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._seats = [_Seat(self, number) for number in range(count)]
        for seat in self._seats:
            seat.thread.start()

    def submit(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Put a batch into the queue."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            if not self.is_alive():
                raise EngineGone(self._gone_reason or f"{self.name} is closed")
            self._waiting.put(_Batch(future, function, args))
        return future

    def take(self) -> _Batch | None:
        """The next batch, for a seat that is free; None at the end."""
        return self._waiting.get()

    def has_begun(self, future: "concurrent.futures.Future[Any]", ahead: int) -> bool:
        """Whether a process has it."""
        return future.running()

    def fate(self, error: BaseException) -> Fate:
        """A batch that was never started came back; any other one is a suspect: its process died with it.

        A batch whose future ends with anything else, such as what cannot be pickled, is a suspect as well:
        it would come again, and must have an end.
        """
        if isinstance(error, EngineGone):
            return Fate.GONE
        return Fate.RETURNED if isinstance(error, concurrent.futures.CancelledError) else Fate.LOST

    def abandon(self, future: "concurrent.futures.Future[Any]") -> None:
        """Cancel it where it waits; else kill the process that runs it, which runs nothing else."""
        if not future.cancel():
            any(seat.kill(future) for seat in self._seats)

    def is_alive(self) -> bool:
        """Whether processes can be started."""
        return not (self.is_closing or self._gone_reason)

    def give_up(self, reason: BaseException) -> None:
        """No process can be started: nothing that waits will ever run."""
        with self._lock:
            self._gone_reason = self._gone_reason or f"{self.name}: no process starts: {reason}"
        self._return_waiting()

    def close(self) -> None:
        """Kill all processes and wait for their end, but not for long."""
        with self._lock:
            self.is_closing = True
        self._return_waiting()
        for seat in self._seats:
            seat.kill()
        deadline_s = time.monotonic() + _CLOSE_S
        for seat in self._seats:
            seat.thread.join(max(0.0, deadline_s - time.monotonic()))

    def _return_waiting(self) -> None:
        """End what waits, and after it the seats that wait for a batch."""
        with contextlib.suppress(queue.Empty):
            while True:
                batch = self._waiting.get_nowait()
                if batch is not None and batch.future.set_running_or_notify_cancel():
                    batch.future.set_exception(EngineGone(self._gone_reason or f"{self.name} is closed"))
        for _ in self._seats:
            self._waiting.put(None)
