"""What several tests of clients need."""

from pathlib import Path

import pytest


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for which gates wait."""
    path = tmp_path / "door"
    monkeypatch.setenv("GATE", str(path))
    return path
