"""Worker processes: watch, feed, kill.

Each has its own pair of pipes and its own page of shared memory (`worker_start`). Nothing is shared between
workers, so a SIGKILL spoils only its own channel: a process that is killed inside a multiprocessing lock
would hold it for ever. Deaths are seen at once (`wire.process_end`); a pipe's end of file would wait for
whatever else the handler left running.
"""

import contextlib
import errno
import os
import subprocess
import sys
import time

from durable_bus.errors import WorkerDeath, WorkerExited, WorkerKilled, WorkerUnintelligible, said
from durable_bus.supervisor.io.reactor import SelectorReactor
from durable_bus.supervisor.io.worker_start import StartedWorker, WorkerStarter
from durable_bus.supervisor.ports import WorkerEnded, WorkerSpoke
from durable_bus.wire.decoding import decode_report
from durable_bus.wire.framing import READ_BYTES, Frame, FrameReader, Outgoing
from durable_bus.wire.process_end import watch_end
from durable_bus.wire.slot import Slot
from durable_bus.wire.work import Answers, Ready, Report

__all__ = ["READ_BYTES_MAX", "WorkerPool"]

READ_BYTES_MAX = 2 * 1024 * 1024
"""How much one turn takes from all workers together."""
ENGINE_CLOSE_S = 3.0
_EXPORT_S = 1.0
"""How long workers that trace may take at the end to export the spans that they have."""
_GONE_SLOTS_MAX = 1000


class _Worker:
    """The supervisor's side of one worker process."""

    def __init__(self, started: StartedWorker, *, is_engine: bool) -> None:
        """Raises OSError when there is no room to see its end; then the process is ended."""
        self.process, self.slot, self.read_fd, write_fd = started
        self.is_engine = is_engine
        self.traces = False
        """It said so (`Ready.traces`)."""
        try:
            self.end_fd = watch_end(self.process.pid)
        except OSError:
            started.end()
            raise
        self.reader = FrameReader(decode_report)
        self.outgoing = Outgoing(write_fd)
        self.unintelligible: WorkerUnintelligible | None = None
        """Why nothing more is read of it."""


def _check_bodies(frame: Frame[Report]) -> None:
    """Raises ValueError when a frame has not as many bodies as its header speaks of."""
    answers = frame.header
    expected = len(answers.segments) + len(answers.outcomes) if isinstance(answers, Answers) else 0
    if len(frame.bodies) != expected:
        raise ValueError(f"{len(frame.bodies)} bodies for {expected} segments and outcomes")


