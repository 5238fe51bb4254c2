"""Fixtures of the tests of workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_process import WorkerProcess

COROUTINES = pytest.param("pacing_async", id="async", marks=pytest.mark.slow)


@pytest.fixture(params=[pytest.param("pacing", id="sync"), COROUTINES])
def worker(request: pytest.FixtureRequest, journal: Path) -> Iterator[WorkerProcess]:
    """A worker whose listeners go by limits: with plain functions, and with coroutines."""
    with WorkerProcess(f"apps.{request.param}:bus", journal) as worker:
        yield worker
