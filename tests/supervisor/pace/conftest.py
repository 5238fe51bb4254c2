"""Fixtures of the tests of what may start when."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starts import Starts

from durable_bus.journal.admin.check import check


@pytest.fixture
def starts(journal: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """What handlers of `apps.pace` note as they begin. The journal they leave is right."""
    path = journal.parent / "starts"
    monkeypatch.setenv("PACE_STARTS", str(path))
    yield Starts(path)
    assert [finding for finding in check(journal).checks if not finding.ok] == []
