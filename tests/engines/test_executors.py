"""Engines with real processes: what each does when workers, schedulers and engine processes die."""

import concurrent.futures
import contextlib
import gc
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from operator import le
from pathlib import Path
from typing import Any

import engine_jobs as jobs
import pytest
from imports import modules_after
from support import (
    PATIENCE_S,
    children_of,
    environment,
    is_alive,
    kill,
    program,
    until,
    until_gone,
)

from durable_bus.engines.executors import Engine, EngineGone, Fate, check_spec, open_engine
from durable_bus.engines.factory import FactoryEngine
from durable_bus.engines.one_each import OneEach, Pools
from durable_bus.errors import EngineError

# executorlib's, at its import, when pydantic is there; in the processes that it starts, too.
PYDANTIC = [
    "ignore:`pydantic.config.Extra` is deprecated:DeprecationWarning",
    "ignore:Support for class-based `config` is deprecated:DeprecationWarning",
]
pytestmark = [pytest.mark.filterwarnings(warning) for warning in PYDANTIC]
WARNINGS = ",".join([os.environ["PYTHONWARNINGS"], *PYDANTIC])
slow = pytest.mark.slow
NOTHING = (os.getpid,)
"""What workers do before their first batch."""
PACKAGES = {"loky": "loky", "executorlib": "executorlib", "dask": "distributed", "mpi": "mpi4py"}


def installed(kind: str) -> str:
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        pytest.skip(f"{PACKAGES[kind]} is not installed")
    return kind


ONE_EACH = [
    "process",
    pytest.param("loky", marks=slow),
    pytest.param("executorlib", marks=slow),
]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that engines start import what is beside this file."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("PYTHONWARNINGS", WARNINGS)


@pytest.fixture(params=ONE_EACH)
def engine(request: pytest.FixtureRequest, importable: None) -> Iterator[Engine]:
    """Two processes of our own."""
    with contextlib.closing(open_engine(f"{installed(request.param)}:2", NOTHING)) as opened:
        yield opened


def error_of(future: "Future[Any]") -> BaseException:
    try:
        error = future.exception(PATIENCE_S)
    except CancelledError as cancelled:
        return cancelled
    assert error is not None, "it has a result"
    return error


def until_there(path: Path) -> str:
    """Wait for what somebody else writes into a file."""
    return str(until(lambda: path.exists() and path.read_text(), str(path)))


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


@slow
@pytest.mark.parametrize("kind", ONE_EACH)
def test_close_leaves_no_process_thread_or_descriptor(kind: str, importable: None, tmp_path: Path) -> None:
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

    open_and_close(0)  # Python's own helper, which outlives it, is there from now on
    before = threads_and_descriptors()
    for number in (1, 2):
        open_and_close(number)
    until(
        lambda: gc.collect() >= 0 and all(map(le, threads_and_descriptors(), before)),
        "what it had is given back",
    )


def threads_and_descriptors() -> tuple[int, int, int]:
    """How many we have of each, after our children."""
    return len(children_of(os.getpid())), threading.active_count(), len(os.listdir("/proc/self/fd"))


ENGINE_PROCESS = """
import os, sys, time
import engine_jobs as jobs
from durable_bus.engines.executors import open_engine
if __name__ == "__main__":
    engine = open_engine(sys.argv[1], (os.getpid,))
    running = [engine.submit(jobs.wait_for, sys.argv[2], f"{sys.argv[3]}{i}") for i in range(2)]
    {then}
    time.sleep(600)
"""


def engine_process(tmp_path: Path, spec: str, then: str = "") -> tuple["subprocess.Popen[str]", list[int]]:
    """A process with an engine that runs two batches; and the processes that run them."""
    source = ENGINE_PROCESS.replace("{then}", then)
    arguments = (spec, str(tmp_path / "go"), str(tmp_path / "begun"))
    process = program(tmp_path / "engine.py", source, *arguments, PYTHONWARNINGS=WARNINGS)
    return process, [int(until_there(tmp_path / f"begun{index}")) for index in range(2)]


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


def descendants_of(pid: int) -> list[int]:
    children = children_of(pid)
    return [*children, *(more for child in children for more in descendants_of(child))]


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


