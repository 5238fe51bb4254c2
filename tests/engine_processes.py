"""Engines of real processes, for tests: what is installed, what has come, who is alive."""

import importlib.util
import os
import socket
import subprocess
import sys
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_S, children_of, environment, kill, program, until

__all__ = [
    "NOTHING",
    "PACKAGES",
    "PYDANTIC",
    "WARNINGS",
    "Cluster",
    "descendants_of",
    "engine_process",
    "error_of",
    "installed",
    "until_there",
]

# executorlib's, at its import, when pydantic is there; in the processes that it starts, too.
PYDANTIC = [
    "ignore:`pydantic.config.Extra` is deprecated:DeprecationWarning",
    "ignore:Support for class-based `config` is deprecated:DeprecationWarning",
]
WARNINGS = ",".join([os.environ["PYTHONWARNINGS"], *PYDANTIC])


NOTHING = (os.getpid,)
"""What workers do before their first batch."""
PACKAGES = {"loky": "loky", "executorlib": "executorlib", "dask": "distributed", "mpi": "mpi4py"}


def installed(kind: str) -> str:
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        pytest.skip(f"{PACKAGES[kind]} is not installed")
    return kind


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


ENGINE_PROCESS = """
import sys, time
import engine_jobs as jobs
from durable_bus.engines.executors import open_engine
if __name__ == "__main__":
    engine = open_engine(sys.argv[1], (jobs.pid,))
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


def descendants_of(pid: int) -> list[int]:
    children = children_of(pid)
    return [*children, *(more for child in children for more in descendants_of(child))]


class Cluster:
    """A scheduler, and workers of one thread each."""

    def __init__(self, folder: Path) -> None:
        installed("dask")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._log = (folder / "dask.log").open("wb")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Also another one, at the same address."""
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
