"""Pools of one process each, of the standard library, of loky and of executorlib.

A process asks to die with the engine process before it waits for its first batch: it would wait for ever
where that has died meanwhile, as it holds both ends of what it waits at. With executorlib it does so by its
first task.
"""

import concurrent.futures
import math
import os
from typing import Any

from durable_bus.engines.one_each import Pools
from durable_bus.worker.beginning import die_with

__all__ = ["executorlib_pools", "loky_pools", "process_pools"]

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def process_pools() -> Pools:
    """Those of the standard library.

    A process is spawned, never forked: the engine process has threads, whose locks a fork would copy as
    they are.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    spawn = multiprocessing.get_context("spawn")

    def make() -> concurrent.futures.Executor:
        return ProcessPoolExecutor(1, mp_context=spawn, initializer=die_with, initargs=(os.getpid(),))

    def end(pool: concurrent.futures.Executor) -> None:
        pool.shutdown(wait=False)

    return Pools(make, end)


def loky_pools() -> Pools:
    """Those of loky: a function and its arguments may be what only cloudpickle can pickle."""
    from loky.process_executor import ProcessPoolExecutor

    def make() -> concurrent.futures.Executor:
        pool: concurrent.futures.Executor = ProcessPoolExecutor(
            1, initializer=_begin_in_loky, initargs=(os.getpid(),)
        )
        return pool

    def end(pool: Any) -> None:
        pool.shutdown(wait=False, kill_workers=True)

    return Pools(make, end)


def _begin_in_loky(parent_pid: int) -> None:
    """Do not end when memory has grown by 300 MB, to be replaced by a process of which we know nothing."""
    from loky import process_executor

    die_with(parent_pid)
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf


def executorlib_pools(scheduler: str) -> Pools:
    """Those of executorlib; on this machine, or each a job step of "slurm" or "flux".

    With more than one worker an executor hands a batch that killed its worker to the next worker, until all
    are dead, in spite of `restart_limit=0` (1.11). So here, too, each has one. Whether it is dead is looked
    at once a second.
    """
    import executorlib

    # Its processes are new Pythons that know nothing of our sys.path.
    folders = (_PACKAGE_PARENT, *filter(None, [os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    classes = {"": "SingleNodeExecutor", "slurm": "SlurmJobExecutor", "flux": "FluxJobExecutor"}
    executor_class = getattr(executorlib, classes[scheduler])
    is_local = not scheduler

    def make() -> concurrent.futures.Executor:
        pool: concurrent.futures.Executor = executor_class(
            max_workers=1,
            block_allocation=True,  # one process for all batches, not one for each
            disable_dependencies=True,
            hostname_localhost=is_local,
            restart_limit=0,
        )
        return pool

    def end(pool: Any) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    return Pools(make, end, is_local)
