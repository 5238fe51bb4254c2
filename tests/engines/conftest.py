"""Fixtures of the tests of engines."""

import pytest
from engine_processes import WARNINGS
from support import (
    environment,
)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that engines start import what is beside this file."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("PYTHONWARNINGS", WARNINGS)
