"""Engines that start processes of their own: one death costs one batch, and nothing is left behind."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import engine_jobs as jobs
import pytest
from engine_processes import (
    NOTHING,
    PYDANTIC,
    descendants_of,
    engine_process,
    error_of,
    installed,
    until_there,
)
from support import (
    PATIENCE_S,
    children_of,
    is_alive,
    kill,
    program,
    until,
    until_gone,
)

from durable_bus.engines.executors import Engine, EngineGone, Fate, open_engine
from durable_bus.engines.one_each import OneEach, Pools

pytestmark = [pytest.mark.filterwarnings(warning) for warning in PYDANTIC]
slow = pytest.mark.slow
ONE_EACH = [
    "process",
    pytest.param("loky", marks=slow),
    pytest.param("executorlib", marks=slow),
]


@pytest.fixture(params=ONE_EACH)
def engine(request: pytest.FixtureRequest, importable: None) -> Iterator[Engine]:
    """Two processes of our own."""
    with contextlib.closing(open_engine(f"{installed(request.param)}:2", NOTHING)) as opened:
        yield opened


class TestProcessesOfOurOwn:
    def test_a_death_makes_one_suspect_and_the_others_run_on(self, engine: Engine, tmp_path: Path) -> None:
        assert engine.capacity == 2
        assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"
        begun, go = tmp_path / "begun", tmp_path / "go"
        other = engine.submit(jobs.wait_for, str(go), str(begun))
        until_there(begun)
        killer, waiting = engine.submit(jobs.die), engine.submit(jobs.backwards, b"next")
        assert engine.fate(error_of(killer)) is Fate.LOST
        assert waiting.result(PATIENCE_S) == b"txen"
        go.touch()
        assert other.result(PATIENCE_S) == "done"
        assert engine.is_alive()

    @slow
    def test_a_process_that_dies_with_nothing_to_do_costs_nobody_anything(self, engine: Engine) -> None:
        for _ in range(3):
            kill(engine.submit(jobs.pid).result(PATIENCE_S))
        assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"

    @slow
    def test_a_late_batch_is_killed_or_cancelled_and_no_other(self, engine: Engine, tmp_path: Path) -> None:
        go = tmp_path / "go"
        marks = [tmp_path / "first", tmp_path / "second"]
        late, other = (engine.submit(jobs.wait_for, str(go), str(mark)) for mark in marks)
        pids = [int(until_there(mark)) for mark in marks]
        waiting = engine.submit(jobs.pid)
        engine.abandon(waiting)
        assert engine.fate(error_of(waiting)) is Fate.RETURNED
        engine.abandon(late)
        until_gone(pids[0])
        assert engine.fate(error_of(late)) is Fate.LOST
        assert engine.submit(jobs.pid).result(PATIENCE_S) not in pids
        go.touch()
        assert other.result(PATIENCE_S) == "done"
        engine.abandon(other)  # too late: it has its result, and its process does something else
        assert engine.submit(jobs.pid).result(PATIENCE_S)
        assert is_alive(pids[1])

    @slow
    def test_an_answer_that_is_cut_off_makes_a_suspect(self, engine: Engine) -> None:
        assert engine.fate(error_of(engine.submit(jobs.die_while_answering, 400_000_000))) is Fate.LOST
        assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"

    @slow
    def test_its_processes_have_nothing_of_ours_and_leave_ctrl_c_to_us(self, engine: Engine) -> None:
        read_fd, write_fd = os.pipe()
        mine = os.readlink(f"/proc/self/fd/{read_fd}")
        kill(engine.submit(jobs.pid).result(PATIENCE_S))
        pid = engine.submit(jobs.pid).result(PATIENCE_S)
        assert mine not in {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        os.kill(pid, signal.SIGINT)
        pids = set()
        while pid not in pids:  # two processes take turns as they like
            pids.add(engine.submit(jobs.pid).result(PATIENCE_S))
        os.close(read_fd)
        os.close(write_fd)


def stacks(threads: set[threading.Thread]) -> str:
    """Where they are."""
    frames = sys._current_frames()
    told = [(thread, frames[thread.ident]) for thread in threads if thread.ident in frames]
    return "\n".join(f"{thread}\n{''.join(traceback.format_stack(frame))}" for thread, frame in told)


@slow
@pytest.mark.parametrize("kind", ONE_EACH)
def test_close_leaves_no_process_thread_or_descriptor(kind: str, importable: None, tmp_path: Path) -> None:
    """Also while one of its processes still boots."""

    def open_and_close(number: int) -> None:
        mark = tmp_path / f"begun{number}"
        with contextlib.closing(open_engine(f"{installed(kind)}:2", NOTHING)) as engine:
            running = engine.submit(jobs.wait_for, str(tmp_path / "never"), str(mark))
            pid = int(until_there(mark))
        until_gone(pid)
        assert engine.fate(error_of(running)) in (Fate.LOST, Fate.GONE)
        assert not engine.is_alive()
        with pytest.raises(EngineGone) as gone:
            engine.submit(jobs.pid)
        assert engine.fate(gone.value) is Fate.GONE
        engine.close()
        try:
            until(lambda: set(threading.enumerate()) <= threads, "its threads end")
        except AssertionError:
            raise AssertionError(stacks(set(threading.enumerate()) - threads)) from None

    threads = set(threading.enumerate())
    open_and_close(0)  # Python's own helpers, which outlive it, are there from now on
    children, descriptors = children_and_descriptors()

    def all_is_given_back() -> bool:
        children_now, descriptors_now = children_and_descriptors()
        return children_now <= children and descriptors_now <= descriptors

    for number in (1, 2):
        open_and_close(number)
    until(all_is_given_back, "its processes end, and its pipes are closed")


def children_and_descriptors() -> tuple[set[int], int]:
    """Which children live, and how many descriptors are open, after what nobody refers to has gone.

    Python keeps a process that has ended, and a pipe of it, until it is asked or starts the next one, where
    its pool has not waited for it. loky sometimes does not.
    """
    multiprocessing.active_children()
    gc.collect()
    return set(children_of(os.getpid())), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=slow) for kind in ("process", "loky", "executorlib", "mpi")]
)
def test_who_kills_the_engine_process_kills_all_that_it_started(kind: str, tmp_path: Path) -> None:
    process, pids = engine_process(tmp_path, f"{installed(kind)}:2")
    with process:
        everybody = descendants_of(process.pid)
        assert set(pids) <= set(everybody)
        process.kill()
        for pid in everybody:
            until_gone(pid)


@pytest.mark.parametrize("kind", ["process", pytest.param("loky", marks=slow)])
def test_a_process_that_has_been_told_nothing_ends_with_the_engine_process_too(
    kind: str, tmp_path: Path
) -> None:
    """It waits for its first batch, and both ends of what it waits at are its own: it is told of no end."""
    installed(kind)
    with program(tmp_path / "has_a_process.py", HAS_A_PROCESS.replace("KIND", kind)) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        until_gone(pid)


HAS_A_PROCESS = """
import os, signal
from durable_bus.engines.pools_of_one import KIND_pools
if __name__ == "__main__":
    pool = KIND_pools().make()
    print(pool.submit(os.getpid).result(), flush=True)
    signal.pause()
"""


@slow
def test_processes_outlive_the_thread_that_submitted(tmp_path: Path) -> None:
    """The kernel kills a child that asked for it when the thread that started it ends, not the process."""
    with contextlib.closing(open_engine("process:1", NOTHING)) as engine:
        submitted: list[Future[int]] = []
        thread = threading.Thread(target=lambda: submitted.append(engine.submit(jobs.pid)))
        thread.start()
        thread.join()
        pid = submitted[0].result(PATIENCE_S)
        assert engine.submit(jobs.pid).result(PATIENCE_S) == pid


def test_an_engine_whose_processes_never_start_is_gone() -> None:
    def make() -> concurrent.futures.Executor:
        raise BrokenProcessPool("as if it died in boot")

    engine = OneEach("process:2", 2, Pools(make, lambda pool: None), NOTHING)
    until(lambda: not engine.is_alive(), "it gives up")
    with pytest.raises(EngineGone, match="no process starts: as if it died in boot"):
        engine.submit(jobs.pid)
    engine.close()
