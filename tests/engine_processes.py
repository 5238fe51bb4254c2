"""Engines of real processes, for tests: what is installed, what has come, who is alive."""

import importlib.util
import os
import subprocess
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE_S,
    children_of,
    program,
    until,
)

__all__ = [
    "NOTHING",
    "PACKAGES",
    "PYDANTIC",
    "WARNINGS",
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
