"""Fixtures of the tests of behaviour."""

from pathlib import Path

import pytest
from support import Facts, RunLog


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where a test's journal will be."""
    return tmp_path / "journal.db"


@pytest.fixture
def facts(journal: Path) -> Facts:
    return Facts(journal)


@pytest.fixture
def run_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLog:
    """Where handlers write down what they run; supervisors and workers inherit the variable."""
    path = tmp_path / "runs.log"
    monkeypatch.setenv("RUN_LOG", str(path))
    return RunLog(path)
