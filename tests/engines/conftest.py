"""Fixtures of the tests of engines."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_processes import WARNINGS, Cluster
from support import environment


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that engines start import what is beside this file."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("PYTHONWARNINGS", WARNINGS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    with contextlib.closing(Cluster(tmp_path)) as started:
        yield started
