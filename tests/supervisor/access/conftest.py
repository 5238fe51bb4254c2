"""Fixtures of the tests of who may talk to a daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Service


@pytest.fixture
def service(journal: Path) -> Iterator[Service]:
    with Service(journal) as service:
        yield service
