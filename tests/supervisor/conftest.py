"""Fixtures of the tests of streams."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Service
from streams import Connections
from support import RunLog

from durable_bus.journal.admin.check import check


@pytest.fixture
def streaming(journal: Path, run_log: RunLog) -> Iterator[Service]:
    """A daemon; what it leaves is right."""
    with Service(journal) as service:
        yield service
    assert [finding for finding in check(journal).checks if not finding.ok] == []


@pytest.fixture
def connect(journal: Path) -> Iterator[Connections]:
    connections = Connections(journal)
    with connections.stack:
        yield connections
