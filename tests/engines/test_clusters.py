"""Engines on dask and MPI: what dies with a worker, a rank, a scheduler."""

import contextlib
import os
import signal
from pathlib import Path

import engine_jobs as jobs
import pytest
from engine_processes import NOTHING, Cluster, engine_process, error_of, installed, until_there
from support import (
    PATIENCE_S,
    until,
    until_gone,
)

from durable_bus.engines.executors import EngineGone, Fate, open_engine
from durable_bus.errors import EngineError

slow = pytest.mark.slow


class TestMpi:
    @slow
    def test_batches_run_in_ranks(self, tmp_path: Path) -> None:
        installed("mpi")
        answer = tmp_path / "answer"
        # Not by stdout, on which MPI may say what it does not find on this machine.
        said = "str(engine.capacity) + str(engine.submit(jobs.backwards, b'abc').result())"
        (tmp_path / "go").touch()
        process, _ = engine_process(tmp_path, "mpi:2", f"jobs.Path({str(answer)!r}).write_text({said})")
        with process:
            try:
                assert until_there(answer) == "2b'cba'"
            finally:
                process.kill()

    @slow
    def test_a_dead_rank_kills_the_engine_process_but_not_who_started_it(self, tmp_path: Path) -> None:
        installed("mpi")
        process, pids = engine_process(tmp_path, "mpi:2")
        with process:
            os.kill(pids[0], signal.SIGKILL)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
            until_gone(pids[1])


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
