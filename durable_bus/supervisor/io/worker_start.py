"""Starts worker processes: each a fresh process with its own pair of pipes and its own page of shared memory.

A supervisor starts its first workers before it imports most of itself, so that they boot meanwhile. Hence
this must stay light.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from durable_bus.payloads.settings import AppSpec
from durable_bus.wire.slot import ORDINAL_MAX, Slot, slot_memory
from durable_bus.wire.spawning import EngineSpec, WorkerArguments, spawn

if TYPE_CHECKING:
    import subprocess

__all__ = ["StartedWorker", "WorkerStarter"]

PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
"""fcntl(2), since Linux 2.6.35; a Python that was built with older headers does not name it."""


class StartedWorker(NamedTuple):
    """The supervisor's side of one."""

    process: "subprocess.Popen[bytes]"
    slot: Slot
    read_fd: int
    write_fd: int

    def end(self) -> None:
        """Kill it, wait for it, and close its pipes."""
        self.process.kill()
        self.process.wait()
        os.close(self.read_fd)
        os.close(self.write_fd)


class WorkerStarter:
    """Of one app and journal. Some workers may be started ahead, before anybody asks for them, and before it
    is known whether there will be work: they boot, and then wait until they are let go.
    """

    def __init__(
        self, app: AppSpec, journal: Path, engine: EngineSpec | None = None, *, json_log: bool = False
    ) -> None:
        self._app = app
        self._journal = os.path.abspath(journal)  # absolute, as a handler may change its folder
        self._engine = engine
        self._json_log = json_log
        self._ahead: list[StartedWorker] = []

    def start_ahead(self, count: int) -> None:
        """Start workers that the next calls of `start` give, unless those are for an engine. None of them
        imports the app before `let_go`.
        """
        for _ in range(count):  # one by one: those that there was room for are closed
            self._ahead.append(self._start(None, waits=True))

    def let_go(self) -> None:
        """Let those that were started ahead import the app."""
        for worker in self._ahead:
            with contextlib.suppress(BrokenPipeError):  # its end is seen like any worker's
                os.write(worker.write_fd, b"\0")

    def start(self, *, engine: bool = False) -> StartedWorker:
        """A worker, or an engine process. Raises OSError when there is no room for one more."""
        if engine:
            return self._start(self._engine)
        return self._ahead.pop(0) if self._ahead else self._start(None)

    def close(self) -> None:
        """Kill those that nobody has asked for, and wait for them."""
        for worker in self._ahead:
            worker.process.kill()  # all of them, before we wait for one
        for worker in self._ahead:
            worker.end()
        self._ahead = []

    def _start(self, engine: EngineSpec | None, *, waits: bool = False) -> StartedWorker:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            to_worker_read, to_worker_write = _pipe(reads=theirs, writes=ours)
            from_worker_read, from_worker_write = _pipe(reads=ours, writes=theirs)
            slot_fd = slot_memory()
            theirs.callback(os.close, slot_fd)
            for fd in (to_worker_write, from_worker_read):
                os.set_blocking(fd, False)
                # Two batches must fit, or the worker waits for us between them. Where that is more than the
                # user's share, or this kernel cannot do it: the default.
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
            slot = Slot(slot_fd)
            slot.limit = ORDINAL_MAX
            child_fds = (to_worker_read, from_worker_write, slot_fd)
            arguments = WorkerArguments(
                child_fds, os.getpid(), self._app, self._journal, engine, self._json_log, waits
            )
            module = "durable_bus.worker" if engine is None else "durable_bus.engines"
            process = spawn(module, arguments, child_fds)
            ours.pop_all()  # they stay open
        return StartedWorker(process, slot, from_worker_read, to_worker_write)


def _pipe(*, reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, whose ends these close."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    reads.callback(os.close, read_fd)
    writes.callback(os.close, write_fd)
    return read_fd, write_fd
