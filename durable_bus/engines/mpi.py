"""`mpi:N`: batches run in MPI ranks that the engine process spawns.

What mpi4py 4.1 with MPICH 5.0 does, as seen:

- A rank dies: `mpiexec` kills all ranks and the engine process with SIGKILL, **and its whole process
  group**. So an engine process becomes a group of its own first; else the supervisor would die with it.
- Once in some hundred deaths `mpiexec` does not notice, and what the rank had never comes back. So we look
  at the ranks of this machine ourselves, and do what `mpiexec` would have done.
- The engine process dies, or exits while a rank is busy: all ranks are killed.
- `mpiexec` is not found: the spawn prints to stderr and never returns.
- Only what waits can be cancelled; what runs cannot be stopped.

So a batch that kills its rank never becomes a future with an exception. Whoever started the engine process
sees that die, and each batch that was in flight is a suspect.
"""

import concurrent.futures
import contextlib
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durable_bus.engines.engine import CountsAhead, EngineGone
from durable_bus.errors import EngineError, said
from durable_bus.wire.engine_errors import engine_says
from durable_bus.wire.process_end import watch_end

__all__ = ["MpiEngine"]

_BOOT_S = 60


class MpiEngine(CountsAhead):
    """An Engine of MPI ranks. Its process should end by `os._exit`: MPI waits for busy ranks at a usual
    exit.

    A batch that is late keeps its rank: to kill a rank is to kill all.
    """

    def __init__(self, name: str, ranks: int | None) -> None:
        """Spawn so many ranks, or as many as MPI says that there are. Raises EngineError."""
        self.name = name
        self._is_closed = False
        _prepare_process(name)
        try:
            from mpi4py.futures import MPIPoolExecutor

            # main=False: else ranks would import the program of the engine process, too.
            self._executor = MPIPoolExecutor(ranks, main=False, path=sys.path)
            self._ranks = _ranks_beside(self._executor.submit(os.getpid).result(_BOOT_S))
        except ModuleNotFoundError:
            raise
        except Exception as error:  # no MPI library, no rank
            raise EngineError(
                engine_says(name, f"MPI does not start: {said(error) or 'no rank answers'}")
            ) from error
        self.capacity = max(1, self._executor.num_workers)
        self._has_lost_a_rank = False

    def submit(self, function: Callable[..., Any], *args: Any) -> "concurrent.futures.Future[Any]":
        """Hand a batch to the ranks."""
        if self._is_closed:
            raise EngineGone(f"{self.name} is closed")
        try:
            return self._executor.submit(function, *args)
        except RuntimeError as error:
            self._is_closed = True
            raise EngineGone(f"{self.name}: {said(error)}") from error

    def is_alive(self) -> bool:
        """Whether it is open. When a rank has died, and `mpiexec` has not killed us by the next look, we kill
        ourselves.
        """
        if self._has_lost_a_rank:
            os.killpg(0, signal.SIGKILL)
        self._has_lost_a_rank = not self._is_closed and bool(self._ranks.poll(0))
        return not self._is_closed

    def close(self) -> None:
        """Cancel what waits. What runs ends with the engine process."""
        self._is_closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


def _ranks_beside(rank_pid: int) -> select.poll:
    """Says which ranks of this machine have ended: those that the same launcher has started as the one with
    this pid. It never says any where that one runs elsewhere, and was not started for us.
    """
    ranks = select.poll()
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    launcher = parents.get(rank_pid, 0)
    above = launcher
    while above not in (0, os.getpid()):
        above = parents.get(above, 0)
    for pid, parent in parents.items():
        if above and parent == launcher:
            ranks.register(watch_end(pid), select.POLLIN)
    return ranks


def _prepare_process(name: str) -> None:
    """Have a process group of our own, for `mpiexec` to kill, and find `mpiexec`, which a wheel puts beside
    Python.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    folders = (os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))
    os.environ["PATH"] = os.pathsep.join(folders)
    if shutil.which("mpiexec") is None:
        raise EngineError(
            engine_says(name, "there is no mpiexec; pip install 'durable-bus[mpi]', or load your MPI")
        )
