"""What every test of the simulation needs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.storage import fast_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    path = fast_folder()
    yield path
    shutil.rmtree(path)