class WorkerPool:
    """The real `ports.Pool`."""

    def __init__(self, reactor: SelectorReactor, starter: WorkerStarter) -> None:
        self._reactor = reactor
        self._starter = starter
        self._workers: dict[int, _Worker] = {}
        self._gone_slots: dict[int, Slot] = {}
        """Of workers whose end the supervisor may not have taken in yet (a full disk makes it wait), newest
        last.
        """
        self._events: list[WorkerSpoke | WorkerEnded] = []
        self._next_id = 1
        self._budget_bytes = READ_BYTES_MAX
        self._paused = False
        self._unread = False

    def spawn(self, *, engine: bool = False) -> int:
        worker_id = self._next_id
        self._next_id += 1
        worker = _Worker(self._starter.start(engine=engine), is_engine=engine)
        self._workers[worker_id] = worker
        if not self._paused:
            self._watch(worker_id, worker)
        return worker_id

    def _watch(self, worker_id: int, worker: _Worker) -> None:
        self._reactor.watch(worker.read_fd, lambda mask: self._readable(worker_id))
        self._reactor.watch(worker.end_fd, lambda mask: self._ended(worker_id))

    def end_started_ahead(self) -> None:
        self._starter.close()

    def pid(self, worker_id: int) -> int:
        return self._workers[worker_id].process.pid

    def slot(self, worker_id: int) -> Slot:
        worker = self._workers.get(worker_id)
        return worker.slot if worker else self._gone_slots[worker_id]

    def send(self, worker_id: int, data: bytes) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.outgoing.append(data)
            self._writable(worker_id)

    def kill(self, worker_id: int) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.process.kill()

    def take_events(self) -> list[WorkerSpoke | WorkerEnded]:
        events, self._events = self._events, []
        self._unread = self._budget_bytes <= 0 and not self._paused
        self._budget_bytes = READ_BYTES_MAX
        return events

    @property
    def has_unread(self) -> bool:
        return self._unread

    def pause_reading(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            for worker_id, worker in self._workers.items():
                if paused:
                    self._reactor.forget(worker.read_fd)
                    self._reactor.forget(worker.end_fd)
                else:
                    self._watch(worker_id, worker)

    def _readable(self, worker_id: int) -> None:
        if self._budget_bytes > 0:
            self._read(self._workers[worker_id], worker_id, self._budget_bytes)

    def _read(self, worker: _Worker, worker_id: int, bytes_max: int) -> None:
        """Read what is there, at most about `bytes_max`."""
        while bytes_max > 0 and worker.unintelligible is None:
            asked_bytes = min(bytes_max, READ_BYTES)
            try:
                data = os.read(worker.read_fd, asked_bytes)
            except BlockingIOError:
                return
            if not data:
                self._reactor.forget(worker.read_fd)
                # It has ended, or is about to; or a handler has closed its pipe, and whatever it goes on to
                # answer would reach nobody.
                worker.process.kill()
                return
            bytes_max -= len(data)
            self._budget_bytes -= len(data)
            try:
                for frame in worker.reader.feed(data):
                    _check_bodies(frame)
                    if isinstance(frame.header, Ready):
                        worker.traces = frame.header.traces
                    self._events.append(WorkerSpoke(worker_id, frame))
            except (ValueError, RecursionError) as error:
                worker.unintelligible = WorkerUnintelligible(said(error))
                self._reactor.forget(worker.read_fd)
                worker.process.kill()
            if len(data) < asked_bytes:
                return  # that was all: to ask again takes 5 us

    def _writable(self, worker_id: int) -> None:
        worker = self._workers[worker_id]
        try:
            empty = worker.outgoing.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            empty = True  # it is gone; its end tells
        if empty:
            self._reactor.forget(worker.outgoing.fd)
        else:
            self._reactor.watch(
                worker.outgoing.fd, lambda mask: self._writable(worker_id), write=True, read=False
            )

    def _ended(self, worker_id: int) -> None:
        """A worker is gone. Its pipe is drained before anybody is told: the answer of an item may still lie
        in it.
        """
        worker = self._workers[worker_id]
        self._read(worker, worker_id, sys.maxsize)
        code = worker.process.wait()
        death: WorkerDeath = WorkerKilled(-code) if code < 0 else WorkerExited(code)
        death = worker.unintelligible or death
        for fd in (worker.read_fd, worker.end_fd, worker.outgoing.fd):
            self._reactor.forget(fd)
            os.close(fd)
        del self._workers[worker_id]
        worker.slot.keep_last()
        self._gone_slots[worker_id] = worker.slot
        if len(self._gone_slots) > _GONE_SLOTS_MAX:
            del self._gone_slots[next(iter(self._gone_slots))]
        self._events.append(WorkerEnded(worker_id, death, worker.slot.started, worker.slot.current))

    def close(self) -> None:
        """Kill every worker and wait for it. An engine process may end what it has begun elsewhere, and who
        traces may export its spans, for a moment: its pipe ends.
        """
        for worker in self._workers.values():
            if worker.traces:
                worker.slot.limit = 0  # nothing that lies in its pipe begins any more
            if worker.is_engine or worker.traces:
                os.close(worker.outgoing.fd)
            else:
                worker.process.kill()
        export_until_s = time.monotonic() + _EXPORT_S
        for worker in self._workers.values():
            if worker.is_engine or worker.traces:
                left_s = ENGINE_CLOSE_S if worker.is_engine else max(0.0, export_until_s - time.monotonic())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(left_s)
                worker.process.kill()
            worker.process.wait()