class TestMpi:
    @slow
    def test_batches_run_in_ranks(self, tmp_path: Path) -> None:
        installed("mpi")
        then = "print(engine.capacity, engine.submit(jobs.backwards, b'abc').result(), flush=True)"
        (tmp_path / "go").touch()
        process, _ = engine_process(tmp_path, "mpi:2", then)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "2 b'cba'\n"
            process.kill()

    @slow
    def test_a_dead_rank_kills_the_engine_process_but_not_who_started_it(self, tmp_path: Path) -> None:
        installed("mpi")
        process, pids = engine_process(tmp_path, "mpi:2")
        with process:
            os.kill(pids[0], signal.SIGKILL)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
            until_gone(pids[1])


class Cluster:
    """A scheduler, and workers of one thread each."""

    def __init__(self, folder: Path) -> None:
        installed("dask")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._log = (folder / "dask.log").open("wb")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", self.address)

    def worker(self, *, nanny: bool = True) -> "subprocess.Popen[bytes]":
        # With a nanny the process that dies is started again.
        return self._start("worker", self.address, "--nthreads", "1", "--nanny" if nanny else "--no-nanny")

    def _start(self, what: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", what, *arguments, "--no-dashboard"]
        # Its own warnings are not ours to mend.
        quiet = environment(PYTHONWARNINGS="ignore")
        self.processes.append(subprocess.Popen(command, env=quiet, stdout=self._log, stderr=self._log))
        return self.processes[-1]

    def close(self) -> None:
        """Kill them all, nannies' workers too."""
        pids = [pid for process in self.processes for pid in descendants_of(process.pid)]
        for process in self.processes:
            process.kill()
            process.wait()
        for pid in pids:
            kill(pid)
        self._log.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.closing(Cluster(tmp_path)) as started:
        yield started


class TestDask:
    @slow
    def test_a_death_is_dasks_affair_until_the_fourth_which_makes_a_suspect(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        for _ in range(2):
            cluster.worker()
        with contextlib.closing(open_engine(f"dask:{cluster.address}", NOTHING)) as engine:
            assert engine.capacity in (1, 2)
            assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"
            assert engine.submit(jobs.die_at_first, str(tmp_path / "mark")).result(PATIENCE_S) == "second"
            assert engine.fate(error_of(engine.submit(jobs.die))) is Fate.LOST
            assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"
            assert engine.is_alive()

    @slow
    def test_a_late_batch_is_cancelled_then_the_scheduler_dies_and_the_engine_is_gone(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        worker = cluster.worker(nanny=False)
        begun, go = tmp_path / "begun", tmp_path / "go"
        with contextlib.closing(open_engine(f"dask:{cluster.address}", NOTHING)) as engine:
            running = engine.submit(jobs.wait_for, str(go), str(begun))
            assert int(until_there(begun)) == worker.pid
            waiting, late = engine.submit(jobs.pid), engine.submit(jobs.pid)
            engine.abandon(late)
            engine.abandon(running)
            assert engine.fate(error_of(late)) is Fate.RETURNED
            assert engine.fate(error_of(running)) is Fate.RETURNED
            go.touch()  # it runs to its end
            assert waiting.result(PATIENCE_S) == worker.pid
            in_flight = engine.submit(jobs.wait_for, str(tmp_path / "never"))
            cluster.scheduler.kill()
            until(lambda: not engine.is_alive(), "it is gone", patience_s=10)
            assert engine.fate(error_of(in_flight)) is Fate.GONE
            with pytest.raises(EngineGone):
                engine.submit(jobs.pid)

    @slow
    def test_it_waits_for_a_scheduler_and_a_worker_but_not_for_ever(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("durable_bus.engines.dask._WORKERS_S", 0.2)
        with pytest.raises(EngineError, match="has no worker"):
            open_engine(f"dask:{cluster.address}", NOTHING)
        monkeypatch.setattr("durable_bus.engines.dask._CONNECT_S", 0.2)
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        with pytest.raises(EngineError, match="no scheduler answers"):
            open_engine(f"dask:{cluster.address}", NOTHING)
        with pytest.raises(EngineError, match="no scheduler answers"):
            open_engine("dask:nothing://here", NOTHING)


class TestFactory:
    @slow
    def test_a_broken_pool_makes_all_it_had_suspects_and_is_made_again(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"
        with contextlib.closing(open_engine("engine_jobs:make_pool", NOTHING)) as engine:
            assert engine.capacity == 2
            other = engine.submit(jobs.wait_for, str(tmp_path / "never"), str(begun))
            pid = int(until_there(begun))
            killer = engine.submit(jobs.die)
            with contextlib.suppress(EngineGone):
                # Python's pool may not look at the process that it started last before it is woken again.
                engine.submit(jobs.pid)
            assert engine.fate(error_of(killer)) is Fate.LOST
            assert engine.fate(error_of(other)) is Fate.LOST
            assert engine.submit(jobs.backwards, b"abc").result(PATIENCE_S) == b"cba"
            assert engine.is_alive()
        until_gone(pid)
        assert not engine.is_alive()

    def test_a_factory_that_makes_no_second_executor_is_gone(self) -> None:
        made = [concurrent.futures.ThreadPoolExecutor(3)]
        engine = FactoryEngine("some:factory", lambda: made.pop())
        assert engine.capacity == 3
        assert engine.submit(jobs.backwards, b"abc").result() == b"cba"
        engine._executor.shutdown()  # type: ignore[union-attr]
        with pytest.raises(EngineGone, match="the factory raised IndexError") as gone:
            engine.submit(jobs.pid)
        assert engine.fate(gone.value) is Fate.GONE
        assert not engine.is_alive()
        engine.close()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("engine_jobs:nothing", "AttributeError"),
            ("no_such_module:make", "No module named 'no_such_module'"),
            ("engine_jobs:pid", "the factory returned a int, not a concurrent.futures.Executor"),
            ("os:sep", "is no callable"),
            ("builtins:map", "the factory raised TypeError"),
        ],
    )
    def test_a_factory_that_is_none_is_named(self, spec: str, message: str) -> None:
        with pytest.raises(EngineError, match=message):
            open_engine(spec, NOTHING)


class TestSpecs:
    @pytest.mark.parametrize(
        "spec",
        [
            "process",
            "process:4",
            "loky:1",
            "dask:tcp://h:1",
            "dask:h:1",
            "executorlib",
            "executorlib:2",
            "executorlib:slurm",
            "executorlib:flux:8",
            "mpi",
            "mpi:16",
            "a.module:factory",
        ],
    )
    def test_what_is_spelt_well_passes(self, spec: str) -> None:
        check_spec(spec)

    @pytest.mark.parametrize(
        "spec",
        [
            "",
            "fork",
            "process:",
            "process:0",
            "process:-1",
            "process:1.5",
            "process:²",
            "process:99999999999",
            "dask",
        ]
        + [
            "dask:",
            "dask:a b",
            "executorlib:pbs:2",
            "executorlib:slurm:",
            "mpi:x",
            "a:b:c",
            "a-b:c",
            "a:",
            ":b",
        ],
    )
    def test_what_is_not_is_refused_in_one_line(self, spec: str) -> None:
        with pytest.raises(EngineError) as refused:
            check_spec(spec)
        assert "\n" not in str(refused.value)
        assert spec in str(refused.value)

    @pytest.mark.parametrize("kind", ["loky", "executorlib", "dask", "mpi"])
    def test_a_package_that_is_missing_is_named_with_its_extra(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
        monkeypatch.delitem(sys.modules, f"durable_bus.engines.{kind}", raising=False)
        for module in [name for name in sys.modules if name.startswith(f"{PACKAGES[kind]}.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setenv("PATH", os.environ["PATH"])
        with pytest.raises(EngineError, match=rf"pip install 'durable-bus\[{kind}\]'"):
            open_engine(f"{kind}:1", NOTHING)

    def test_to_check_a_spec_imports_nothing_of_an_engine(self) -> None:
        loaded = modules_after("from durable_bus.engines.executors import check_spec; check_spec('dask:a:1')")
        heavy = {"dask", "distributed", "loky", "mpi4py", "executorlib", "multiprocessing"}
        assert not heavy & {name.partition(".")[0] for name in loaded}
        assert "concurrent.futures.process" not in loaded
